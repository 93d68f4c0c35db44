"""One worker reads for a group at a time; registered subscriptions get their events whoever reads (invariants 6 and 7)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Publish, Retry, Service, Subscriptions
from tidings.consume.retry import Discard
from tidings.errors import ConfigurationError, RenamedSubscription


def orders(label: str, seen: list[str] | None = None, **options: Any) -> Subscriptions:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, **options)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        if seen is not None:
            seen.append(label)
        publish(OrderBilled(event.order_id, event.number))
        await effect(session, "handle", event)

    return handlers


def impatient(service: Service, lease: float = 0.5) -> Service:
    service.tuning.lease = lease
    return service


# --- one reader


async def test_what_a_worker_decides_without_its_lease_is_not_kept(world: World) -> None:
    """Another worker may know better: whoever has the lease decides."""
    handlers = Subscriptions()
    attempts = 0

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await world.execute("update tidings_checkpoints set lease_token = lease_token + 1 where kind = 'log'")
            raise Discard("not for the likes of us")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: world.rows("select outcome from tidings_inbox"), [(0,)])
    assert attempts == 2


async def test_only_one_of_two_instances_reads_and_the_other_takes_over_when_it_stops(world: World) -> None:
    seen: list[str] = []
    first = impatient(world.service(orders("first", seen)))
    second = impatient(world.service(orders("second", seen), engine=world.another_engine()))
    async with second, first:
        await until(lambda: len(seen) == 0 and world.checkpoint()["owner"] is not None)
        for number in range(10):
            await world.publish(first, OrderPlaced(f"k{number % 3}", number))
        await until(lambda: len(world.effects()) == 10)
        assert len(set(seen)) == 1
        reader = seen[0]
        stopped, other = (first, second) if reader == "first" else (second, first)
        await stopped.stop()
        for number in range(10, 20):
            await world.publish(other, OrderPlaced(f"k{number % 3}", number))
        await until(lambda: len(world.effects()) == 20)
        assert set(seen[10:]) == {"first", "second"} - {reader}
    assert len(world.published("order.billed")) == 20


async def test_another_instance_takes_over_when_the_lease_of_a_dead_one_runs_out(world: World) -> None:
    service = impatient(world.service(orders("only")))
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: len(world.effects()) == 1)
    # As a process leaves it that was killed.
    until_when = (
        "clock_timestamp() + interval '1 second'" if world.kind == "postgresql" else "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '1 seconds')"
    )
    await world.execute(f"update tidings_checkpoints set owner = 'dead', lease_token = lease_token + 1, lease_until = {until_when}")
    async with service:
        await world.publish(service, OrderPlaced("a", 2))
        assert world.checkpoint()["owner"] == "dead"
        await until_equal(world.effects, [("a", 1), ("a", 2)])
        assert world.checkpoint()["owner"] != "dead"


async def test_a_worker_whose_lease_was_taken_keeps_nothing(world: World) -> None:
    """It was paused for longer than its lease lasts, and goes on in the middle of its handler."""
    if world.kind == "sqlite":
        pytest.skip("the handler's transaction holds SQLite's only write lock: nobody can take the lease meanwhile")
    entered, leave = asyncio.Event(), asyncio.Event()
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        nonlocal calls
        calls += 1
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        if calls == 1:
            entered.set()
            await leave.wait()

    service = world.service(handlers)
    service.tuning.lease = 1000.0
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await entered.wait()
        await world.execute("update tidings_checkpoints set lease_token = lease_token + 1")
        leave.set()
        await until_equal(world.effects, [("a", 1)])
    assert calls == 2
    assert len(world.published("order.billed")) == 1
    assert world.deliveries() == []
    assert service.counters.of("failed") == 0


async def test_what_fails_after_the_lease_was_taken_is_not_parked(pg_world: World) -> None:
    world = pg_world
    entered, leave = asyncio.Event(), asyncio.Event()
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        await effect(session, "handle", event)
        if calls == 1:
            entered.set()
            await leave.wait()
            raise ValueError("no luck")

    service = world.service(handlers)
    service.tuning.lease = 1000.0
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await entered.wait()
        await world.execute("update tidings_checkpoints set lease_token = lease_token + 1")
        leave.set()
        await until_equal(world.effects, [("a", 1)])
    assert (calls, world.deliveries()) == (2, [])


# --- registered by others


async def test_an_event_for_a_subscription_that_only_other_code_has_waits_for_it(world: World) -> None:
    """A rolling deploy: the new code has registered `ship`, the old code reads."""
    new = Subscriptions()

    @new.subscribe(OrderCancelled)
    async def ship(event: OrderCancelled, session: AsyncSession) -> None:
        await effect(session, "ship", event)

    @new.subscribe(OrderPlaced, name="handle")
    async def handle_again(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    async with world.service(new):
        pass
    old = world.service(orders("old"))
    async with old:
        await world.publish(old, OrderCancelled("a", 1), OrderCancelled("a", 2), OrderPlaced("a", 3))
        await until_equal(world.effects, [("a", 3)])
        await until(lambda: len(world.deliveries()) == 2)
        assert {delivery[1:] for delivery in world.deliveries()} == {("waiting for code", 0, None)}
        assert old.counters.of("waiting for code") == 2
    async with world.service(new):
        await until_equal(lambda: world.effects("ship"), [("a", 1), ("a", 2)])
        await until_equal(world.lanes, [])


async def test_a_retired_subscription_gets_nothing_more(world: World) -> None:
    new = Subscriptions()

    @new.subscribe(OrderCancelled)
    async def ship(event: OrderCancelled) -> None: ...

    async with world.service(new):
        pass
    await world.execute("update tidings_subscriptions set state = 'retired'")
    async with world.service(orders("old")) as service:
        await world.publish(service, OrderCancelled("a", 1), OrderPlaced("a", 2))
        await until_equal(world.effects, [("a", 2)])
        await until(lambda: service.counters.total["", "skipped"] == 2)  # the cancelled order, and the bill
    assert world.deliveries() == []


async def test_a_running_reader_learns_of_a_new_subscription_before_it_reads_on(world: World) -> None:
    old = world.service(orders("old"))
    async with old:
        await world.publish(old, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
        new = Subscriptions()

        @new.subscribe(OrderCancelled)
        async def ship(event: OrderCancelled, session: AsyncSession) -> None:
            await effect(session, "ship", event)

        new.subscriptions += orders("new").subscriptions
        async with world.service(new, engine=world.another_engine()) as service:
            await world.publish(service, OrderCancelled("a", 2))
            await until_equal(lambda: world.effects("ship"), [("a", 2)])


async def test_a_new_subscription_of_a_group_starts_where_the_group_is(world: World) -> None:
    service = world.service(orders("one"))
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: service.counters.of("handled") == 1)
        await until(lambda: world.checkpoint()["moved_at"] is not None and world.checkpoint()["high"] > 0)
    more = orders("one")

    @more.subscribe(OrderPlaced)
    async def late(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "late", event)

    async with world.service(more) as service:
        await world.publish(service, OrderPlaced("a", 2))
        await until_equal(lambda: world.effects("handle"), [("a", 1), ("a", 2)])
        await until_equal(lambda: world.effects("late"), [("a", 2)])


@pytest.mark.parametrize("start", ["earliest", "now", {"shop": "earliest", "late": "now"}], ids=str)
async def test_where_a_new_group_starts(world: World, start: Any) -> None:
    publisher = world.service()
    await world.publish(publisher, OrderPlaced("a", 1))
    handlers = orders("one")

    @handlers.subscribe(OrderPlaced, group="late")
    async def late(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "late", event)

    async with world.service(handlers, start=start) as service:
        await world.publish(service, OrderPlaced("a", 2))
        early = [("a", 1), ("a", 2)]
        now = [("a", 2)]
        await until_equal(lambda: world.effects("handle"), now if start == "now" else early)
        await until_equal(lambda: world.effects("late"), early if start == "earliest" else now)


# --- names


async def test_a_renamed_subscription_refuses_to_start(world: World) -> None:
    async with world.service(orders("one")):
        pass
    service = world.service(orders("one", name="charge"))
    with pytest.raises(
        RenamedSubscription, match=r"subscription 'handle' is stored but not in the code, and 'charge' for the same events is new"
    ):
        await service.start()
    # Nothing was registered, and nothing runs.
    assert world.rows("select name from tidings_subscriptions") == [("handle",)]
    await service.stop()


async def test_a_subscription_that_says_what_it_was_called_keeps_its_inbox(world: World) -> None:
    first = world.service(orders("one"))
    async with first:
        await world.publish(first, OrderPlaced("a", 1))
        await until(lambda: first.counters.of("handled") == 1)
    await world.read_again()
    second = world.service(orders("one", name="charge", renamed_from="handle"))
    async with second:
        await world.publish(second, OrderPlaced("a", 2))
        await until_equal(world.effects, [("a", 1), ("a", 2)])
        assert second.counters.of("duplicates") == 1
    assert world.rows("select name from tidings_subscriptions") == [("charge",)]


async def test_two_subscriptions_of_one_name_are_refused(world: World) -> None:
    service = world.service(orders("one"), orders("two"))
    with pytest.raises(ConfigurationError, match="two subscriptions of group 'shop' are named 'handle': give one of them name='...'"):
        await service.start()


async def test_a_failed_event_is_only_tried_by_code_that_has_its_subscription(world: World) -> None:
    failing = Subscriptions()

    @failing.subscribe(OrderCancelled, retry=Retry(attempts=10, base=0.05, factor=1, jitter=0))
    async def ship(event: OrderCancelled) -> None:
        raise ValueError("no luck")

    first = world.service(failing)
    async with first:
        await world.publish(first, OrderCancelled("a", 1))
        await until(lambda: len(world.deliveries()) == 1)
    attempts = world.lanes()[0][3]
    async with world.service(orders("other")) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: len(world.effects()) == 1)
        await until(lambda: service.counters.of("handled") == 1)
    assert world.lanes()[0][3] == attempts


# --- several services


async def test_two_services_on_one_database_each_handle_everything_once(world: World) -> None:
    billing_handlers = Subscriptions()

    @billing_handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "billing", event)

    shop = world.service(orders("shop"))
    billing = world.service(billing_handlers, name="billing", engine=world.another_engine())
    async with shop, billing:
        for number in range(5):
            await world.publish(shop, OrderPlaced("a", number))
            await world.publish(billing, OrderPlaced("b", number))
        await until(lambda: len(world.effects()) == 20)
    for name in ("handle", "billing"):
        for key in ("a", "b"):
            assert [value for each, value in world.effects(name) if each == key] == list(range(5))
    assert {row["source"] for row in world.published("order.placed")} == {"shop", "billing"}
