"""Old and new code side by side, in either order: nothing is lost, nothing is handled twice, and keys keep their order."""

from __future__ import annotations

import asyncio

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.workers import newer
from tests.workers.checks import each_once_and_in_order, publisher, reader_among
from tests.workers.conftest import Start

LEASE = 1.0


async def test_a_new_subscription_gets_everything_from_its_registration_on(any_world: World, start: Start) -> None:
    # On a busy machine a short lease changes hands.
    old = start("orders", lease=10.0)
    await old.says("started")
    await reader_among(any_world, [old])
    service = publisher(any_world, newer.shop)
    published = 0

    async def publish(count: int) -> None:
        nonlocal published
        for number in range(published + 1, published + count + 1):
            await any_world.publish(service, newer.OrderShipped("k", number))
            published = number

    # Nobody has asked for these: they are read, counted, and no longer waited for.
    await publish(5)
    streaming = asyncio.create_task(publish(60))
    new = start("newer", lease=10.0)
    await new.says("started")
    registered = published
    await streaming
    await publish(5)
    await until(lambda: ("k", published) in any_world.effects("ship"), "the last one is shipped", 40)
    shipped = [number for _, number in any_world.effects("ship")]
    assert shipped == list(range(shipped[0], published + 1))
    assert shipped[0] <= registered + 1
    # The old code was the reader all the time, and goes on with what it knows.
    assert await reader_among(any_world, [old, new]) == (old, [new])
    await any_world.publish(publisher(any_world), OrderPlaced("k", 1))
    await each_once_and_in_order(any_world, [OrderPlaced("k", 1)])
    await until_equal(any_world.lanes, [], 40)


def orders_of_both_versions(first: int, last: int) -> list[newer.OrderPlacedV1 | newer.OrderPlaced]:
    """Orders of three keys; those of the first have the old version, the others both in turn."""
    return [
        newer.OrderPlacedV1(f"k{n % 3}", n) if n % 3 == 0 or n % 2 == 0 else newer.OrderPlaced(f"k{n % 3}", n, "CHF")
        for n in range(first, last + 1)
    ]


async def test_a_version_that_is_too_new_waits_for_newer_code(world: World, start: Start) -> None:
    old = start("orders", lease=LEASE)
    await reader_among(world, [old])
    service = publisher(world, newer.shop)
    events = orders_of_both_versions(1, 30)
    await world.publish(service, *events)
    # The first event of k1 is too new, and the second of k2; what is behind them waits for them.
    possible = sorted((event.order_id, event.number) for event in events if event.order_id == "k0" or event.number == 2)
    await until_equal(lambda: sorted(world.effects()), possible, 40)
    await until_equal(lambda: sum(depth for _, _, depth, _ in world.lanes()), len(events) - len(possible), 40)
    assert {row[2] for row in world.deliveries()} == {0}
    new = start("newer", lease=LEASE)
    await each_once_and_in_order(world, events)
    await until_equal(world.lanes, [], 120)
    assert {e["number"] for e in new.journal.entries("charging", currency="CHF")} == {e.number for e in events if hasattr(e, "currency")}
    assert not any(entry["level"] == "ERROR" for entry in old.journal.entries("log"))


async def test_going_back_to_old_code_keeps_what_only_new_code_can_do(world: World, start: Start) -> None:
    new = start("newer", lease=LEASE)
    await new.says("started")
    service = publisher(world, newer.shop)
    await world.publish(service, *orders_of_both_versions(1, 6), newer.OrderShipped("k1", 1))
    await each_once_and_in_order(world, orders_of_both_versions(1, 6))
    await each_once_and_in_order(world, [newer.OrderShipped("k1", 1)], "ship")
    await new.stop()
    old = start("orders", lease=LEASE)
    shipped = [newer.OrderShipped("k1", number) for number in (2, 3)]
    await world.publish(service, *orders_of_both_versions(7, 18), *shipped)
    await until_equal(lambda: sum(number > 6 for key, number in world.effects("charge") if key == "k0"), 4, 40)
    await until(lambda: [row for row in world.deliveries() if row[1] == "waiting for code"], "the others wait", 40)
    assert world.effects("ship") == [("k1", 1)]
    start("newer", lease=LEASE)
    await each_once_and_in_order(world, orders_of_both_versions(1, 18))
    await each_once_and_in_order(world, [newer.OrderShipped("k1", 1), *shipped], "ship")
    await until_equal(world.lanes, [], 120)
    assert not any(entry["level"] == "ERROR" for entry in old.journal.entries("log"))


async def test_a_renamed_subscription_is_the_same_one(world: World, start: Start) -> None:
    old = start("orders", lease=LEASE)
    await reader_among(world, [old])
    service = publisher(world)
    events = [OrderPlaced(f"k{number % 3}", number) for number in range(1, 41)]
    await world.publish(service, *events[:10])
    new = start("newer", lease=LEASE, renamed="charge-card")
    await world.publish(service, *events[10:20])
    await new.says("started")
    await world.publish(service, *events[20:30])
    await old.stop()
    await world.publish(service, *events[30:])
    await each_once_and_in_order(world, events)
    assert world.rows("select name from tidings_subscriptions where name like 'charge%'") == [("charge-card",)]
    # Old code that starts now would handle everything again under the old name: it refuses.
    late = start("orders", lease=LEASE)
    await until(lambda: not late.alive, "the old code ends", 40)
    (failed,) = late.journal.entries("failed")
    assert "RenamedSubscription" in failed["error"]
    await world.publish(service, OrderPlaced("k0", 42))
    await each_once_and_in_order(world, [*events, OrderPlaced("k0", 42)])


async def test_a_dropped_subscription_is_waited_for_until_it_is_retired(world: World, start: Start) -> None:
    service = publisher(world)
    old = start("orders", lease=LEASE)
    await old.says("started")
    await world.publish(service, OrderCancelled("k", 1))
    await each_once_and_in_order(world, [OrderCancelled("k", 1)], "cancel")
    await old.stop()
    new = start("newer", lease=LEASE, without=["cancel"])
    await new.says("started")
    await world.publish(service, OrderCancelled("k", 2), OrderPlaced("k", 1))
    await each_once_and_in_order(world, [OrderPlaced("k", 1)])
    assert world.deliveries() == [("k", "waiting for code", 0, None)]
    assert await world.store.transact(world.store.registry.retire, "shop", "shop", "cancel")
    await world.publish(service, OrderCancelled("k", 3), OrderPlaced("k", 2))
    await each_once_and_in_order(world, [OrderPlaced("k", 1), OrderPlaced("k", 2)])
    assert len(world.deliveries()) == 1
    # The code comes back: what is parked was never given up, and what passed meanwhile has passed.
    await new.stop()
    start("orders", lease=LEASE)
    await each_once_and_in_order(world, [OrderCancelled("k", 1), OrderCancelled("k", 2)], "cancel")
    await world.publish(service, OrderCancelled("k", 4))
    await each_once_and_in_order(world, [OrderCancelled("k", 1), OrderCancelled("k", 2), OrderCancelled("k", 4)], "cancel")
