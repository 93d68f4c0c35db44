"""The store's connections: both kinds of engine, every driver, whatever isolation level and hooks the user's engine has."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database
from tests.stores.events import earliest, everything, ids, outgoing, publish, read_on
from tests.stores.opening import opened
from tests.stores.waiting import become
from tidings.stores import SQLStore

KINDS = pytest.mark.parametrize("sync", [False, True], ids=["AsyncEngine", "Engine"])
LEVELS = {
    "postgresql": [None, "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE", "AUTOCOMMIT"],
    "sqlite": [None, "SERIALIZABLE", "AUTOCOMMIT"],
}


def notes(connection: Connection) -> list[str]:
    return list(connection.exec_driver_sql("select word from notes order by word").scalars())


def note(connection: Connection, word: str) -> None:
    connection.exec_driver_sql(f"insert into notes values ('{word}')")


@asynccontextmanager
async def noting(database: Database, *, sync: bool, **options: Any) -> AsyncIterator[SQLStore]:
    """A store with a table of the user's."""
    async with opened(database, sync=sync, **options) as store:
        await store.upgrade()
        await store.transact(lambda c: c.exec_driver_sql("create table notes (word text primary key)").close())
        yield store


@pytest.fixture(params=[(kind, level) for kind, levels in LEVELS.items() for level in levels], ids=lambda case: f"{case[0]} {case[1]}")
def leveled(request: pytest.FixtureRequest) -> tuple[Database, dict[str, str]]:
    """A database, and engine options with each isolation level that it has."""
    kind, level = request.param
    return request.getfixturevalue(kind), {} if level is None else {"isolation_level": level}


@KINDS
class TestTransactions:
    async def test_it_is_kept_by_commit_and_by_nothing_else(self, leveled: tuple[Database, dict[str, str]], sync: bool) -> None:
        database, options = leveled
        # What a handler's transaction is: on an engine that commits each statement by itself the store asks for more.
        level = "READ COMMITTED" if database.kind == "postgresql" else None
        async with noting(database, sync=sync, **options) as store:
            async with store.connections.transaction(level) as held:
                await held.run(note, "kept")
                await held.commit()
            async with store.connections.transaction(level) as held:
                await held.run(note, "left")
            with pytest.raises(ZeroDivisionError):
                await store.transact(lambda c: (note(c, "failed"), 1 / 0))
            async with store.connections.transaction(level) as held:
                await held.run(note, "rolled back")
                await held.rollback()
                await held.begin()
                await held.run(note, "and again")
                await held.commit()
            assert await store.call(notes) == ["and again", "kept"]

    async def test_every_statement_of_an_autocommit_connection_sees_what_was_committed_before_it(
        self, leveled: tuple[Database, dict[str, str]], sync: bool
    ) -> None:
        """A snapshot that stands still would never let the log's reader see anything new."""
        database, options = leveled
        async with noting(database, sync=sync, **options) as store:
            first, second = outgoing(), outgoing()
            await publish(store, first)
            async with store.connections.autocommit() as reader:
                _, _, mark = await reader.run(read_on, store, earliest(store))
                await publish(store, second)
                rows, _, _ = await reader.run(read_on, store, mark)
                assert ids(rows) == [str(second.id)]
                await reader.run(note, "at once")
                assert await store.call(notes) == ["at once"]

    async def test_the_engines_connections_are_as_they_were(self, leveled: tuple[Database, dict[str, str]], sync: bool) -> None:
        database, options = leveled
        async with opened(database, sync=sync, pool_size=1, max_overflow=0, **options) as store:
            async with store.connections.transaction() as held:
                before = await held.run(Connection.get_isolation_level)
            await store.upgrade()
            await publish(store, outgoing())
            assert len(await everything(store)) == 1
            async with store.connections.transaction() as held:
                assert await held.run(Connection.get_isolation_level) == before


@KINDS
async def test_our_transactions_are_read_committed_whatever_the_engines_level(postgresql: Database, sync: bool) -> None:
    async with opened(postgresql, sync=sync, isolation_level="SERIALIZABLE") as store:
        assert await store.transact(lambda c: c.exec_driver_sql("show transaction_isolation").scalar_one()) == "read committed"


@KINDS
async def test_work_sees_the_callers_context(database: Database, sync: bool) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("eu")
    async with opened(database, sync=sync) as store:
        assert await store.call(lambda connection: tenant.get()) == "eu"


@KINDS
async def test_nothing_exists_before_the_first_use(database: Database, sync: bool) -> None:
    """So that a process may fork after it has made its store."""
    threads = set(threading.enumerate())
    async with opened(database, sync=sync) as store:
        assert set(threading.enumerate()) == threads
        assert store.connections.sync_engine.pool.checkedin() == 0  # type: ignore[attr-defined]
        assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@KINDS
