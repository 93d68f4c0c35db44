"""A message that the broker does not take is a delivery of the relay: its key waits behind it, in order, and everything else flows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.relay.sent import in_order, numbers, orders, relaying, sent
from tidings import Contract
from tidings.relay import sending
from tidings.runtime import Dead
from tidings.testing.memory import Memory
from tidings.transports.base import Failure, Outgoing

FAILURES: list[Failure] = ["atomic", "prefix", "independent"]


@pytest.fixture(params=FAILURES)
def broker(request: pytest.FixtureRequest) -> Memory:
    return Memory(request.param)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sending.compiled_relay, "__defaults__", (sending.Retry(attempts=2, base=0.02, jitter=0, give_up_on=(sending.Unsendable,)),)
    )


def refusing(*wanted: int) -> Callable[[Outgoing], str | None]:
    def why_not(outgoing: Outgoing) -> str | None:
        assert outgoing.message.body is not None
        return "it is not wanted here" if json.loads(outgoing.message.body)["number"] in wanted else None

    return why_not


async def test_its_key_waits_and_all_others_flow(world: World, broker: Memory) -> None:
    broker.refuses = refusing(10)
    dead: list[Dead] = []
    events = orders(1, 100)
    service = relaying(world, broker)
    service.on_dead(dead.append)
    async with service:
        await world.publish(service, *events)
        others = [event for event in events if event.number % 7 != 3]
        before = [event for event in events if event.number == 3]
        await until_equal(lambda: len(sent(broker)), len(others) + len(before))
        await until_equal(world.lanes, [("k3", "dead", 13, 2)])
        # The checkpoint has moved over what is parked.
        await until(lambda: service._runtime is not None and service._runtime.relays[0].idle)
        found = [row[1:] for row in world.deliveries()]
        assert found[0][:2] == ("failed", 2)
        assert {row[0] for row in found[1:]} == {"behind"}
        message = world.one("select error_message from tidings_deliveries where error_message is not null")
        assert message == "it is not wanted here"
        await until_equal(lambda: [(one.subscription, one.key, one.retry_count) for one in dead], [("relay:memory", "k3", 2)])
        # What comes later of that key waits, too.
        await world.publish(service, OrderPlaced("k3", 101), OrderPlaced("k4", 102))
        await until(lambda: ("k4", 102) in sent(broker))
        await until_equal(world.lanes, [("k3", "dead", 14, 2)])
    assert in_order(sent(broker), [*before, *others, OrderPlaced("k4", 102)])


async def test_redriven_it_is_sent_and_then_what_waits_behind_it(world: World, broker: Memory) -> None:
    broker.refuses = refusing(10)
    events = orders(1, 100)
    async with relaying(world, broker) as service:
        await world.publish(service, *events)
        await until_equal(world.lanes, [("k3", "dead", 13, 2)])
        broker.refuses = lambda _: None
        assert await service.operations.redrive(subscription="relay:memory") == 1
        await world.publish(service, *orders(101, 140))
        await until_equal(lambda: len(sent(broker)), 140)
        await until_equal(world.lanes, [])
        await world.publish(service, *orders(141, 160))
        await until_equal(lambda: len(sent(broker)), 160)
    assert in_order(sent(broker), orders(1, 160))


async def test_discarded_it_is_never_sent_and_what_waits_behind_it_is(world: World, broker: Memory) -> None:
    broker.refuses = refusing(10)
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(1, 100))
        await until_equal(world.lanes, [("k3", "dead", 13, 2)])
        assert await service.operations.discard(subscription="relay:memory", reason="nobody wants it") == 1
        await until_equal(lambda: len(sent(broker)), 99)
        await until_equal(world.lanes, [])
    assert in_order(sent(broker), [event for event in orders(1, 100) if event.number != 10])


async def test_what_is_refused_for_a_while_gets_through_by_itself(world: World, broker: Memory) -> None:
    refused = 0

    def once(outgoing: Outgoing) -> str | None:
        nonlocal refused
        assert outgoing.message.body is not None
        if json.loads(outgoing.message.body)["number"] == 5 and refused == 0:
            refused += 1
            return "there is no queue yet"
        return None

    broker.refuses = once
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(1, 60))
        await until_equal(lambda: len(sent(broker)), 60)
        await until_equal(world.lanes, [])
    assert refused == 1
    assert in_order(sent(broker), orders(1, 60))


async def test_a_parked_key_stays_parked_over_a_restart(world: World, broker: Memory) -> None:
    broker.refuses = refusing(10)
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(1, 30))
        await until_equal(world.lanes, [("k3", "dead", 3, 2)])
    broker.refuses = lambda _: None
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(31, 60))
        await until_equal(world.lanes, [("k3", "dead", 8, 2)])
        await service.operations.redrive()
        await until_equal(lambda: len(sent(broker)), 60)
    assert in_order(sent(broker), orders(1, 60))


async def test_what_is_too_large_for_the_broker_is_parked(world: World) -> None:
    broker = Memory(most=2000)
    async with relaying(world, broker) as service:
        await world.publish(service, OrderPlaced("a" * 900, 1), OrderPlaced("b", 2), headers={"much": "x" * 2500})
        await world.publish(service, OrderPlaced("b", 3))
        await until_equal(lambda: numbers(sent(broker)), [])
        await until_equal(lambda: sorted(row[0] or "" for row in world.lanes()), ["a" * 900, "b"])
    assert "2,000" in world.one("select error_message from tidings_deliveries where error_message is not null order by number limit 1")


async def test_an_event_without_key_that_is_refused_holds_nothing_up(world: World, broker: Memory) -> None:
    from tests.consume.shop import MailWanted

    broker.refuses = refusing(2)
    async with relaying(world, broker) as service:
        await world.publish(service, *(MailWanted("a@b", number) for number in range(6)))
        await until_equal(lambda: sorted(numbers(sent(broker, "mail.wanted"))), [0, 1, 3, 4, 5])
        await until_equal(lambda: [row[1:3] for row in world.lanes()], [("dead", 1)])


async def test_too_much_parked_stops_the_relay_and_not_for_ever(world: World, broker: Memory) -> None:
    broker.refuses = lambda _: "nothing is wanted here"
    service = relaying(world, broker)
    service.tuning.max_parked = 30
    service.tuning.events = 20
    async with service:
        await world.publish(service, *orders(1, 300, keys=300))
        await until(lambda: world.one("select count(*) from tidings_deliveries") >= 30)
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session._full)
        assert world.one("select count(*) from tidings_deliveries") < 300
        await until_equal(lambda: world.one("select count(*) from tidings_lanes where state = 'retrying'"), 0)
        broker.refuses = lambda _: None
        await service.operations.redrive()
        await until_equal(lambda: len(set(sent(broker))), 300)
    assert in_order(sent(broker), orders(1, 300, keys=300))


async def test_a_count_that_was_taken_before_more_was_parked_lets_nothing_more_be_read(world: World, broker: Memory) -> None:
    """Whoever looks counts, and is told so later: meanwhile the relay has parked more."""
    broker.refuses = lambda _: "nothing is wanted here"
    service = relaying(world, broker)
    service.tuning.max_parked = 30
    service.tuning.events = 20
    service.tuning.page = 50
    call, store = service.store.call, service.store
    counted, go_on, looks = asyncio.Event(), asyncio.Event(), 0

    async def late(function: Any, *arguments: Any) -> Any:
        nonlocal looks
        found = await call(function, *arguments)
        if function == store.lanes.parked:
            looks += 1
            counted.set()
            if looks == 1:
                await go_on.wait()
        return found

    store.call = late  # type: ignore[method-assign]
    async with service:
        await world.publish(service, *orders(1, 10, keys=300))
        await counted.wait()
        await world.publish(service, *orders(11, 299, keys=300))
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session._full)
        await until(lambda: world.one("select count(*) from tidings_deliveries") >= 30)
        parked = world.one("select count(*) from tidings_deliveries")
        go_on.set()
        await until(lambda: looks >= 3)
        assert world.one("select count(*) from tidings_deliveries") == parked


async def test_a_paused_relay_sends_nothing(world: World, broker: Memory) -> None:
    async with relaying(world, broker) as service:
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session)
        assert await service.operations.pause("relay:memory")
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session._held_back)
        await world.publish(service, *orders(1, 5))
        assert sent(broker) == []
        await service.operations.resume("relay:memory")
        await until_equal(lambda: len(sent(broker)), 5)


async def test_an_event_of_another_deploy_waits_for_code_that_knows_it(world: World, broker: Memory) -> None:
    """It may be internal, or go elsewhere: only who has its contract knows."""
    async with relaying(world, broker) as service:
        await world.insert_row(name="order.shipped", key="a", data='{"order_id":"a","number":1}')
        await world.publish(service, OrderPlaced("a", 2), OrderPlaced("b", 3))
        await until_equal(lambda: numbers(sent(broker)), [3])
        await until_equal(lambda: [row[:3] for row in world.lanes()], [("a", "retrying", 2)])
    newer = Contract("newer")

    from dataclasses import dataclass

    @newer.event("order.shipped", key="order_id", topic="t")
    @dataclass(frozen=True)
    class OrderShipped:
        order_id: str
        number: int = 0

    from tests.consume.shop import shop

    async with relaying(world, broker, contracts=[shop, newer]):
        await until_equal(lambda: numbers(sent(broker)), [3, 2])
        assert numbers(sent(broker, "t")) == [1]
