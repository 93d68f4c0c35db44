"""Groups on the real brokers: once, in order, whatever is cut, killed, divided anew or not understood."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from private_services.control import Control
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tests.inbound.real import Ordered, Paired, charging, items
from tests.inbound.shops import in_order
from tests.relay.real import BROKERS
from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy
from tidings import Subscriptions
from tidings.codecs.cloudevents import encode_batch
from tidings.codecs.message import CloudEvent, Message
from tidings.transports.base import Outgoing

SECONDS = 60.0


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, request.getfixturevalue(f"{request.param}_url")


async def handled(world: World, count: int) -> None:
    await until(lambda: len(world.effects()) >= count, f"{count} effects", SECONDS)


async def test_what_one_service_publishes_another_handles_once_and_in_order(world: World, broker: tuple[str, str]) -> None:
    pair = Paired(world, broker)
    events = items(1, 500)
    async with pair.receiving() as receiver, pair.publishing() as publisher:
        for first in range(0, 500, 100):
            await world.publish(publisher, *events[first : first + 100])
        await handled(world, 500)
        await until(lambda: receiver._runtime is not None and receiver._runtime.subscribers[0].idle, seconds=SECONDS)
    assert in_order(world.effects(), events)  # type: ignore[arg-type]
    # And it goes on where it was.
    async with pair.receiving() as receiver, pair.publishing() as publisher:
        await world.publish(publisher, *items(501, 510))
        await handled(world, 510)
    assert len(world.effects()) == 510


async def test_structured_mode_is_handled_as_binary_mode_is_and_a_list_is_dead(world: World, broker: tuple[str, str]) -> None:
    pair = Paired(world, broker, wire="structured")
    events = items(1, 50)
    async with pair.receiving() as receiver, pair.publishing() as publisher:
        await world.publish(publisher, *events[:40], headers={"mine": "x"})
        await handled(world, 40)
        channel = await pair.transport().publisher()
        (outcome,) = await channel.publish([Outgoing(pair.topic, encode_batch([CloudEvent("1", "/", "item.ordered.v1", b"{}")]))])
        await channel.close()
        assert outcome.kind == "confirmed"
        await world.publish(publisher, *events[40:])
        await handled(world, 50)
        await until(lambda: receiver._runtime is not None and receiver._runtime.subscribers[0].idle, seconds=SECONDS)
    assert in_order(world.effects(), events)  # type: ignore[arg-type]
    ((reason, message, data),) = world.rows("select reason, error_message, data from tidings_deliveries")
    assert reason == "undecodable"
    assert "application/cloudevents-batch+json is a list" in message
    assert b'"item.ordered.v1"' in bytes(data)


async def test_groups_without_order_get_everything_once(pg_world: World, broker: tuple[str, str]) -> None:
    pair = Paired(pg_world, broker)
    events = items(1, 300)
    async with pair.receiving(charging(ordered=False)), pair.publishing() as publisher:
        await pg_world.publish(publisher, *events)
        await handled(pg_world, 300)
    assert sorted(number for _, number in pg_world.effects()) == list(range(1, 301))


async def test_two_processes_divide_a_group_anew_and_keep_order(pg_world: World, broker: tuple[str, str]) -> None:
    """One comes, one goes, while events flow; on Kafka partitions move, elsewhere one of them is active."""
    pair = Paired(pg_world, broker)
    events = items(1, 3000, keys=50)
    first, second = pair.receiving(), pair.receiving(engine=pg_world.another_engine())

    async def publish(publisher: Any) -> None:
        for start in range(0, 3000, 50):
            await pg_world.publish(publisher, *events[start : start + 50])
            await asyncio.sleep(0.05)

    async with pair.publishing() as publisher:
        await first.start()
        publishing = asyncio.create_task(publish(publisher))
        await handled(pg_world, 300)
        await second.start()
        await handled(pg_world, 1200)
        await first.stop()
        await publishing
        await handled(pg_world, 3000)
        await second.stop()
    assert in_order(pg_world.effects(), events)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["rabbitmq", "nats", "redis"])
async def test_cut_connections_lose_nothing_and_invert_no_key(pg_world: World, name: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{name}_url")
    proxy = Proxy(url)
    await proxy.start()
    pair = Paired(pg_world, (name, url))
    events = items(1, 2000, keys=50)
    async with pair.receiving(transport=pair.transport(proxy.url)), pair.publishing() as publisher:

        async def publish() -> None:
            for first in range(0, 2000, 50):
                await pg_world.publish(publisher, *events[first : first + 50])
                await asyncio.sleep(0.02)

        async def cut() -> None:
            for number in range(5):
                await asyncio.sleep(0.2)
                await proxy.stop()
                await asyncio.sleep(0.05 * (number % 3))
                await proxy.start()

        await asyncio.gather(publish(), cut())
        await handled(pg_world, 2000)
    await proxy.stop()
    assert in_order(pg_world.effects(), events)  # type: ignore[arg-type]
    assert pg_world.deliveries() == []


@pytest.fixture(scope="module", params=list(BROKERS))
def own_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Control, str]]:
    name = request.param
    with private(name, Control(Path(tmp_path_factory.mktemp(f"inbound-{name}")), say=lambda _sentence: None)) as (control, url):
        yield name, control, url


async def test_a_broker_that_is_killed_and_comes_back(pg_world: World, own_broker: tuple[str, Control, str]) -> None:
    name, control, url = own_broker
    pair = Paired(pg_world, (name, url))
    events = items(1, 1500, keys=50)
    crash = Crash(control, name)
    async with pair.receiving(), pair.publishing() as publisher:
        if name == "rabbitmq":
            # RabbitMQ 3.10 writes down what a quorum queue is called three seconds after its declaration.
            await asyncio.sleep(4)
        await pg_world.publish(publisher, *events[:500])
        await handled(pg_world, 200)
        await crash.stop()
        await pg_world.publish(publisher, *events[500:])
        await until_equal(lambda: pg_world.one("select breaker from tidings_subscriptions where name like 'inbound:%'"), "open", SECONDS)
        await crash.start()
        await handled(pg_world, 1500)
        await until_equal(lambda: pg_world.one("select breaker from tidings_subscriptions where name like 'inbound:%'"), None, SECONDS)
    assert in_order(pg_world.effects(), events)  # type: ignore[arg-type]


async def test_garbage_is_kept_and_everything_else_flows(pg_world: World, broker: tuple[str, str]) -> None:
    pair = Paired(pg_world, broker)
    transport = pair.transport()
    async with pair.receiving() as receiver, pair.publishing() as publisher:
        await pg_world.publish(publisher, *items(1, 5))
        await handled(pg_world, 5)
        raw = await transport.publisher()
        for number in range(3):
            (outcome,) = await raw.publish([Outgoing(pair.topic, Message({"colour": "red"}, b"\xff?%d" % number, key="k"))])
            assert outcome.kind == "confirmed"
        await raw.close()
        await pg_world.publish(publisher, *items(6, 10))
        await handled(pg_world, 10)
        await until_equal(lambda: len(pg_world.deliveries()), 3, SECONDS)
        await until(lambda: receiver._runtime is not None and receiver._runtime.subscribers[0].idle, seconds=SECONDS)
    kept = sorted(bytes(row[0]) for row in pg_world.rows("select data from tidings_deliveries"))
    assert kept == [b"\xff?0", b"\xff?1", b"\xff?2"]
    # It is not delivered again.
    async with pair.receiving() as receiver, pair.publishing() as publisher:
        await pg_world.publish(publisher, *items(11, 12))
        await handled(pg_world, 12)
        assert receiver.counters.of("dead") == 0


async def test_cap_is_understood_and_replied_to(pg_world: World, broker: tuple[str, str]) -> None:
    """As a .NET service would ask, and get its answer."""
    from tests.inbound.replies import Answered, answering, answers

    pair = Paired(pg_world, broker, wire="cap")
    transport = pair.transport()
    reply_topic = f"item.answered.{pair.mine}"
    await transport.provision([pair.topic, reply_topic], {f"dotnet-{pair.mine}": [reply_topic]})
    async with pair.receiving(answering(), contracts=answers):
        raw = await transport.publisher()
        headers: dict[str, str | bytes | None] = {
            "cap-msg-id": "8378589804052043001", "cap-corr-id": "77", "cap-corr-seq": "3", "cap-msg-name": pair.topic,
            "cap-msg-type": "Ordered", "cap-senttime": "07/01/2026 19:44:38", "cap-callback-name": reply_topic,
        }  # fmt: skip
        body = b'{"order_id":"a","number":4}'
        (outcome,) = await raw.publish([Outgoing(pair.topic, Message(headers, body, None, "8378589804052043001", "8378589804052043001"))])
        assert outcome.kind == "confirmed"
        await raw.close()
        receiver = await transport.receiver(f"dotnet-{pair.mine}", [reply_topic])
        found: list[Any] = []
        async with asyncio.timeout(SECONDS):
            while not found:
                found = list(await receiver.receive(10, 1.0))
        await receiver.close()
    assert Answered.__name__ == "Answered"
    message = found[0].message
    given = {name: value.decode() if isinstance(value, bytes) else value for name, value in message.headers.items()}
    assert (given["cap-corr-id"], given["cap-corr-seq"], given["cap-msg-name"]) == ("8378589804052043001", "4", reply_topic)
    assert message.body == b'{"order_id":"a","number":5}'
    assert pg_world.effects() == [("a", 4)]


async def test_plain_handlers_are_called(pg_world: World, broker: tuple[str, str]) -> None:
    pair = Paired(pg_world, broker)
    handlers = Subscriptions()
    called: list[int] = []

    @handlers.subscribe(Ordered)
    async def send(event: Ordered) -> None:
        called.append(event.number)

    async with pair.receiving(handlers) as receiver, pair.publishing() as publisher:
        await pg_world.publish(publisher, *items(1, 200))
        await until(lambda: len(called) == 200, seconds=SECONDS)
        await until(lambda: receiver._runtime is not None and receiver._runtime.subscribers[0].idle, seconds=SECONDS)
    assert sorted(called) == list(range(1, 201))


async def test_a_slow_event_holds_back_its_own_key_only(pg_world: World, broker: tuple[str, str]) -> None:
    pair = Paired(pg_world, broker)
    handlers = Subscriptions()
    gate = asyncio.Event()

    @handlers.subscribe(Ordered, concurrency=2)
    async def charge(event: Ordered, session: AsyncSession) -> None:
        await effect(session, "charge", event)
        if event.number == 1:
            await gate.wait()

    service = pair.receiving(handlers)
    service.tuning.slow = 0.3
    async with service, pair.publishing() as publisher:
        await pg_world.publish(publisher, *items(1, 70))
        await handled(pg_world, 60)
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle, seconds=SECONDS)
        gate.set()
        await handled(pg_world, 70)
    assert in_order(pg_world.effects(), items(1, 70))  # type: ignore[arg-type]
