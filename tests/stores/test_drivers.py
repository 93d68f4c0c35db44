"""The store on every driver, and on SQLite engines with hooks of the user's: one event through every table."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.services.databases import Database
from tests.stores.events import everything, ids, insert, outgoing, publish, read_on
from tests.stores.lanes import item
from tests.stores.opening import opened
from tests.stores.waiting import become
from tidings.ids import lane_of
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure


def untouched(engine: Engine) -> None:
    """As `create_engine` makes it: the driver begins deferred transactions before it writes."""


def recipe(engine: Engine) -> None:
    """SQLAlchemy's recipe for transactions that really begin at BEGIN."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def exclusive(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN EXCLUSIVE")


@pytest.mark.parametrize("sync", [False, True], ids=["AsyncEngine", "Engine"])
@pytest.mark.parametrize("hooks", [untouched, recipe, exclusive, configure])
class TestHooksOfASQLiteEngine:
    @asynccontextmanager
    async def opened(self, sqlite: Database, sync: bool, hooks: Callable[[Engine], None]) -> AsyncIterator[SQLStore]:
        engine = create_engine(sqlite.sync_url) if sync else create_async_engine(sqlite.url)
        store = SQLStore(engine)
        hooks(store.connections.sync_engine)
        try:
            yield store
        finally:
            store.close()
            if isinstance(engine, Engine):
                engine.dispose()
            else:
                await engine.dispose()

    async def test_the_store_works(self, sqlite: Database, sync: bool, hooks: Callable[[Engine], None]) -> None:
        async with self.opened(sqlite, sync, hooks) as store:
            assert await store.upgrade() == (0, 1)
            assert await store.check() == []
            await use_everything(store)

    async def test_who_waits_for_the_write_lock_gets_it(self, sqlite: Database, sync: bool, hooks: Callable[[Engine], None]) -> None:
        """A transaction of ours that reads first and then writes would fail at once, had it not asked for the lock at its beginning."""
        async with self.opened(sqlite, sync, hooks) as store:
            await store.upgrade()
            await store.transact(store.registry.register, "shop", {"shop": "earliest"}, [])

            async def work(number: int) -> None:
                for turn in range(8):
                    key = f"{number:016x}{turn:016x}"
                    assert await store.transact(store.inbox.open, 1, [key], [key]) == {}

            await asyncio.gather(*(work(number) for number in range(4)))


async def test_a_file_that_somebody_locks_can_still_be_connected_to(sqlite: Database) -> None:
    """`configure` switches to write-ahead logging; when that cannot be done now, the next connection does it."""
    engine = create_engine(sqlite.sync_url, pool_size=5)
    configure(engine, busy_timeout=0.05)
    with closing(sqlite3.connect(sqlite.dsn, isolation_level=None)) as other:
        other.execute("create table t (n integer)")
        other.execute("begin exclusive")
        with engine.connect() as connection, pytest.raises(OperationalError, match="locked"):
            connection.exec_driver_sql("select count(*) from t")
        other.execute("commit")
    engine.dispose()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar_one() == "wal"
    engine.dispose()


class Modern(sqlite3.Connection):
    """What Python 3.12 has, as its documentation describes it, for older ones: `autocommit`, and what `commit` does by it."""

    _mode: int | bool = False

    @property
    def autocommit(self) -> int | bool:
        return self._mode

    @autocommit.setter
    def autocommit(self, mode: int | bool) -> None:
        if mode is True and self.in_transaction:
            self.execute("commit")
        self._mode = mode

    def commit(self) -> None:
        if self._mode is not True:
            super().commit()


