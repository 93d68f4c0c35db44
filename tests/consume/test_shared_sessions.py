"""`session_per="transaction"`: one session for the events of a shared transaction, and each its own after a failure."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import Envelope, Publish, Retry, Service, Subscriptions

EVENTS = 60


async def publish(world: World, service: Service) -> None:
    await world.publish(service, *(OrderPlaced(f"k{number % 20}", number) for number in range(EVENTS)))


def in_order(world: World) -> None:
    assert sorted(value for _, value in world.effects()) == list(range(EVENTS))
    for k in range(20):
        values = [value for key, value in world.effects() if key == f"k{k}"]
        assert values == sorted(values)


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_events_of_a_transaction_share_a_session_and_its_publishing(any_world: World, kind: str) -> None:
    world = any_world
    if kind == "async def" and not world.asynchronous:
        pytest.skip("an AsyncSession needs an asynchronous engine")
    handlers = Subscriptions()
    sessions: list[Any] = []

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish, envelope: Envelope) -> None:
        sessions.append(session)
        await effect(session, "handle", event)
        service.publish(session, OrderBilled(event.order_id, 2 * event.number))
        publish(OrderBilled(event.order_id, 2 * event.number + 1))

    def handle_in_thread(event: OrderPlaced, session: Session, publish: Publish, envelope: Envelope) -> None:
        sessions.append(session)
        effect_sync(session, "handle", event)
        service.publish(session, OrderBilled(event.order_id, 2 * event.number))
        publish(OrderBilled(event.order_id, 2 * event.number + 1))

    function: Any = handle if kind == "async def" else handle_in_thread
    handlers.subscribe(OrderPlaced, name="handle", session_per="transaction", concurrency=1)(function)
    service = world.service(handlers)
    await publish(world, service)
    async with service:
        await until_equal(lambda: service.counters.of("handled"), EVENTS)
    in_order(world)
    # How many is a matter of how long each takes.
    assert len({id(session) for session in sessions}) < EVENTS
    billed = world.published("order.billed")
    assert sorted(
        row["data"]["number"] if isinstance(row["data"], dict) else int(row["data"].rpartition(":")[2][:-1]) for row in billed
    ) == list(range(2 * EVENTS))
    # Each is caused by its own event, although they leave together.
    caused = {str(row["headers"]["causationid"] if isinstance(row["headers"], dict) else row["headers"]) for row in billed}
    assert len(caused) == EVENTS


async def test_after_a_failure_each_event_has_a_session_of_its_own(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, session_per="transaction", concurrency=1, retry=Retry(attempts=2, base=0.01, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        session.info["seen"] = session.info.get("seen", 0) + 1
        if event.number == 30:
            raise ValueError(f"no luck after {session.info['seen']}")

    service = world.service(handlers)
    await publish(world, service)
    async with service:
        await until(lambda: service.counters.of("dead") == 1)
        await until_equal(lambda: len(world.effects()), EVENTS - 2)  # 50 waits behind 30
    (dead,) = world.rows("select error_message from tidings_deliveries where reason = 'failed'")
    assert dead == ("no luck after 1",)
    assert sorted(value for _, value in world.effects()) == [number for number in range(EVENTS) if number not in (30, 50)]


async def test_an_error_of_the_last_flush_is_the_failure_of_the_event_that_caused_it(world: World) -> None:
    handlers = Subscriptions()
    metadata = sa.MetaData()
    table = sa.Table("ledger", metadata, sa.Column("number", sa.Integer, sa.CheckConstraint("number <> 30"), primary_key=True))
    await world.execute("create table ledger (number integer primary key check (number <> 30))")
    registry: Any = sa.orm.registry()

    class Entry:
        def __init__(self, number: int) -> None:
            self.number = number

    registry.map_imperatively(Entry, table)

    @handlers.subscribe(OrderPlaced, session_per="transaction", concurrency=1, retry=Retry(attempts=1))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Entry(event.number))

    service = world.service(handlers)
    await publish(world, service)
    async with service:
        await until(lambda: service.counters.of("dead") == 1)
        await until_equal(lambda: world.one("select count(*) from ledger"), EVENTS - 2)
        await until_equal(world.deliveries, [("k10", "failed", 1, "sqlalchemy.exc.IntegrityError"), ("k10", "behind", 0, None)])
    registry.dispose()


@pytest.mark.parametrize("how", ["rolls back", "commits in the middle", "leaves a savepoint open"])
async def test_a_handler_that_ends_the_shared_transaction_fails_alone(world: World, how: str) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, session_per="transaction", concurrency=1, retry=Retry(attempts=1))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        if event.number == 30 and how == "leaves a savepoint open":
            await session.begin_nested()
        await effect(session, "handle", event)
        if event.number == 30 and how == "rolls back":
            await session.rollback()
        if event.number == 30 and how == "commits in the middle":
            await session.commit()

    service = world.service(handlers)
    await publish(world, service)
    async with service:
        if how == "rolls back":
            await until(lambda: service.counters.of("dead") == 1)
            await until_equal(lambda: len(world.effects()), EVENTS - 2)
            await until_equal(lambda: [row[:2] for row in world.deliveries()], [("k10", "failed"), ("k10", "behind")])
        else:
            # A session of one event may commit into the transaction that it joined, and is committed with its savepoints.
            await until_equal(lambda: service.counters.of("handled"), EVENTS)
            in_order(world)


async def test_functions_with_other_sessions_or_none_find_and_publish_after_what_came_before(world: World) -> None:
    """Invariant 5: what one key's events do and publish stands in the order of the events, whatever their functions ask for."""
    handlers = Subscriptions()
    orders = handlers.subscription("orders", session_per="transaction", concurrency=1)
    metadata = sa.MetaData()
    table = sa.Table("ledger", metadata, sa.Column("number", sa.Integer, primary_key=True))
    await world.execute("create table ledger (number integer primary key)")
    registry: Any = sa.orm.registry()
    found: list[int] = []

    class Entry:
        def __init__(self, number: int) -> None:
            self.number = number

    registry.map_imperatively(Entry, table)

    @orders.on(OrderPlaced)
    async def place(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        session.add(Entry(event.number))
        publish(OrderBilled("k", event.number))

    @orders.on(OrderCancelled)
    async def cancel(event: OrderCancelled, connection: AsyncConnection, publish: Publish) -> None:
        found.append((await connection.execute(sa.select(table).where(table.c.number == event.number))).scalar_one())
        publish(OrderBilled("k", 1000 + event.number))

    service = world.service(handlers)
    events = [kind("k", number) for number in range(20) for kind in (OrderPlaced, OrderCancelled)]
    await world.publish(service, *events)
    async with service:
        await until(lambda: service.counters.of("handled") + service.counters.of("failed") >= 40)
    registry.dispose()
    assert found == list(range(20))
    billed = [json.loads(row["data"]) if isinstance(row["data"], str) else row["data"] for row in world.published("order.billed")]
    assert [row["number"] for row in billed] == [number for n in range(20) for number in (n, 1000 + n)]


async def test_the_last_flush_is_bounded_too(pg_world: World) -> None:
    world = pg_world
    handlers = Subscriptions()
    metadata = sa.MetaData()
    table = sa.Table("ledger", metadata, sa.Column("number", sa.Integer, primary_key=True))
    await world.execute("create table ledger (number integer primary key)")
    registry: Any = sa.orm.registry()

    class Entry:
        def __init__(self, number: int) -> None:
            self.number = number

    registry.map_imperatively(Entry, table)

    @handlers.subscribe(OrderPlaced, session_per="transaction", concurrency=1, timeout=0.3, retry=Retry(attempts=1))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Entry(event.number))

    service = world.service(handlers)
    async with world.another_engine().connect() as other:
        await other.execute(sa.text("insert into ledger values (30)"))  # whoever inserts it, too, waits for us
        await publish(world, service)
        async with service:
            await until(lambda: service.counters.of("dead") == 1)
            await until_equal(lambda: [row[:2] for row in world.deliveries()], [("k10", "failed"), ("k10", "behind")])
    registry.dispose()