async def test_a_store_that_was_closed_can_be_used_again(database: Database, sync: bool) -> None:
    async with noting(database, sync=sync) as store:
        store.close()
        assert await store.call(notes) == []


class TestCancellation:
    """A task may be cancelled at any moment; the pool gets its connection back, fit for the next one."""

    @KINDS
    async def test_in_the_middle_of_a_statement(self, postgresql: Database, sync: bool) -> None:
        async with noting(postgresql, sync=sync, pool_size=1, max_overflow=0, pool_timeout=20) as store:
            for use in (store.call, store.transact):
                task = asyncio.create_task(use(lambda c: c.exec_driver_sql("select pg_sleep(0.7)").close()))
                await become(lambda: asleep(postgresql))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await store.transact(note, use.__name__)
            assert await store.call(notes) == ["call", "transact"]
            assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    @KINDS
    async def test_between_the_statements_of_a_transaction(self, database: Database, sync: bool) -> None:
        async with noting(database, sync=sync, pool_size=1, max_overflow=0) as store:
            reached = asyncio.Event()

            async def work() -> None:
                async with store.connections.transaction() as held:
                    await held.run(note, "undone")
                    reached.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await store.transact(note, "kept")
            assert await store.call(notes) == ["kept"]

    @KINDS
    async def test_while_waiting_for_sqlites_write_lock(self, sqlite: Database, sync: bool) -> None:
        """A statement that still waits in a thread must not take the lock for somebody who has gone."""
        async with noting(sqlite, sync=sync) as store:
            with closing(sqlite3.connect(sqlite.dsn, isolation_level=None)) as other:
                other.execute("begin immediate")
                task = asyncio.create_task(store.transact(note, "too late"))
                done, _ = await asyncio.wait([task], timeout=0.1)
                assert not done
                task.cancel()
                await asyncio.sleep(0)
                other.execute("commit")
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                await store.transact(note, "in time")
            assert await store.call(notes) == ["in time"]

    @KINDS
    async def test_while_waiting_for_a_connection(self, database: Database, sync: bool) -> None:
        async with noting(database, sync=sync, pool_size=1, max_overflow=0, pool_timeout=20) as store:
            async with store.connections.autocommit():
                task = asyncio.create_task(store.call(notes))
                done, _ = await asyncio.wait([task], timeout=0.1)
                assert not done
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            assert await store.call(notes) == []

    @KINDS
    async def test_at_any_moment(self, database: Database, sync: bool) -> None:
        loop = asyncio.get_running_loop()
        usual = loop.get_exception_handler()

        def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            # asyncpg notes it on a future that nobody waits for any more, when it was connecting at that moment.
            if "unexpected connection_lost() call" not in str(context.get("exception")):
                assert usual is not None
                usual(loop, context)

        loop.set_exception_handler(handle)
        async with noting(database, sync=sync, pool_size=2, max_overflow=0) as store:

            async def work(word: str) -> None:
                async with store.connections.transaction() as held:
                    await held.run(note, word)
                    assert word in await held.run(notes)
                    await held.commit()

            for turn in range(40):
                task = asyncio.create_task(work(f"{turn:02}"))
                for _ in range(turn):
                    await asyncio.sleep(0)
                await asyncio.wait([task], timeout=turn * 0.0002)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None
            await work("the last")
            assert "the last" in await store.call(notes)
            assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        loop.set_exception_handler(usual)

    async def test_while_a_connection_that_was_cut_is_given_up(self, postgresql: Database) -> None:
        """It is closed gently first; who is cancelled then leaves SQLAlchemy with a connection that has none of the driver's."""
        async with noting(postgresql, sync=False, pool_size=2, max_overflow=0) as store:

            async def work(begun: asyncio.Future[int], cut: asyncio.Event) -> None:
                async with store.connections.transaction() as held:
                    begun.set_result(await held.run(lambda c: c.exec_driver_sql("select pg_backend_pid()").scalar_one()))
                    await cut.wait()
                    await held.run(notes)

            for turn in range(20):
                begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                cut = asyncio.Event()
                task = asyncio.create_task(work(begun, cut))
                pid = await begun
                with psycopg.connect(postgresql.dsn, autocommit=True) as admin:
                    admin.execute("select pg_terminate_backend(%s, 1000)", [pid])
                cut.set()
                for _ in range(turn):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or isinstance(task.exception(), DBAPIError), task.exception()
            await store.transact(note, "the last")
            assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def asleep(database: Database) -> bool:
    def look() -> bool:
        with psycopg.connect(database.dsn) as connection:
            query = "select exists (select 1 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep')"
            return connection.execute(query).fetchone() == (True,)

    return await asyncio.to_thread(look)
