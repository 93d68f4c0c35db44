"""Relays to the real brokers: whose connections are cut, which are killed and started again, and which refuse what they cannot take."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cloudevents.core.formats.json import JSONFormat
from private_services.control import Control

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.relay.real import BROKERS, arrivals, group_of, messages, transport_to, without_streams
from tests.relay.sent import in_order, relaying
from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy


def orders(mine: str, first: int, last: int, keys: int = 7) -> list[OrderPlaced]:
    return [OrderPlaced(f"{mine}{number % keys}", number) for number in range(first, last + 1)]


@pytest.fixture
def mine() -> str:
    """What the keys of this test begin with: brokers are shared, and keep what others sent."""
    return f"{uuid4().hex[:8]}-"


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, request.getfixturevalue(f"{request.param}_url")


async def test_what_is_committed_arrives_in_order(world: World, broker: tuple[str, str], mine: str) -> None:
    transport = transport_to(*broker)
    group = await group_of(transport)
    events = orders(mine, 1, 500)
    async with relaying(world, transport) as service:
        for first in range(0, 500, 100):
            await world.publish(service, *events[first : first + 100])
        found = await arrivals(transport, group, events, mine=mine)
    assert len(found) == 500
    assert in_order(found, events)


async def test_cap_is_written_when_it_is_asked_for(pg_world: World, broker: tuple[str, str], mine: str) -> None:
    transport = transport_to(*broker, wire="cap")
    await without_streams(*broker)
    try:
        group = await group_of(transport)
        async with relaying(pg_world, transport) as service:
            await pg_world.publish(service, OrderPlaced(f"{mine}a", 1), headers={"cap-callback-name": "replies"})
            message = (await messages(transport, group, mine))[0]
    finally:
        await without_streams(*broker)
    headers = {name: value.decode() if isinstance(value, bytes) else value for name, value in message.headers.items()}
    assert headers["cap-msg-name"] == "order.placed"
    assert headers["cap-callback-name"] == "replies"
    assert headers["cap-msg-id"] == str(pg_world.published("order.placed")[0]["id"])


async def test_structured_mode_is_written_when_it_is_asked_for(pg_world: World, broker: tuple[str, str], mine: str) -> None:
    transport = transport_to(*broker, wire="structured")
    group = await group_of(transport)
    async with relaying(pg_world, transport) as service:
        await pg_world.publish(service, OrderPlaced(f"{mine}a", 1), headers={"mine": "x"})
        message = (await messages(transport, group, mine))[0]
    event = JSONFormat().read(None, message.body or b"")
    (row,) = pg_world.published("order.placed")
    assert (event.get_id(), event.get_type(), event.get_source()) == (str(row["id"]), "order.placed.v1", "/shop")
    assert event.get_extension("partitionkey") == f"{mine}a"
    assert event.get_data() == {"order_id": f"{mine}a", "number": 1}
    assert message.content_type == "application/cloudevents+json"
    assert {name: value if isinstance(value, str) else (value or b"").decode() for name, value in message.headers.items()} == {
        "mine": "x", **({"cloudEvents_partitionkey": f"{mine}a"} if broker[0] == "rabbitmq" else {}),
    }  # fmt: skip


# A connection that the proxy accepts at the moment in which it is stopped belongs to nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["rabbitmq", "nats", "redis"])
async def test_cut_connections_lose_nothing_and_invert_no_key(world: World, name: str, request: pytest.FixtureRequest, mine: str) -> None:
    """Kafka tells its clients where it is, so they would pass by the proxy."""
    proxy = Proxy(request.getfixturevalue(f"{name}_url"))
    await proxy.start()
    direct = transport_to(name, request.getfixturevalue(f"{name}_url"))
    group = await group_of(direct)
    events = orders(mine, 1, 3000, keys=50)
    async with relaying(world, transport_to(name, proxy.url)) as service:

        async def publish() -> None:
            for first in range(0, 3000, 50):
                await world.publish(service, *events[first : first + 50])
                await asyncio.sleep(0.01)

        async def cut() -> None:
            for number in range(5):
                await asyncio.sleep(0.15)
                await proxy.stop()
                await asyncio.sleep(0.05 * (number % 3))
                await proxy.start()

        await asyncio.gather(publish(), cut())
        found = await arrivals(direct, group, events, mine=mine)
    await proxy.stop()
    assert in_order(found, events)
    assert world.deliveries() == []


@pytest.fixture(scope="module", params=list(BROKERS))
def own_broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Control, str]]:
    name = request.param
    with private(name, Control(Path(tmp_path_factory.mktemp(f"relay-{name}")), say=lambda _sentence: None)) as (control, url):
        yield name, control, url


async def test_a_broker_that_is_killed_and_comes_back_gets_everything(
    pg_world: World, own_broker: tuple[str, Control, str], mine: str
) -> None:
    name, control, url = own_broker
    transport = transport_to(name, url)
    group = await group_of(transport)
    if name == "rabbitmq":
        # RabbitMQ 3.10 writes down what a quorum queue is called three seconds after its declaration.
        await asyncio.sleep(4)
    events = orders(mine, 1, 2000, keys=50)
    crash = Crash(control, name)
    async with relaying(pg_world, transport) as service:
        await pg_world.publish(service, *events[:500])
        await until(lambda: service.counters.of("relayed") >= 500, seconds=60)
        killing = asyncio.create_task(crash.stop())
        for first in range(500, 1500, 50):
            await pg_world.publish(service, *events[first : first + 50])
            await asyncio.sleep(0.02)
        await killing
        await until(lambda: pg_world.one("select breaker from tidings_subscriptions where name like 'relay:%'") == "open", seconds=60)
        # Nothing of it is in memory.
        assert service._runtime is not None
        assert service._runtime.relays[0]._session is None
        await pg_world.publish(service, *events[1500:])
        await crash.start()
        found = await arrivals(transport, group, events, mine=mine)
        await until(lambda: pg_world.one("select breaker from tidings_subscriptions where name like 'relay:%'") is None, seconds=30)
    # What was confirmed is not sent again, but for what was under way.
    assert in_order(found, events)
    assert pg_world.deliveries() == []


async def test_what_no_queue_takes_is_parked_and_sent_when_one_does(world: World, rabbitmq_url: str, mine: str) -> None:
    transport = transport_to("rabbitmq", rabbitmq_url, exchange=f"unbound-{uuid4().hex[:8]}")
    events = orders(mine, 1, 20, keys=3)
    async with relaying(world, transport) as service:
        await world.publish(service, *events)
        await until_equal(lambda: sum(row[2] for row in world.lanes()), 20)
        assert "no queue is bound" in world.one("select error_message from tidings_deliveries where error_message is not null limit 1")
        group = await group_of(transport)
        await until(lambda: all(row[1] == "dead" for row in world.lanes()) or not world.lanes(), seconds=40)
        await service.operations.redrive()
        found = await arrivals(transport, group, events, mine=mine)
        await until_equal(world.lanes, [])
    assert in_order(found, events)


@pytest.mark.parametrize("name", ["rabbitmq", "redis", "kafka"])
async def test_what_is_too_large_is_parked_and_everything_else_flows(
    world: World, name: str, request: pytest.FixtureRequest, mine: str
) -> None:
    transport = transport_to(name, request.getfixturevalue(f"{name}_url"), most=20_000)
    group = await group_of(transport)
    before, after = orders(mine, 1, 50), orders(mine, 52, 100)
    flowing = [event for event in after if not event.order_id.endswith("-1")]
    async with relaying(world, transport) as service:
        await world.publish(service, *before)
        await world.publish(service, OrderPlaced(f"{mine}1", 51), headers={f"h{number}": "x" * 4000 for number in range(10)})
        await world.publish(service, *after)
        await until_equal(lambda: world.one("select count(*) from tidings_deliveries"), 1 + len(after) - len(flowing))
        assert "20,000" in world.one("select error_message from tidings_deliveries where error_message is not null")
        found = await arrivals(transport, group, [*before, *flowing], mine=mine)
    assert in_order(found, [*before, *flowing])