@pytest.mark.parametrize("mode", [True, False])
def test_the_transaction_modes_of_python_3_12_give_way_to_ours(sqlite: Database, mode: bool) -> None:
    if sys.version_info >= (3, 12):
        arguments: dict[str, Any] = {"autocommit": mode}
    else:

        def connect(*arguments: Any, **keywords: Any) -> Modern:
            connection = Modern(*arguments, **keywords)
            connection._mode = mode
            if not mode:
                connection.execute("begin")
            return connection

        arguments = {"factory": connect}
    engine = create_engine(sqlite.sync_url, connect_args=arguments)
    configure(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table t (n integer)")
        connection.exec_driver_sql("insert into t values (1)")
    with engine.connect() as connection:
        connection.exec_driver_sql("insert into t values (2)")
        connection.rollback()
        assert connection.exec_driver_sql("select n from t").scalars().all() == [1]
        assert connection.exec_driver_sql("pragma journal_mode").scalar_one() == "wal"
    with closing(sqlite3.connect(sqlite.dsn)) as other:
        assert other.execute("select n from t").fetchall() == [(1,)]
    engine.dispose()


async def use_everything(store: SQLStore) -> None:
    """One event through every table."""
    await store.open()
    await store.transact(store.registry.register, "shop", {"shop": "earliest"}, [])
    await store.call(store.registry.add_task, "upkeep")
    task = await store.call(store.leases.acquire, "upkeep", "me", 30.0)
    lease = await store.call(store.leases.acquire, "shop/shop@log", "me", 30.0)
    assert task is not None
    assert lease is not None
    one, many, delayed = outgoing("k", n=1), [outgoing("k"), outgoing()], outgoing("k", due=timedelta(0))
    await publish(store, one)
    await publish(store, *many, delayed)
    await become(lambda: store.transact(store.upkeep.move_due, task, 10))
    rows, _, mark = await store.call(read_on, store, lease.mark, 2)
    assert ids(rows) == ids([one, *many, delayed])
    keys, lane = [f"{n:032x}" for n in range(2)], lane_of("k")
    async with store.connections.transaction() as handling:
        assert await handling.run(store.inbox.open, 1, keys, [lane, lane]) == {}
        await handling.run(insert, store, [outgoing("k")])
        assert await handling.run(store.inbox.prove, 1, keys, lease.reader, lease.shard, lease.token) == 2
        await handling.commit()
    await store.transact(store.lanes.park, 1, [item(f"{n:032x}", lane) for n in (5, 6)])
    (claimed,) = await store.transact(store.lanes.claim, [1], 5, 30.0, "me")
    deliveries = await store.call(store.lanes.load, claimed, 5)
    assert await store.transact(store.lanes.finish, claimed, [row.event_key for row in deliveries], 30.0)
    assert await store.call(store.leases.move, lease, mark, 4, same_window=False)
    assert await store.transact(store.upkeep.purge_log, task, 0.0, 100) == 4
    await store.call(store.upkeep.beat, "0" * 32, "shop", None, "all", "host", 1, "0.1")
    await store.transact(store.stats.count, "shop", {("shop/charge", "handled"): 2})
    await store.call(store.upkeep.leave, "0" * 32)
    await store.call(store.leases.release, lease)
    assert len(await everything(store)) == 1


DRIVERS = {
    "asyncpg": ("postgresql+asyncpg", {}),
    "asyncpg without its cache of statements": (
        "postgresql+asyncpg",
        {"connect_args": {"prepared_statement_cache_size": 0, "statement_cache_size": 0}},
    ),
    "psycopg, async": ("postgresql+psycopg", {}),
    "psycopg": ("postgresql+psycopg", {"sync": True}),
    "aiosqlite": ("sqlite+aiosqlite", {}),
    "sqlite3": ("sqlite", {"sync": True}),
}


@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_driver_serves(request: pytest.FixtureRequest, driver: str) -> None:
    name, options = DRIVERS[driver]
    given: Database = request.getfixturevalue(name.partition("+")[0])
    url = f"{name}://{given.url.partition('://')[2]}"
    database = Database(given.kind, url=url, sync_url=url, dsn=given.dsn)
    async with opened(database, **options) as store:  # type: ignore[arg-type]
        assert await store.upgrade() == (0, 1)
        assert await store.check() == []
        await use_everything(store)
