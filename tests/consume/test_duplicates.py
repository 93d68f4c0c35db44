"""A second copy of an event changes nothing (invariant 4)."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect, effect_sync
from tidings import Publish, Subscriptions


async def test_what_is_read_again_is_not_handled_again(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()
    calls: list[int] = []

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, session: Session, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        effect_sync(session, "handle", event)

    @handlers.subscribe(OrderPlaced)
    def plain(event: OrderPlaced) -> None:
        calls.append(event.number)

    @handlers.subscribe(OrderPlaced, batch=7)
    def batch(events: list[OrderPlaced], session: Session) -> None:
        for event in events:
            effect_sync(session, "batch", event)

    first = world.service(handlers)
    async with first:
        await world.publish(first, *(OrderPlaced(f"k{number % 3}", number) for number in range(20)))
        await until(lambda: first.counters.of("handled") == 60)
    await world.read_again()

    second = world.service(handlers)
    async with second:
        await until(lambda: second.counters.of("duplicates") == 60)
    assert second.counters.of("handled") == 0
    assert sorted(calls) == list(range(20))
    assert sorted(value for _, value in world.effects("handle")) == list(range(20))
    assert sorted(value for _, value in world.effects("batch")) == list(range(20))
    assert len(world.published("order.billed")) == 20


@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"shared": False}, {"concurrency": 1}], ids=str)
async def test_copies_in_the_log_are_one_event(world: World, options: dict[str, Any]) -> None:
    handlers = Subscriptions()
    calls: list[int] = []

    @handlers.subscribe(OrderPlaced, **options)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)

    # Without order and without transaction, copies may be called side by side: at least once is what is promised then.
    @handlers.subscribe(OrderPlaced, **{**options, "ordered": True})
    async def plain(event: OrderPlaced) -> None:
        calls.append(event.number)

    service = world.service(handlers)
    for number in range(10):
        event_id = await world.insert_row(key=f"k{number}", data=f'{{"order_id":"k{number}","number":{number}}}')
        for _ in range(3):
            await world.insert_row(event_id=event_id, key=f"k{number}", data=f'{{"order_id":"k{number}","number":{number}}}')
    async with service:
        await until(lambda: service.counters.of("handled") + service.counters.of("duplicates") == 80)
    assert sorted(world.effects()) == [(f"k{number}", number) for number in range(10)]
    assert sorted(calls) == list(range(10))
    assert len(world.published("order.billed")) == 10


async def test_the_same_id_of_another_source_is_another_event(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    event_id = await world.insert_row(source="shop")
    await world.insert_row(source="legacy", event_id=event_id)
    async with world.service(handlers) as service:
        await until(lambda: service.counters.of("handled") == 2)
    assert len(world.effects()) == 2


async def test_a_second_worker_with_the_same_event_waits_before_its_handler(pg_world: World) -> None:
    """Two free copies run side by side: the second one finds the inbox row of the first and waits there."""
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced, ordered=False, shared=False)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        await effect(session, "handle", event)
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        await until(lambda: pg_world.one(waiting) == 1)

    event_id = await pg_world.insert_row()
    await pg_world.insert_row(event_id=event_id)
    async with pg_world.service(handlers) as service:
        await until(lambda: service.counters.of("handled") == 1 and service.counters.of("duplicates") == 1)
    assert (calls, len(pg_world.effects())) == (1, 1)


async def test_a_second_worker_runs_the_event_when_the_first_one_fails(pg_world: World) -> None:
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced, ordered=False, shared=False)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        await effect(session, "handle", event)
        if calls == 1:
            waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            await until(lambda: pg_world.one(waiting) == 1)
            raise ValueError("no luck")

    event_id = await pg_world.insert_row()
    await pg_world.insert_row(event_id=event_id)
    async with pg_world.service(handlers) as service:
        await until(lambda: service.counters.of("handled") == 1 and service.counters.of("duplicates") == 1)
        await until(lambda: pg_world.deliveries() == [])
    assert len(pg_world.effects()) == 1


async def test_a_duplicate_does_not_need_to_be_understood(world: World) -> None:
    """Handled by code that could read it, and read again by code that cannot: it has been handled, and is no poison."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    first = world.service(handlers)
    async with first:
        await world.publish(first, OrderPlaced("a", 1))
        await until(lambda: first.counters.of("handled") == 1)
    await world.execute("update tidings_outbox set data = '[]'")
    await world.read_again()
    second = world.service(handlers)
    async with second:
        await world.publish(second, OrderPlaced("a", 2))
        await until(lambda: len(world.effects()) == 2)
    assert world.deliveries() == []
    assert second.counters.of("dead") == 0
