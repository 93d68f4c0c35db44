"""Insert first, prove last: whatever a handler does to its transaction, nothing is lost silently and no effect is kept by half.

Databases report none of this at COMMIT: PostgreSQL answers ROLLBACK to the COMMIT of an aborted transaction, and drivers raise nothing.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import EFFECT, World, effect, effect_sync, make_sync_engine, open_world
from tests.services.databases import Database
from tidings import Envelope, Publish, Retry, Service, Subscriptions
from tidings.consume.deadline import Deadline
from tidings.consume.execution import Attempt, Execution, Fence

ENDED = "tidings.errors.TransactionEnded"
#: Failed events are not tried again while a test looks at them.
ONCE = Retry(attempts=2, base=1000, max=1000)


class Base(DeclarativeBase):
    pass


class Unique(Base):
    __tablename__ = "only_once"

    key: Mapped[str] = mapped_column(primary_key=True)


async def make_unique(world: World, *taken: str) -> None:
    """Make a table in which some keys are taken."""
    await world.execute("create table only_once (key varchar(100) primary key)")
    for key in taken:
        await world.execute("insert into only_once values (:key)", key=key)


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the handler transactions that were begun."""
    sizes: list[int] = []
    together = Execution.together

    async def counting(self: Execution, attempts: Sequence[Attempt], fence: Fence, deadline: Deadline | None = None) -> dict[int, int]:
        sizes.append(len(attempts))
        return await together(self, attempts, fence, deadline)

    monkeypatch.setattr(Execution, "together", counting)
    return sizes


def shared(handlers: Subscriptions, function: Callable[..., Awaitable[None]], **options: Any) -> None:
    """Subscribe with one worker, so that what waits is handled in one transaction."""
    handlers.subscribe(OrderPlaced, name="handle", concurrency=1, retry=ONCE, **options)(function)


async def warm_up(world: World, service: Any) -> None:
    """Let the worker see that its handler is fast: until then it takes one event at a time."""
    await world.publish(service, OrderPlaced("warm", 0))
    await until(lambda: service.counters.of("handled") == 1)


# --- what handlers do


@pytest.mark.parametrize("how", ["execute", "connection"])
async def test_a_swallowed_error_that_aborts_the_transaction_is_a_failure(pg_world: World, how: str) -> None:
    world = pg_world
    await make_unique(world, "a")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession, connection: AsyncConnection, publish: Publish) -> None:
        await effect(session, "handle", event)
        publish(OrderBilled(event.order_id))
        target = session if how == "execute" else connection
        try:
            await target.execute(sa.text("insert into only_once values (:key)"), {"key": event.order_id})
        except IntegrityError:
            pass

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("a", "failed", 1, ENDED)])
        await until_equal(world.effects, [("b", 2)])
    assert [row["key"] for row in world.published("order.billed")] == ["b"]
    message = world.one("select error_message from tidings_deliveries")
    assert "swallowed a database error" in message
    assert "session.begin_nested()" in message


async def test_a_swallowed_error_that_aborts_nothing_is_no_failure(sqlite: Database) -> None:
    async with open_world(sqlite) as world:
        await make_unique(world, "a")
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced)
        async def handle(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "handle", event)
            try:
                await session.execute(sa.text("insert into only_once values (:key)"), {"key": event.order_id})
            except IntegrityError:
                pass

        async with world.service(handlers) as service:
            await world.publish(service, OrderPlaced("a", 1))
            await until_equal(world.effects, [("a", 1)])
            await until(lambda: service.counters.of("handled") == 1)


async def test_a_swallowed_flush_error_is_a_failure(world: World) -> None:
    await make_unique(world, "a")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        session.add(Unique(key=event.order_id))
        try:
            await session.flush()
        except IntegrityError:
            pass

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until(lambda: len(world.deliveries()) == 1)
        await until_equal(world.effects, [("b", 2)])


