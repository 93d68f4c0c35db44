"""The database goes away and comes back: nothing is lost, nothing is handled twice, nothing counts as a failure."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync, open_world
from tests.services.databases import Database
from tidings import Envelope, Publish, Retry, Subscriptions

TERMINATE = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"

# SQLAlchemy drops connections that were cut off without having awaited their end; they are collected here, and not in another test.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning"
)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect what a test has cut off."""
    yield
    gc.collect()


@contextmanager
def superuser(database: Database) -> Iterator[psycopg.Connection]:
    """A connection to another database of the server, which sees this one from outside."""
    with psycopg.connect(database.dsn.rpartition("/")[0] + "/postgres", autocommit=True) as connection:
        yield connection


def terminate(database: Database) -> None:
    name = database.dsn.rpartition("/")[2]
    with superuser(database) as connection:
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])


@pytest.mark.parametrize("asynchronous", [True, False], ids=["asyncpg", "psycopg"])
async def test_every_connection_is_lost_again_and_again(postgresql: Database, asynchronous: bool) -> None:
    handlers = Subscriptions()
    calls: list[int] = []

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, session: Session, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))
        effect_sync(session, "handle", event)

    @handlers.subscribe(OrderPlaced, concurrency=4)
    async def plain(event: OrderPlaced) -> None:
        calls.append(event.number)
        await asyncio.sleep(0.001)

    async with open_world(postgresql, asynchronous=asynchronous) as world:
        service = world.service(handlers)
        await world.publish(service, *(OrderPlaced(f"k{number % 20}", number) for number in range(300)))
        async with service:
            for step in range(5):
                await until(lambda step=step: service.counters.of("handled") > step * 40)  # type: ignore[misc]
                terminate(postgresql)
            await until(lambda: len(world.effects()) >= 300, seconds=30)
            await until(lambda: len(set(calls)) == 300, seconds=30)
            await until(lambda: world.one("select count(*) from tidings_inbox") == 600)
            assert service.counters.of("failed") == 0
        assert sorted(value for _, value in world.effects()) == list(range(300))
        for k in range(20):
            values = [value for key, value in world.effects() if key == f"k{k}"]
            assert values == sorted(values)
        assert len(world.published("order.billed")) == 300
        assert world.deliveries() == []


async def test_the_database_cannot_be_reached_for_a_while(pg_world: World, postgresql: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tidings")
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.05, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await effect(session, "handle", event)
        if event.number == 0 and envelope.attempt < 3:
            raise ValueError("no luck")

    name = postgresql.dsn.rpartition("/")[2]
    service = pg_world.service(handlers)
    await pg_world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(50)))
    async with service:
        await until(lambda: service.counters.of("handled") > 0)
        with superuser(postgresql) as connection:
            connection.execute(f'alter database "{name}" with allow_connections false')
            try:
                terminate(postgresql)
                # Long enough for everything that runs to have met it.
                await asyncio.sleep(5)
            finally:
                connection.execute(f'alter database "{name}" with allow_connections true')
        await pg_world.publish(service, OrderPlaced("after", 100))
        await until(lambda: len(pg_world.effects()) == 51, seconds=60)
        await until_equal(pg_world.lanes, [], seconds=60)
        await until(
            lambda: any(record.getMessage().startswith("the database can be used again after") for record in caplog.records), seconds=60
        )
    # The reader, the parked events and three tasks with a lease have tried again all the time.
    told = [record.getMessage() for record in caplog.records if record.name == "tidings.store" and record.levelno == logging.WARNING]
    assert 1 <= len(told) <= 5
    assert all("trying again until it can be used" in line for line in told)
    assert not [record.getMessage() for record in caplog.records if "cannot be" in record.getMessage() and record.name != "tidings.store"]
    assert service.counters.of("failed") == 2
    assert sorted(value for _, value in pg_world.effects()) == [*range(50), 100]


async def test_an_attempt_at_a_parked_event_that_loses_its_connection_is_not_counted(pg_world: World, postgresql: Database) -> None:
    handlers = Subscriptions()
    attempts: list[int] = []

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.05, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        attempts.append(envelope.attempt)
        await effect(session, "handle", event)
        if envelope.attempt == 1:
            raise ValueError("no luck")
        if len(attempts) == 2:
            terminate(postgresql)
            await effect(session, "handle", event)

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, OrderPlaced("a", 1))
        await until_equal(pg_world.effects, [("a", 1)], seconds=60)
        assert service.counters.of("failed") == 1
    assert attempts == [1, 2, 2]


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("connection failed: connection to server at 10.0.0.1 refused"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        ConnectionRefusedError(111, "Connection refused"),
        TimeoutError("the payment service did not answer"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_a_handler_needs_besides_our_database_is_down(world: World, error: Exception) -> None:
    """That is the handler's failure: our own connection is fine, and nobody waits for ours to come back."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=2, base=1000, max=1000))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        if event.order_id == "a":
            raise error

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(lambda: [delivery[:3] for delivery in world.deliveries()], [("a", "failed", 1)])
        await until_equal(world.effects, [("b", 2)])


async def test_a_pool_that_the_application_has_used_up_stops_nothing_for_good(pg_world: World) -> None:
    """SQLAlchemy raises an error of its own when no connection comes free; leases, retries and heartbeats must outlive it."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.05, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await effect(session, "handle", event)
        if event.number == 1 and envelope.attempt == 1:
            raise ValueError("no luck")

    engine = pg_world.another_engine(pool_size=8, max_overflow=0, pool_timeout=0.2)
    service = pg_world.service(handlers, engine=engine)
    async with service:
        await pg_world.publish(service, OrderPlaced("a", 0))
        await until_equal(pg_world.effects, [("a", 0)])
        taken: list[Any] = []
        with pytest.raises(PoolTimeout):
            while True:
                taken.append(await engine.connect())
        await pg_world.publish(service, OrderPlaced("a", 1), OrderPlaced("a", 2))
        # Longer than the pool's timeout, so that everything that runs has met it.
        await asyncio.sleep(2.5)
        for connection in taken:
            await connection.close()
        await until_equal(pg_world.effects, [("a", 0), ("a", 1), ("a", 2)], seconds=30)
        await until_equal(pg_world.lanes, [])
        assert service.counters.of("failed") == 1
