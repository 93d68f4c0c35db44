"""On asyncpg a single event's inbox row goes with BEGIN, and the proof with COMMIT: nothing of what they promise may be lost by it."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect
from tidings import Publish, Retry, Subscriptions
from tidings.consume.execution import RUNS
from tidings.consume.pace import Pace
from tidings.errors import SchemaError
from tidings.ids import event_key, lane_of
from tidings.stores import SQLStore
from tidings.stores.sql.driver import begin

EFFECT = "insert into effects (subscription, key, value) values ('handle', $1, $2)"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, str]]:
    """What asyncpg sends in transactions, a message each, with the connection."""
    messages: list[tuple[Any, str]] = []

    def noting(name: str) -> None:
        method = getattr(asyncpg.Connection, name)

        async def send(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
            if self.is_in_transaction() or query.startswith("BEGIN"):
                messages.append((self, query))
            return await method(self, query, *arguments, **options)

        monkeypatch.setattr(asyncpg.Connection, name, send)

    noting("execute")
    noting("fetch")
    return messages


@pytest.fixture
async def engine(pg_world: World) -> Any:
    """One connection, so that whatever a transaction leaves behind meets the next one."""
    engine = create_async_engine(pg_world.database.url, pool_size=1, max_overflow=0)
    yield engine
    await engine.dispose()


async def test_an_event_alone_takes_three_round_trips(pg_world: World, sent: list[tuple[Any, str]]) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(order: OrderPlaced, connection: asyncpg.Connection) -> None:
        await connection.execute(EFFECT, order.order_id, order.number)

    service = pg_world.service(handlers)
    await pg_world.publish(service, OrderPlaced("k", 1))
    async with service:
        await until(lambda: service.counters.of("handled") == 1)
    (connection,) = [where for where, message in sent if message == EFFECT]
    messages = [message for where, message in sent if where is connection]
    at = messages.index(EFFECT)
    opening, closing = messages[at - 1], messages[at + 1]
    assert opening.startswith("BEGIN")
    assert "tidings_inbox" in opening
    assert "tidings: not whole" in closing
    assert closing.endswith(";COMMIT;")


async def test_what_it_publishes_goes_with_them_behind_the_proof(pg_world: World, sent: list[tuple[Any, str]]) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(order: OrderPlaced, publish: Publish) -> None:
        if order.number == 1:
            publish(OrderPlaced("other", 2))

    service = pg_world.service(handlers)
    await pg_world.publish(service, OrderPlaced("k", 1))
    async with service:
        await until(lambda: service.counters.of("handled") == 2)
    (closing,) = [
        message for _, message in sent if message.endswith(";COMMIT;") and "tidings_inbox" in message and "tidings_outbox" in message
    ]
    assert closing.index("tidings_inbox") < closing.index("pg_advisory_xact_lock") < closing.index("tidings_outbox")


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
async def test_without_the_lease_nothing_of_it_stays(pg_world: World, monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    monkeypatch.setattr(Pace, "share", lambda self: 100)
    handlers = Subscriptions()
    taken = False

    @handlers.subscribe(OrderPlaced, concurrency=1)
    async def handle(order: OrderPlaced, connection: asyncpg.Connection, publish: Publish) -> None:
        nonlocal taken
        await connection.execute(EFFECT, order.order_id, order.number)
        if not taken:
            taken = True
            await pg_world.execute("update tidings_checkpoints set lease_token = lease_token + 1, lease_until = null")
            publish(OrderPlaced("other", 9))

    service = pg_world.service(handlers)
    await pg_world.publish(service, *(OrderPlaced(f"k{n}", n) for n in range(3 if together else 1)))
    async with service:
        await until(lambda: service.counters.of("handled") == (3 if together else 1))
    assert taken
    assert len(pg_world.effects()) == (3 if together else 1)
    assert len(pg_world.published("order.placed")) == (3 if together else 1)


@pytest.mark.parametrize("ending", ["rollback", "commit"])
async def test_a_handler_that_ended_its_transaction_is_found_out_by_the_proof(pg_world: World, ending: str) -> None:
    """On the driver's own connection, behind SQLAlchemy's back; and another transaction is open when it returns."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(order: OrderPlaced, connection: asyncpg.Connection) -> None:
        await connection.execute(ending)
        await connection.execute("begin")
        await connection.execute(EFFECT, order.order_id, order.number)

    service = pg_world.service(handlers)
    await pg_world.publish(service, OrderPlaced("k", 1))
    async with service:
        await until(lambda: service.counters.of("failed"))
    assert pg_world.effects() == []
    assert service.counters.of("handled") == 0


def _script(world: World, key: str = "k", lane: str = "l") -> str:
    script = world.store.inbox.opening(7, event_key("s", key), lane_of(lane))
    assert script is not None
    return script