async def test_a_savepoint_makes_it_fine(world: World) -> None:
    await make_unique(world, "a")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        await effect(session, "handle", event)
        try:
            async with session.begin_nested():
                session.add(Unique(key=event.order_id))
                publish(OrderBilled(event.order_id, 1))
        except IntegrityError:
            publish(OrderBilled(event.order_id, 2))

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until(lambda: service.counters.of("handled") == 2)
    assert sorted(world.effects()) == [("a", 1), ("b", 2)]
    assert sorted(
        (row["key"], '"number":2' in str(row["data"]).replace(" ", "").replace("'", '"')) for row in world.published("order.billed")
    ) == [
        ("a", True),
        ("b", False),
    ]


async def test_commit_on_the_session_is_harmless(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        await session.commit()
        await effect(session, "handle", event)
        await session.commit()
        assert world.effects() == []
        if event.order_id == "b":
            raise ValueError("no luck")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("b", "failed", 1, "ValueError")])
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1), ("a", 1)])
    assert [row["key"] for row in world.published("order.billed")] == ["a"]


async def test_a_block_that_begins_the_session_is_harmless(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        async with session.begin():
            await effect(session, "handle", event)
        async with session.begin():
            await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1), ("a", 1)])


async def test_leaving_the_session_closes_it_as_it_always_does(world: World) -> None:
    """Without commit, what was done in it is gone; then it was not handled either."""
    handlers = Subscriptions()
    service: Any = None

    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        async with session:
            await effect(session, "handle", event)
            service.publish(session, OrderBilled(event.order_id))

    handlers.subscribe(OrderPlaced, retry=ONCE)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, ENDED)])
    assert (world.effects(), world.published("order.billed")) == ([], [])


async def test_closing_the_session_after_a_commit_is_fine(world: World) -> None:
    handlers = Subscriptions()
    service: Any = None

    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        async with session, session.begin():
            await effect(session, "handle", event)
            service.publish(session, OrderBilled(event.order_id))

    handlers.subscribe(OrderPlaced, retry=ONCE)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert len(world.published("order.billed")) == 1


@pytest.mark.parametrize("what", ["session", "connection", "session in a thread", "connection in a thread"])
async def test_rollback_by_the_handler_is_a_failure(world: World, what: str) -> None:
    handlers = Subscriptions()

    async def on_session(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        await session.rollback()

    async def on_connection(event: OrderPlaced, connection: AsyncConnection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await connection.execute(EFFECT, {"subscription": "s", "key": event.order_id, "value": event.number})
        await connection.rollback()

    def on_session_in_thread(event: OrderPlaced, session: Session, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        effect_sync(session, "handle", event)
        session.rollback()

    def on_connection_in_thread(event: OrderPlaced, connection: Connection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        effect_sync(connection, "handle", event)
        connection.rollback()

    function: Any = {
        "session": on_session,
        "connection": on_connection,
        "session in a thread": on_session_in_thread,
        "connection in a thread": on_connection_in_thread,
    }[what]
    handlers.subscribe(OrderPlaced, name="handle", retry=ONCE)(function)
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, ENDED)])
    assert (world.effects(), world.published("order.billed"), world.rows("select * from tidings_inbox")) == ([], [], [])


async def test_effects_after_a_rollback_are_not_kept_either(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        await session.rollback()
        await effect(session, "handle", event)
        await session.commit()

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: len(world.deliveries()) == 1)
    assert world.effects() == []


@pytest.mark.parametrize("how", ["async def", "def"])
async def test_commit_on_the_connection_is_refused(world: World, how: str) -> None:
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, connection: AsyncConnection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await connection.execute(EFFECT, {"subscription": "s", "key": event.order_id, "value": event.number})
        await connection.commit()

    def handle_in_thread(event: OrderPlaced, connection: Connection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        effect_sync(connection, "handle", event)
        connection.commit()

    function: Any = handle if how == "async def" else handle_in_thread
    handlers.subscribe(OrderPlaced, name="handle", retry=ONCE)(function)
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("a", "failed", 1, ENDED), ("b", "failed", 1, ENDED)])
    # Nor did the connection go back to the pool with the transaction open.
    await world.execute("select 1")
    assert (world.effects(), world.published("order.billed"), world.rows("select * from tidings_inbox")) == ([], [], [])


