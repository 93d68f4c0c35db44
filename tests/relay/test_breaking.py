"""A message of which the connection breaks whenever it is sent is parked; a broker that is down, or breaks of everything, parks nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.relay.real import arrivals, group_of, transport_to
from tests.relay.sent import first_sendings, in_order, numbers, orders, relaying, sent
from tests.transports.failing import Proxy
from tidings.testing.memory import Memory
from tidings.transports.base import Failure, Outgoing

FAILURES: list[Failure] = ["atomic", "prefix", "independent"]


@pytest.fixture(params=FAILURES)
def broker(request: pytest.FixtureRequest) -> Memory:
    return Memory(request.param)


def breaking(*wanted: int) -> Callable[[Outgoing], bool]:
    return lambda outgoing: json.loads(outgoing.message.body or b"")["number"] in wanted


def parked(world: World) -> list[tuple[str | None, str]]:
    """Return (key, reason) of what is parked."""
    return [(key, reason) for key, reason, _, _ in world.deliveries()]


async def test_the_message_is_found_and_parked_and_everything_else_flows(world: World, broker: Memory) -> None:
    broker.breaks = breaking(10)
    events = orders(1, 100)
    async with relaying(world, broker) as service:
        await world.publish(service, *events)
        others = [event for event in events if event.number % 7 != 3 or event.number == 3]
        await until_equal(lambda: len(first_sendings(sent(broker))), len(others), seconds=30)
        await until_equal(lambda: parked(world)[:1], [("k3", "failed")])
        await until_equal(world.lanes, [("k3", "dead", 13, 1)])
        message = world.one("select error_message from tidings_deliveries where error_message is not null")
        assert message == "the connection breaks whenever it is sent, and carries others: the connection broke before the confirmation"
        # The relay is what it was before.
        assert service._runtime is not None
        relay = service._runtime.relays[0]
        await until(lambda: relay.idle and relay._session is not None and not relay._session._line.one_by_one)
        await world.publish(service, *[event for event in orders(101, 200) if event.number % 7 != 3])
        await until(lambda: 200 in numbers(sent(broker)))
        # Redriven, it breaks connections again, and is parked again.
        assert await service.operations.redrive(subscription="relay:memory") == 1
        await until(lambda: world.lanes()[0][1] != "dead")
        for number in range(201, 400):
            await world.publish(service, OrderPlaced("k1", number))
            if world.lanes()[0][1] == "dead":
                break
            await asyncio.sleep(0.05)
        await until_equal(world.lanes, [("k3", "dead", 13, 1)])
        # And once nothing breaks of it any more, it goes, and what waits behind it.
        broker.breaks = lambda _: False
        await service.operations.redrive(subscription="relay:memory")
        await until_equal(world.lanes, [])
        await until(lambda: {event.number for event in events} <= set(numbers(sent(broker))))
    k3 = [number for key, number in first_sendings(sent(broker)) if key == "k3"]
    assert k3 == [event.number for event in events if event.order_id == "k3"]


async def test_two_of_them_are_both_found(world: World, broker: Memory) -> None:
    broker.breaks = breaking(10, 33)
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(1, 60))
        await until_equal(lambda: [(row[0], row[1]) for row in world.lanes()], [("k3", "dead"), ("k5", "dead")], seconds=30)
        flowing = [event for event in orders(1, 60) if event.number % 7 not in (3, 5) or event.number in (3, 5, 12, 19, 26)]
        await until(lambda: {event.number for event in flowing} == set(numbers(sent(broker))))


async def test_alone_it_is_not_parked_before_another_one_gets_through(world: World, broker: Memory) -> None:
    broker.breaks = breaking(1)
    service = relaying(world, broker)
    tries = 0

    def count(outgoing: Outgoing) -> bool:
        nonlocal tries
        broke = breaking(1)(outgoing)
        tries += broke
        return broke

    broker.breaks = count
    async with service:
        await world.publish(service, *orders(1, 1))
        # Who says that it is not the broker?
        await until(lambda: tries >= 8, seconds=40)
        assert parked(world) == []
        for number in range(2, 200):
            await world.publish(service, OrderPlaced(f"other{number}", number))
            if world.lanes():
                break
            await asyncio.sleep(0.05)
        await until_equal(lambda: [(row[0], row[1]) for row in world.lanes()], [("k1", "dead")])


async def test_a_broker_that_breaks_of_everything_parks_nothing(world: World, broker: Memory) -> None:
    """It takes connections, and breaks them at the first message, for long."""
    broker.breaks = lambda _: True
    async with relaying(world, broker) as service:
        service.tuning.lease = 60.0
        await world.publish(service, *orders(1, 50))
        await until(lambda: service._runtime is not None and service._runtime.relays[0].reach._failed >= 15, seconds=40)
        assert world.deliveries() == []
        broker.breaks = lambda _: False
        await until_equal(lambda: len(sent(broker)), 50)
    assert in_order(sent(broker), orders(1, 50))
    assert world.deliveries() == []


async def test_connections_that_break_now_and_then_park_nothing(world: World, broker: Memory) -> None:
    messages = 0

    def every_fifth(_outgoing: Outgoing) -> bool:
        nonlocal messages
        messages += 1
        return messages % 5 == 0

    broker.breaks = every_fifth
    events = orders(1, 150, keys=50)
    async with relaying(world, broker) as service:
        await world.publish(service, *events)
        await until(lambda: len(set(sent(broker))) >= 20, seconds=40)
        broker.breaks = lambda _: False
        await until_equal(lambda: len(set(sent(broker))), 150)
    assert in_order(sent(broker), events)
    assert world.deliveries() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["rabbitmq", "nats", "redis"])
async def test_bytes_that_a_proxy_does_not_let_through_stop_nothing_else(
    pg_world: World, name: str, request: pytest.FixtureRequest
) -> None:
    """Kafka tells its clients where it is, so they would pass by the proxy."""
    world, mine = pg_world, f"{uuid4().hex[:8]}-"
    url = request.getfixturevalue(f"{name}_url")
    marker = f'{mine}2","number":51'
    proxy = Proxy(url, marker=marker.encode())
    await proxy.start()
    direct = transport_to(name, url)
    group = await group_of(direct)
    events = [OrderPlaced(f"{mine}{number % 7}", number) for number in range(1, 201)]
    flowing = [event for event in events if not event.order_id.endswith("-2") or event.number < 51]
    async with relaying(world, transport_to(name, proxy.url)) as service:
        await world.publish(service, *events)
        await until(lambda: bool(world.lanes()), seconds=60)
        found = await arrivals(direct, group, flowing, mine=mine)
        await until_equal(world.lanes, [(f"{mine}2", "dead", len(events) - len(flowing), 1)], seconds=30)
        assert proxy.broken >= 6
    await proxy.stop()
    assert in_order(found, flowing)
    message = world.one("select error_message from tidings_deliveries where error_message is not null")
    assert message.startswith("the connection breaks whenever it is sent, and carries others: ")