async def test_the_server_says_whether_the_event_runs(pg_world: World, engine: AsyncEngine) -> None:
    for answer in (RUNS, "INSERT 0 0"):
        async with engine.connect() as connection:
            assert await connection.run_sync(begin, _script(pg_world)) == answer
            await connection.commit()
    await pg_world.execute(f"insert into tidings_lanes (lane, subscription_id, depth) values ('{lane_of('l')}', 7, 1)")
    async with engine.connect() as connection:
        assert await connection.run_sync(begin, _script(pg_world, "another")) == "INSERT 0 0"
        await connection.rollback()
        assert await connection.run_sync(begin, _script(pg_world, "another", "free")) == RUNS


async def test_a_rollback_takes_what_went_with_begin_with_it(pg_world: World, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        for _ in range(2):
            assert await connection.run_sync(begin, _script(pg_world)) == RUNS
            await connection.rollback()


async def test_what_fails_with_begin_leaves_no_transaction_behind(pg_world: World, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        with pytest.raises(SchemaError):
            await connection.run_sync(begin, "insert into nowhere values (1)")
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError, match="division by zero"):
            await connection.run_sync(begin, "select 1/0")
    async with engine.connect() as connection:
        assert await connection.run_sync(begin, _script(pg_world)) == RUNS
        await connection.commit()
        # The driver's own transactions begin as ever.
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        async with driver.transaction():
            assert await driver.fetchval("select count(*) from tidings_inbox") == 1


async def test_what_a_listener_has_begun_is_gone_on_with(pg_world: World, engine: AsyncEngine) -> None:
    def listener(connection: Connection) -> None:
        connection.execute(text("select set_config('tidings.told', 'yes', true)"))

    event.listen(engine.sync_engine, "begin", listener)
    async with engine.connect() as connection:
        assert await connection.run_sync(begin, _script(pg_world)) is None
        assert (await connection.execute(text("select current_setting('tidings.told')"))).scalar_one() == "yes"


@pytest.mark.parametrize("fails", [False, True], ids=["returned", "failed"])
async def test_a_connection_that_somebody_still_uses_is_not_given_to_the_next_one(pg_world: World, fails: bool) -> None:
    """Neither COMMIT nor ROLLBACK can be sent on it. Back in the pool, it would take the next events into a transaction that nobody ends."""
    handlers = Subscriptions()
    left: list[asyncio.Task[Any]] = []

    @handlers.subscribe(OrderPlaced, concurrency=1, retry=Retry(attempts=5, base=0.01))
    async def handle(order: OrderPlaced, connection: asyncpg.Connection) -> None:
        await connection.execute(EFFECT, order.order_id, order.number)
        if order.number == 1 and not left:
            left.append(asyncio.create_task(connection.execute("select pg_sleep(0.5)")))
            await asyncio.sleep(0.05)
            if fails:
                raise ValueError("forgot to wait")

    engine = pg_world.another_engine(pool_size=6, max_overflow=0)
    service = pg_world.service(handlers, engine=engine)
    async with service:
        for number in range(1, 6):
            await pg_world.publish(service, OrderPlaced(f"k{number}", number))
        await until(lambda: service.counters.of("handled") == 5, seconds=20)
        assert sorted(number for _, number in pg_world.effects()) == [1, 2, 3, 4, 5]
    await asyncio.gather(*left, return_exceptions=True)


async def test_a_transaction_that_somebody_has_left_behind_is_not_gone_on_with(pg_world: World, engine: AsyncEngine) -> None:
    store = SQLStore(engine)
    for use in (store.connections.transaction, store.connections.autocommit):
        async with engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            await driver.execute("begin")
        async with use() as held:
            assert not held.sync.connection.dbapi_connection._connection.is_in_transaction() or held.sync.in_transaction()  # type: ignore[union-attr]
            await held.run(lambda c: c.execute(text("insert into effects (subscription, key, value) values ('x', 'y', 1)")))
            if use == store.connections.transaction:
                await held.commit()
    assert len(pg_world.effects()) == 2


async def test_an_engine_over_a_pool_of_asyncpg_can_be_used(pg_world: World) -> None:
    pool = await asyncpg.create_pool(pg_world.database.dsn, min_size=1, max_size=20)
    engine = create_async_engine("postgresql+asyncpg://", async_creator=pool.acquire)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(order: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        await effect(session, "handle", order)
        if order.number == 1:
            publish(OrderPlaced("other", 2))

    service = pg_world.service(handlers, engine=engine)
    async with service:
        async with AsyncSession(engine) as session, session.begin():
            service.publish(session, OrderPlaced("k", 1))
        await until(lambda: service.counters.of("handled") == 2)
    assert len(pg_world.effects()) == 2
    # Nor did the reader end over it, so that its successor went on carefully.
    assert service.counters.of("promoted") == 0
    await engine.dispose()
    pool.terminate()