@pytest.mark.parametrize("how", ["text", "text on the connection", "text and begin", "rollback text", "driver"])
async def test_a_commit_behind_our_back_is_detected(world: World, how: str) -> None:
    """What it committed cannot be undone, but it cannot pass for a success; trying again would find the event handled."""
    if how == "text and begin" and world.kind == "sqlite":
        pytest.skip("SQLite has nothing that tells one transaction from the next")
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, session: AsyncSession, connection: AsyncConnection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        driver: Any = (await connection.get_raw_connection()).driver_connection
        if how == "text":
            await session.execute(sa.text("commit"))
        elif how == "text on the connection":
            await connection.exec_driver_sql("COMMIT")
        elif how == "text and begin":
            await connection.exec_driver_sql("commit")
            await connection.exec_driver_sql("begin")
        elif how == "rollback text":
            await connection.exec_driver_sql("rollback")
        elif isinstance(driver, aiosqlite.Connection):
            await driver.commit()
        else:
            await driver.execute("commit")

    handlers.subscribe(OrderPlaced, name="handle", retry=Retry(attempts=5, base=0))(handle)
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.lanes, [("a", "dead", 1, 5 if how == "rollback text" else 1)])
        assert world.deliveries() == [("a", "failed" if how == "rollback text" else "rejected", 5 if how == "rollback text" else 1, ENDED)]
        await until(lambda: service.counters.of("dead") == 1)
    assert world.published("order.billed") == []
    assert world.effects() == ([] if how == "rollback text" else [("a", 1)])


@pytest.mark.parametrize("driver", ["sqlite3", "psycopg"])
async def test_a_commit_on_the_connection_of_a_synchronous_driver_is_detected(driver: str, request: pytest.FixtureRequest) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, name="sqlite3", retry=ONCE)
    def on_sqlite3(event: OrderPlaced, connection: sqlite3.Connection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        with connection:  # commits
            connection.execute("insert into effects (key, value) values (?, ?)", (event.order_id, event.number))

    @handlers.subscribe(OrderPlaced, name="psycopg", retry=ONCE)
    def on_psycopg(event: OrderPlaced, connection: psycopg.Connection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        connection.execute("insert into effects (key, value) values (%s, %s)", (event.order_id, event.number))
        connection.commit()

    handlers.subscriptions[:] = [each for each in handlers.subscriptions if each.name == driver]
    database = request.getfixturevalue("postgresql" if driver == "psycopg" else "sqlite")
    async with open_world(database, asynchronous=False) as world:
        async with world.service(handlers) as service:
            await world.publish(service, OrderPlaced("a", 1))
            await until_equal(world.deliveries, [("a", "rejected", 1, ENDED)])
        assert world.published("order.billed") == []


async def test_a_transaction_of_asyncpg_inside_ours_is_a_savepoint(pg_world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            await connection.execute("insert into effects (key, value) values ($1, 1)", event.order_id)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("insert into effects (key, value) values ($1, 2)", event.order_id)
        await transaction.rollback()

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
    assert pg_world.effects() == [("a", 1)]
    assert pg_world.deliveries() == []


async def test_an_error_of_the_last_flush_is_a_failure(world: World) -> None:
    await make_unique(world, "a")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        session.add(Unique(key=event.order_id))

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("a", "failed", 1, "sqlalchemy.exc.IntegrityError")])
        await until_equal(world.effects, [("b", 2)])


async def test_a_constraint_that_fails_at_commit_is_a_failure(pg_world: World) -> None:
    world = pg_world
    await world.execute("create table parents (id text primary key)")
    await world.execute("create table children (parent text references parents deferrable initially deferred)")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        parent = "nobody" if event.order_id == "a" else None
        await session.execute(sa.text("insert into children values (:parent)"), {"parent": parent})

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("a", "failed", 1, "sqlalchemy.exc.IntegrityError")])
        await until_equal(world.effects, [("b", 2)])
    assert [row["key"] for row in world.published("order.billed")] == ["b"]


async def test_a_handler_that_swallows_a_statement_timeout_has_failed(pg_world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        await session.execute(sa.text("set local statement_timeout = 10"))
        try:
            await session.execute(sa.text("select pg_sleep(10)"))
        except DBAPIError:
            pass

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, OrderPlaced("a", 1))
        await until_equal(pg_world.deliveries, [("a", "failed", 1, ENDED)])
    assert pg_world.effects() == []


