"""`service.publishing(connection)`: the same block on every driver."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest

from tests.publish.shop import OrderPlaced, Shop, StockCounted
from tidings.errors import InvalidEvent, NoTransaction, PublishError
from tidings.publish.publishing import Publishing

WRITE = "insert into orders (name, note) values ('{}', '')"


@dataclass
class Driver:
    """One driver's connection, with the few words in which drivers differ, all of them awaited.

    Attributes:
        connection: what is given to `publishing`.
        execute: runs SQL.
        begin: begins a transaction; its two results commit it and roll it back.
        end: commits or rolls back behind the block's back; None does it by SQL.
    """

    name: str
    connection: Any
    execute: Callable[[str], Awaitable[Any]]
    begin: Callable[[], Awaitable[tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]]]
    in_transaction: Callable[[], bool]
    end: Callable[[str], Awaitable[Any]] | None = None

    @asynccontextmanager
    async def publishing(self, shop: Shop) -> AsyncIterator[Any]:
        """The block, whether `with` or `async with`."""
        block: Any = Publishing(shop.publisher, self.connection)
        if self.name in ("psycopg", "sqlite3", "sqlite3 legacy autocommit", "sqlalchemy"):
            with block as publish:
                yield publish
        else:
            async with block as publish:
                yield publish


def _later(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


def _by_text(name: str, connection: Any, execute: Callable[[str], Awaitable[Any]], in_transaction: Callable[[], bool]) -> Driver:
    async def begin() -> Any:
        await execute("begin")
        return (lambda: execute("commit")), (lambda: execute("rollback"))

    return Driver(name, connection, execute, begin, in_transaction)


@asynccontextmanager
async def _asyncpg(shop: Shop) -> AsyncIterator[Driver]:
    connection = await asyncpg.connect(shop.database.dsn)

    async def begin() -> Any:
        transaction = connection.transaction()
        await transaction.start()
        return transaction.commit, transaction.rollback

    yield Driver("asyncpg", connection, connection.execute, begin, connection.is_in_transaction)
    await connection.close()


@asynccontextmanager
async def _asyncpg_pool(shop: Shop) -> AsyncIterator[Driver]:
    async with asyncpg.create_pool(shop.database.dsn, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        # Users' codecs must not touch what we send.
        await connection.set_type_codec("json", encoder=lambda value: f"encoded twice: {value}", decoder=str, schema="pg_catalog")
        await connection.set_type_codec("uuid", encoder=str, decoder=str, schema="pg_catalog")
        await connection.set_type_codec("timestamptz", encoder=lambda value: 1 / 0, decoder=str, schema="pg_catalog")
        yield _by_text("asyncpg pool", connection, connection.execute, connection.is_in_transaction)


@asynccontextmanager
async def _psycopg(shop: Shop) -> AsyncIterator[Driver]:
    with psycopg.connect(shop.database.dsn, row_factory=psycopg.rows.dict_row) as connection:
        status = psycopg.pq.TransactionStatus

        async def begin() -> Any:
            connection.execute("select 1")
            return _later(connection.commit), _later(connection.rollback)

        yield Driver(
            "psycopg", connection, _later(connection.execute), begin, lambda: connection.info.transaction_status is not status.IDLE
        )
        connection.rollback()


@asynccontextmanager
async def _psycopg_async(shop: Shop, **options: Any) -> AsyncIterator[Driver]:
    async with await psycopg.AsyncConnection.connect(shop.database.dsn, **options) as connection:
        status = psycopg.pq.TransactionStatus

        async def begin() -> Any:
            await connection.execute("select 1")
            return connection.commit, connection.rollback

        yield Driver("psycopg async", connection, connection.execute, begin, lambda: connection.info.transaction_status is not status.IDLE)
        await connection.rollback()


@asynccontextmanager
async def _psycopg_autocommit(shop: Shop) -> AsyncIterator[Driver]:
    async with _psycopg_async(shop, autocommit=True, cursor_factory=psycopg.AsyncRawCursor) as driver:
        text = _by_text("psycopg autocommit", driver.connection, driver.execute, driver.in_transaction)
        yield text


@asynccontextmanager
async def _sqlite3(shop: Shop, **options: Any) -> AsyncIterator[Driver]:
    connection = sqlite3.connect(shop.database.dsn, **options)
    connection.row_factory = sqlite3.Row
    name = "sqlite3 legacy autocommit" if options else "sqlite3"
    yield _by_text(name, connection, _later(connection.execute), lambda: connection.in_transaction)
    connection.close()


@asynccontextmanager
async def _aiosqlite(shop: Shop) -> AsyncIterator[Driver]:
    async with aiosqlite.connect(shop.database.dsn) as connection:
        connection.row_factory = lambda cursor, row: {"row": row}  # type: ignore[assignment]
        yield _by_text("aiosqlite", connection, connection.execute, lambda: connection.in_transaction)


@asynccontextmanager
async def _sqlalchemy(shop: Shop) -> AsyncIterator[Driver]:
    engine = shop.engine()
    with engine.connect() as connection:

        async def begin() -> Any:
            transaction = connection.begin()
            return _later(transaction.commit), _later(transaction.rollback)

        yield Driver(
            "sqlalchemy",
            connection,
            _later(connection.exec_driver_sql),
            begin,
            connection.in_transaction,
            _later(lambda how: getattr(connection, how)()),
        )
    engine.dispose()


@asynccontextmanager
async def _sqlalchemy_async(shop: Shop) -> AsyncIterator[Driver]:
    engine = shop.async_engine()
    async with engine.connect() as connection:

        async def begin() -> Any:
            transaction = await connection.begin()
            return transaction.commit, transaction.rollback

        yield Driver(
            "sqlalchemy async",
            connection,
            connection.exec_driver_sql,
            begin,
            connection.in_transaction,
            lambda how: getattr(connection, how)(),
        )
    await engine.dispose()


OPENERS: dict[str, tuple[str, Callable[[Shop], AbstractAsyncContextManager[Driver]]]] = {
    "asyncpg": ("postgresql", _asyncpg),
    "asyncpg pool with codecs": ("postgresql", _asyncpg_pool),
    "psycopg": ("postgresql", _psycopg),
    "psycopg async": ("postgresql", _psycopg_async),
    "psycopg autocommit, raw cursors": ("postgresql", _psycopg_autocommit),
    "sqlite3": ("sqlite", _sqlite3),
    "sqlite3 without transactions of its own": ("sqlite", lambda shop: _sqlite3(shop, isolation_level=None)),
    "aiosqlite": ("sqlite", _aiosqlite),
    "sqlalchemy on sqlite": ("sqlite", _sqlalchemy),
    "sqlalchemy on postgresql": ("postgresql", _sqlalchemy),
    "sqlalchemy async on sqlite": ("sqlite", _sqlalchemy_async),
    "sqlalchemy async on postgresql": ("postgresql", _sqlalchemy_async),
}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.postgresql] if kind == "postgresql" else []) for name, (kind, _) in OPENERS.items()]
)
def opener(request: pytest.FixtureRequest) -> tuple[Shop, Callable[[Shop], AbstractAsyncContextManager[Driver]]]:
    kind, opener = OPENERS[request.param]
    return request.getfixturevalue("pg" if kind == "postgresql" else "lite"), opener


@pytest.fixture
def shop(opener: tuple[Shop, Any]) -> Shop:
    return opener[0]


@pytest.fixture
async def driver(opener: tuple[Shop, Callable[[Shop], AbstractAsyncContextManager[Driver]]]) -> AsyncIterator[Driver]:
    shop, open_driver = opener
    async with open_driver(shop) as driver:
        yield driver


async def test_a_block_outside_a_transaction_begins_and_commits_one(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop) as publish:
        assert driver.in_transaction()
        await driver.execute(WRITE.format("a"))
        first = publish(OrderPlaced("a", "x"), headers={"h": "ü"})
        publish(StockCounted(1))
        publish(OrderPlaced("later"), delay=timedelta(hours=1))
        assert shop.log() == []
    assert not driver.in_transaction()
    rows = shop.log()
    assert [(row.name, row.key) for row in rows] == [("order.placed", "a"), ("stock.counted", None)]
    assert (rows[0].id, rows[0].data, rows[0].headers) == (first, {"order": "a", "note": "x"}, {"h": "ü"})
    assert [row.key for row in shop.schedule()] == ["later"]
    assert (shop.stored(), shop.wakes) == (["a"], ["shop"])


async def test_a_block_with_one_event(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("a"))
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("b"), key=None)
    assert [(row.key, row.data["order"]) for row in shop.log()] == [("a", "a"), (None, "b")]


async def test_a_block_without_events_commits_what_the_caller_wrote(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop):
        await driver.execute(WRITE.format("a"))
    assert (shop.stored(), shop.log(), shop.wakes) == (["a"], [], [])


async def test_an_exception_in_the_block_rolls_back_what_the_block_began(shop: Shop, driver: Driver) -> None:
    async def fail() -> None:
        async with driver.publishing(shop) as publish:
            await driver.execute(WRITE.format("a"))
            publish(OrderPlaced("a"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert not driver.in_transaction()
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("b"))
    assert (shop.stored(), shop.orders()) == ([], ["b"])


async def test_a_block_inside_the_caller_s_transaction_leaves_its_end_to_the_caller(shop: Shop, driver: Driver) -> None:
    for name, kept in (("a", True), ("b", False), ("c", True)):
        commit, rollback = await driver.begin()
        await driver.execute(WRITE.format(name))
        async with driver.publishing(shop) as publish:
            publish(OrderPlaced(name))
        assert driver.in_transaction()
        assert name not in shop.orders()
        await (commit if kept else rollback)()
        assert not driver.in_transaction()
    assert (shop.orders(), shop.stored()) == (["a", "c"], ["a", "c"])
    assert shop.wakes == (["shop", "shop"] if driver.name.startswith("sqlalchemy") else [])


async def test_an_exception_in_the_block_publishes_nothing_and_leaves_the_transaction_to_the_caller(shop: Shop, driver: Driver) -> None:
    commit, _ = await driver.begin()
    await driver.execute(WRITE.format("a"))

    async def fail() -> None:
        async with driver.publishing(shop) as publish:
            publish(OrderPlaced("lost"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("kept"))
    await commit()
    assert (shop.orders(), shop.stored()) == (["kept"], ["a"])


async def test_an_inner_block_hands_its_events_to_the_outer_one(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("1"))
        async with driver.publishing(shop) as inner:
            inner(OrderPlaced("2"))
        publish(OrderPlaced("3"))
        assert shop.log() == []
    assert shop.orders() == ["1", "2", "3"]
    assert shop.wakes == ["shop"]


async def test_an_inner_block_that_fails_loses_its_events_with_the_savepoint_around_it(shop: Shop, driver: Driver) -> None:
    async def fail() -> None:
        async with driver.publishing(shop) as inner:
            inner(OrderPlaced("lost"))
            await driver.execute(WRITE.format("lost"))
            raise LookupError

    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("1"))
        await driver.execute("savepoint here")
        with pytest.raises(LookupError):
            await fail()
        await driver.execute("rollback to savepoint here")
        async with driver.publishing(shop) as inner:
            inner(OrderPlaced("2"))
            async with driver.publishing(shop) as innermost:
                innermost(OrderPlaced("3"))
    assert (shop.orders(), shop.stored()) == (["1", "2", "3"], [])


async def test_publishing_after_the_block_was_left_is_an_error(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("a"))
    with pytest.raises(NoTransaction, match="has been left"):
        publish(OrderPlaced("b"))
    assert shop.orders() == ["a"]


async def test_a_block_is_for_one_use(shop: Shop, driver: Driver) -> None:
    block: Any = Publishing(shop.publisher, driver.connection)
    if block._link.asynchronous:
        async with block:
            pass
        with pytest.raises(PublishError, match="entered before"):
            await block.__aenter__()
    else:
        with block:
            pass
        with pytest.raises(PublishError, match="entered before"):
            block.__enter__()


async def test_a_transaction_that_the_caller_ends_inside_the_block_is_an_error(shop: Shop, driver: Driver) -> None:
    end_behind_its_back = driver.end or driver.execute

    async def end(how: str) -> None:
        async with driver.publishing(shop) as publish:
            await driver.execute(WRITE.format(how))
            publish(OrderPlaced(how))
            await end_behind_its_back(how)

    for how in ("commit", "rollback"):
        with pytest.raises(NoTransaction, match="ended inside the block, and its 1 events are not published"):
            await end(how)
        assert not driver.in_transaction()
    async with driver.publishing(shop):
        await end_behind_its_back("commit")
    async with driver.publishing(shop) as publish:
        publish(OrderPlaced("next"))
    assert (shop.orders(), shop.stored()) == (["next"], ["commit"])


async def test_an_event_that_cannot_be_encoded_fails_at_the_call_and_the_block_may_go_on(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop) as publish:
        with pytest.raises(InvalidEvent):
            publish(OrderPlaced(1))  # type: ignore[arg-type]
        publish(OrderPlaced("a"))
    assert shop.orders() == ["a"]


async def test_many_events_keep_publish_order(shop: Shop, driver: Driver) -> None:
    names = [f"n{number}" for number in range(200)]
    async with driver.publishing(shop) as publish:
        for name in names:
            publish(OrderPlaced(name))
    assert shop.orders() == names


async def test_a_block_on_sqlite_takes_the_write_lock_when_it_is_entered(lite: Shop) -> None:
    async with aiosqlite.connect(lite.database.dsn) as first, aiosqlite.connect(lite.database.dsn, timeout=0) as second:
        async with Publishing(lite.publisher, first) as publish:
            publish(OrderPlaced("a"))
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await Publishing(lite.publisher, second).__aenter__()
        async with Publishing(lite.publisher, second) as publish:
            publish(OrderPlaced("b"))
    assert lite.orders() == ["a", "b"]


async def test_a_task_cancelled_while_its_block_begins_leaves_no_lock_behind(lite: Shop) -> None:
    async with aiosqlite.connect(lite.database.dsn) as connection:
        gate = threading.Event()
        busy: list[asyncio.Future[Any]] = []

        def keep_the_thread_busy(identity: object) -> bool:
            busy.append(asyncio.ensure_future(connection._execute(gate.wait)))
            asyncio.get_running_loop().call_soon(task.cancel)
            asyncio.get_running_loop().call_soon(gate.set)
            return True

        publisher = lite.publisher_named("shop", same_identity=keep_the_thread_busy)
        task = asyncio.ensure_future(Publishing(publisher, connection).__aenter__())
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.gather(*busy)
        assert not connection.in_transaction


@contextmanager
def nothing_open() -> Iterator[None]:
    from tidings.publish import publishing

    yield
    assert publishing._open == {}


async def test_no_block_is_remembered_after_it_was_left(shop: Shop, driver: Driver) -> None:
    with nothing_open():
        async with driver.publishing(shop) as publish, driver.publishing(shop):
            publish(OrderPlaced("a"))
        with pytest.raises(LookupError):
            await _fail(shop, driver)


async def _fail(shop: Shop, driver: Driver) -> None:
    async with driver.publishing(shop):
        raise LookupError