# --- conflicts


async def test_a_deadlock_between_handlers_is_run_again_and_not_counted(pg_world: World) -> None:
    world = pg_world
    await world.execute("create table rows_ (id int primary key, hits int)")
    await world.execute("insert into rows_ values (1, 0), (2, 0)")
    handlers = Subscriptions()
    met = asyncio.Barrier(2)
    attempts: list[int] = []
    calls = 0

    @handlers.subscribe(OrderPlaced, shared=False)
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope, publish: Publish) -> None:
        nonlocal calls
        calls += 1
        attempts.append(envelope.attempt)
        publish(OrderBilled(event.order_id))
        update = sa.text("update rows_ set hits = hits + 1 where id = :id")
        await session.execute(update, {"id": event.number})
        if calls <= 2:
            await met.wait()
        await session.execute(update, {"id": 3 - event.number})
        await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until(lambda: service.counters.of("handled") == 2)
        assert service.counters.of("failed") == 0
    assert sorted(world.effects()) == [("a", 1), ("b", 2)]
    assert world.rows("select hits from rows_") == [(2,), (2,)]
    assert calls == 3
    assert set(attempts) == {1}
    assert len(world.published("order.billed")) == 2


async def test_a_serialization_failure_is_run_again_and_not_counted(postgresql: Database) -> None:
    async with open_world(postgresql) as world:
        await world.execute("create table counter (hits int)")
        await world.execute("insert into counter values (0)")
        handlers = Subscriptions()
        met = asyncio.Barrier(2)
        calls = 0

        @handlers.subscribe(OrderPlaced, shared=False)
        async def handle(event: OrderPlaced, session: AsyncSession) -> None:
            nonlocal calls
            calls += 1
            hits = (await session.execute(sa.text("select hits from counter"))).scalar_one()
            if calls <= 2:
                await met.wait()
            await session.execute(sa.text("update counter set hits = :hits"), {"hits": hits + 1})

        engine = world.another_engine(isolation_level="REPEATABLE READ")
        async with world.service(handlers, engine=engine) as service:
            await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
            await until(lambda: service.counters.of("handled") == 2)
            assert service.counters.of("failed") == 0
        assert world.rows("select hits from counter") == [(2,)]


async def test_a_conflict_that_does_not_end_is_a_failure_in_the_end(world: World) -> None:
    handlers = Subscriptions()
    calls = 0

    class Conflict(Exception):
        sqlstate = "40P01"

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        raise Conflict("again")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: len(world.deliveries()) == 1)
    assert calls == 6
    assert world.deliveries()[0][2] == 1


async def test_a_database_that_somebody_else_writes_to_is_no_failure(sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite has one write lock; whoever waits for it too long gets "database is locked", and tries again: one line tells of it."""
    caplog.set_level(logging.DEBUG, "tidings.store")
    async with open_world(sqlite) as world:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=ONCE)
        async def handle(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "handle", event)

        service = world.service(handlers, engine=world.another_engine(busy_timeout=0.01))
        engine = make_sync_engine(sqlite)

        def publish_and_lock(service: Service) -> Connection:
            with Session(engine) as session, session.begin():
                service.publish(session, OrderPlaced("a", 1))
            writer = engine.connect()
            writer.begin()
            return writer

        async with service:
            await world.publish(service, OrderPlaced("warm", 0))
            await until_equal(world.effects, [("warm", 0)])
            writer = await asyncio.to_thread(publish_and_lock, service)
            await until(lambda: len([record for record in caplog.records if "database is locked" in record.getMessage()]) > 3)
            await asyncio.to_thread(writer.close)
            await until_equal(world.effects, [("warm", 0), ("a", 1)])
            assert service.counters.of("failed") == 0
            warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
            # What waits for the lock may also be a handler transaction, which says "is busy".
            assert 1 <= len(warned) <= 2
            assert all("\n" not in line and "database is locked; trying again" in line for line in warned)
        engine.dispose()


# --- shared transactions


async def test_what_waits_shares_a_transaction(world: World, transactions: list[int]) -> None:
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    shared(handlers, handle)
    async with world.service(handlers) as service:
        await warm_up(world, service)
        await world.publish(service, *(OrderPlaced(f"k{number % 10}", number) for number in range(1, 101)))
        await until(lambda: service.counters.of("handled") == 101)
    assert max(transactions) > 1
    for k in range(10):
        values = [value for key, value in world.effects() if key == f"k{k}"]
        assert values == sorted(values)
    assert len(world.effects()) == 101


@pytest.mark.parametrize("how", ["raises", "swallows", "rolls back", "times out"])
async def test_one_bad_event_among_a_hundred_costs_only_itself(world: World, transactions: list[int], how: str) -> None:
    await make_unique(world, "taken")
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))
        await effect(session, "handle", event)
        if event.number != 50:
            return
        if how == "raises":
            raise ValueError("no luck")
        if how == "times out":
            await asyncio.Event().wait()
        if how == "rolls back":
            await session.rollback()
        if how == "swallows":
            try:
                session.add(Unique(key="taken"))
                await session.flush()
            except IntegrityError:
                pass

    shared(handlers, handle, timeout=0.2)
    async with world.service(handlers) as service:
        await warm_up(world, service)
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(1, 101)))
        await until(lambda: service.counters.of("handled") == 100 and len(world.deliveries()) == 1, seconds=30)
    assert max(transactions) > 1
    assert [key for key, *_ in world.deliveries()] == ["k50"]
    expected = [("warm", 0), *((f"k{number}", number) for number in range(1, 101) if number != 50)]
    assert sorted(world.effects()) == sorted(expected)
    assert sorted(row["key"] for row in world.published("order.billed")) == sorted(key for key, _ in expected)


async def test_nothing_of_one_event_is_seen_by_the_next(world: World, transactions: list[int]) -> None:
    await make_unique(world)
    handlers = Subscriptions()
    leaks: list[str] = []
    sessions: list[AsyncSession] = []

    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        if session in sessions or list(session.new) or list(session.identity_map.values()) or "mine" in session.info:
            leaks.append(event.order_id)
        sessions.append(session)
        session.info["mine"] = event.order_id
        session.add(Unique(key=event.order_id))
        await effect(session, "handle", event)

    shared(handlers, handle)
    async with world.service(handlers) as service:
        await warm_up(world, service)
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(1, 51)))
        await until(lambda: service.counters.of("handled") == 51)
    assert max(transactions) > 1
    assert leaks == []


async def test_not_sharing_gives_every_event_a_transaction(world: World, transactions: list[int]) -> None:
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    shared(handlers, handle, shared=False)
    async with world.service(handlers) as service:
        await warm_up(world, service)
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(1, 21)))
        await until(lambda: service.counters.of("handled") == 21)
    assert transactions == [1] * 21


# --- handlers that do not come back


async def test_a_handler_that_raises_cancelled_error_has_failed(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        if event.order_id == "a":
            raise asyncio.CancelledError

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def await_cancelled(event: OrderPlaced) -> None:
        if event.order_id == "a":
            task = asyncio.ensure_future(asyncio.sleep(1000))
            task.cancel()
            await task

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(world.deliveries, [("a", "failed", 1, "RuntimeError")] * 2)
        await until_equal(world.effects, [("b", 2)])
    assert "CancelledError without having been cancelled" in world.one("select error_message from tidings_deliveries limit 1")


@pytest.mark.parametrize("behaviour", ["waits", "swallows", "raises something else"])
async def test_a_handler_that_takes_too_long_has_failed(world: World, behaviour: str) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE, timeout=0.1)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        if event.order_id == "b":
            return
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if behaviour == "waits":
                raise
            if behaviour == "raises something else":
                raise ValueError("disturbed") from None

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        expected = "ValueError" if behaviour == "raises something else" else "TimeoutError"
        await until_equal(world.deliveries, [("a", "failed", 1, expected)])
        await until_equal(world.effects, [("b", 2)])
    assert [row["key"] for row in world.published("order.billed")] == ["b"]


async def test_a_handler_cancelled_in_the_middle_of_a_statement_leaves_a_working_service(pg_world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE, timeout=0.1)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        if event.order_id == "a":
            await session.execute(sa.text("select pg_sleep(30)"))

    async with pg_world.service(handlers) as service:
        for number in range(3):
            await pg_world.publish(service, OrderPlaced("a", number), OrderPlaced("b", number))
        await until_equal(pg_world.effects, [("b", 0), ("b", 1), ("b", 2)])
        await until(lambda: len(pg_world.deliveries()) == 3)


@pytest.mark.parametrize("ending", ["returns", "raises"])
async def test_a_thread_that_outlives_its_time_is_rolled_back_when_it_ends(any_world: World, ending: str) -> None:
    world = any_world
    handlers = Subscriptions()
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    @handlers.subscribe(OrderPlaced, retry=ONCE, timeout=0.5, shared=False)
    def handle(event: OrderPlaced, session: Session, publish: Publish) -> None:
        if event.order_id == "b":
            return
        publish(OrderBilled(event.order_id))
        entered.set()
        leave.wait(30)
        effect_sync(session, "handle", event)
        session.commit()
        left.set()
        if ending == "raises":
            raise ValueError("too late")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2), OrderPlaced("a", 3))
        # Its key is occupied until the thread ends: nothing of it runs beside it. Others go on.
        if world.kind == "postgresql":
            await until(lambda: service.counters.of("handled") == 1)
        await until(entered.is_set)
        await asyncio.sleep(0.7)
        assert world.deliveries() == []
        leave.set()
        await until_equal(world.deliveries, [("a", "failed", 1, "TimeoutError"), ("a", "behind", 0, None)])
        await until(lambda: service.counters.of("handled") == 1)
    assert left.is_set()
    assert (world.effects(), world.published("order.billed")) == ([], [])


# --- the end of a handler's session


class CountingSession(AsyncSession):
    """Its synchronous session does more at a commit than SQLAlchemy."""

    class sync_session_class(Session):  # noqa: N801 - SQLAlchemy's name
        def commit(self) -> None:
            self.execute(EFFECT, {"subscription": "commit", "key": "", "value": 0})
            super().commit()


async def test_the_commit_of_a_users_session_class_is_called(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: CountingSession) -> None:
        await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: service.counters.of("handled") == 1)
    assert world.effects("handle") == [("a", 1)]
    assert world.effects("commit") == [("", 0)]


async def test_what_is_published_in_the_last_flush_of_a_handler_is_published(world: World) -> None:
    await make_unique(world)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        @sa.event.listens_for(session.sync_session, "after_flush")
        def announce(flushing: Session, context: object) -> None:
            for item in flushing.new:
                service.publish(flushing, OrderBilled(item.key, event.number))

        session.add(Unique(key=event.order_id))

    service = world.service(handlers)
    await world.publish(service, OrderPlaced("a", 1))
    async with service:
        await until(lambda: service.counters.of("handled") == 1)
    assert world.one("select count(*) from only_once") == 1
    assert [row["key"] for row in world.published("order.billed")] == ["a"]


async def test_a_session_that_never_becomes_clean_fails_its_handler(world: World) -> None:
    await make_unique(world)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        @sa.event.listens_for(session.sync_session, "after_flush_postexec")
        def again(flushing: Session, context: object) -> None:
            flushing.add(Unique(key=str(uuid4())))

        session.add(Unique(key=event.order_id))

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "sqlalchemy.orm.exc.FlushError")])
    assert world.one("select count(*) from only_once") == 0


class Linked(Base):
    __tablename__ = "linked"

    id: Mapped[int] = mapped_column(primary_key=True)
    other_id: Mapped[int | None] = mapped_column(sa.ForeignKey("linked.id"))
    other: Mapped[Linked | None] = relationship(remote_side="Linked.id")


async def test_a_flush_that_failed_before_it_reached_the_database_and_was_swallowed_fails_the_handler(world: World) -> None:
    """The connection's transaction knows nothing of it, and the session has dropped what it was to write."""
    await world.execute("create table linked (id integer primary key, other_id integer)")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=ONCE)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        one, two = Linked(id=1), Linked(id=2)
        one.other, two.other = two, one
        session.add_all([one, two])
        with suppress(sa.exc.CircularDependencyError):
            await session.flush()

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "sqlalchemy.exc.PendingRollbackError")])
