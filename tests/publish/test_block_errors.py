"""What cannot be published on says so, by name, before anything is done; what fails inside a block leaves a usable connection."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.publish.shop import OrderPlaced, Shop
from tidings.errors import NoTransaction, SchemaError, WrongDatabase
from tidings.publish.publishing import Publishing


async def test_the_wrong_kind_of_with_names_the_right_one(pg: Shop) -> None:
    with (
        psycopg.connect(pg.database.dsn) as sync,
        pytest.raises(TypeError, match=r"psycopg's Connection is synchronous: use `with service\.pub"),
    ):
        await Publishing(pg.publisher, sync).__aenter__()
    connection = await asyncpg.connect(pg.database.dsn)
    with pytest.raises(TypeError, match=r"asyncpg's Connection is asynchronous: use `async with service\.publishing"):
        Publishing(pg.publisher, connection).__enter__()
    async with Publishing(pg.publisher, connection) as publish:
        publish(OrderPlaced("a"))
    await connection.close()
    assert pg.orders() == ["a"]


def test_a_session_is_sent_to_publish(lite: Shop) -> None:
    engine = lite.engine()
    asynchronous = lite.async_engine()
    with Session(engine) as session:
        for thing in (
            session,
            AsyncSession(asynchronous),
            scoped_session(sessionmaker(engine)),
            async_scoped_session(async_sessionmaker(asynchronous), lambda: 1),
        ):
            with pytest.raises(TypeError, match=r"publish on it directly: service\.publish\(session, event\)"):
                Publishing(lite.publisher, thing)


def test_engines_and_cursors_are_told_what_to_give_instead(lite: Shop) -> None:
    with pytest.raises(TypeError, match=r"sqlalchemy.engine.base.Engine; give one of its connections: `with engine\.connect"):
        Publishing(lite.publisher, lite.engine())
    with pytest.raises(TypeError, match=r"async with engine\.connect"):
        Publishing(lite.publisher, lite.async_engine())
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(TypeError, match=r"cursor\.connection"):
        Publishing(lite.publisher, connection.cursor())


@pytest.mark.parametrize("thing", [None, object(), "postgresql://", 5, sqlite3])
def test_anything_else_is_told_what_is_supported(lite: Shop, thing: object) -> None:
    with pytest.raises(TypeError, match="asyncpg, psycopg, sqlite3, aiosqlite or SQLAlchemy"):
        Publishing(lite.publisher, thing)


def test_a_subclass_of_a_driver_s_connection_is_recognised(lite: Shop) -> None:
    class Mine(sqlite3.Connection):
        pass

    with closing(sqlite3.connect(lite.database.dsn, factory=Mine)) as connection, Publishing(lite.publisher, connection) as publish:
        publish(OrderPlaced("a"))
    assert lite.orders() == ["a"]


# Connections without a usable transaction


def test_a_sqlalchemy_connection_in_autocommit_is_refused(shop: Shop) -> None:
    engine = shop.engine()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(NoTransaction, match="AUTOCOMMIT"), Publishing(shop.publisher, connection):
            pass
        assert not connection.in_transaction()
    engine.dispose()


def test_a_closed_sqlalchemy_connection_is_refused(lite: Shop) -> None:
    connection = lite.engine().connect()
    connection.close()
    with pytest.raises(NoTransaction, match="closed"), Publishing(lite.publisher, connection):
        pass


def test_a_sqlalchemy_transaction_that_has_failed_is_refused(pg: Shop) -> None:
    with pg.connect() as admin:
        admin.execute("create table later (id int primary key deferrable initially deferred)")
    with pg.engine().connect() as connection:
        transaction = connection.begin()
        connection.exec_driver_sql("insert into later values (1), (1)")
        with pytest.raises(IntegrityError):
            transaction.commit()
        with pytest.raises(NoTransaction, match="roll it back"), Publishing(pg.publisher, connection):
            pass
        transaction.rollback()
        with Publishing(pg.publisher, connection) as publish:
            publish(OrderPlaced("a"))
    assert pg.orders() == ["a"]


async def test_an_async_connection_that_is_not_connected_is_refused(lite: Shop) -> None:
    with pytest.raises(NoTransaction, match=r"async with engine\.connect"):
        Publishing(lite.publisher, lite.async_engine().connect())


async def test_a_closed_or_released_asyncpg_connection_is_refused(pg: Shop) -> None:
    connection = await asyncpg.connect(pg.database.dsn)
    await connection.close()
    with pytest.raises(NoTransaction, match="closed or was given back"):
        await Publishing(pg.publisher, connection).__aenter__()
    async with asyncpg.create_pool(pg.database.dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as proxy:
            pass
        with pytest.raises(NoTransaction, match="given back to its pool"):
            await Publishing(pg.publisher, proxy).__aenter__()


async def test_a_failed_transaction_on_asyncpg_is_refused_when_the_block_is_left(pg: Shop) -> None:
    connection = await asyncpg.connect(pg.database.dsn)
    transaction = connection.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connection.execute("select 1/0")
    block = Publishing(pg.publisher, connection)
    publish = await block.__aenter__()
    publish(OrderPlaced("a"))
    with pytest.raises(NoTransaction, match="failed earlier"):
        await block.__aexit__(None, None, None)
    await transaction.rollback()
    await connection.close()
    assert pg.log() == []


def test_a_failed_transaction_on_psycopg_is_refused_at_once(pg: Shop) -> None:
    with psycopg.connect(pg.database.dsn) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1/0")
        with pytest.raises(NoTransaction, match="has failed: roll it back"), Publishing(pg.publisher, connection):
            pass
        connection.rollback()
        with Publishing(pg.publisher, connection) as publish:
            publish(OrderPlaced("a"))
    with pytest.raises(NoTransaction, match="closed or lost"), Publishing(pg.publisher, connection):
        pass
    assert pg.orders() == ["a"]


def test_a_database_error_swallowed_inside_a_block_is_not_swallowed_by_us(pg: Shop) -> None:
    with psycopg.connect(pg.database.dsn) as connection:
        block = Publishing(pg.publisher, connection)
        publish = block.__enter__()
        publish(OrderPlaced("a"))
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1/0")
        with pytest.raises(NoTransaction, match="failed earlier"):
            block.__exit__(None, None, None)
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert pg.log() == []


async def test_a_closed_aiosqlite_connection_is_refused(lite: Shop) -> None:
    connection = await aiosqlite.connect(lite.database.dsn)
    await connection.close()
    with pytest.raises(NoTransaction, match="not open"):
        Publishing(lite.publisher, connection)


# Databases


def _refusing(shop: Shop, seen: list[Any]) -> Any:
    def refuse(which: Any) -> bool:
        seen.append(which)
        return False

    return shop.publisher_named("shop", same_database=refuse, same_identity=refuse)


async def test_a_connection_to_another_database_is_refused(shop: Shop) -> None:
    seen: list[Any] = []
    publisher = _refusing(shop, seen)
    dsn = shop.database.dsn
    if shop.postgresql:
        with psycopg.connect(dsn) as connection:
            database = connection.info.dbname
            with pytest.raises(WrongDatabase, match="psycopg's Connection leads to another database than the store of service 'shop'"):
                Publishing(publisher, connection).__enter__()
            assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        other = await asyncpg.connect(dsn)
        with pytest.raises(WrongDatabase, match="asyncpg's Connection"):
            await Publishing(publisher, other).__aenter__()
        assert not other.is_in_transaction()
        await other.close()
        assert seen[0][0] == "postgresql"
        assert seen[0][3] == seen[1][3] == database
        assert seen[0] == seen[1]
    else:
        with closing(sqlite3.connect(dsn)) as lite:
            lite.row_factory = lambda cursor, row: {"file": "of the row factory"}
            with pytest.raises(WrongDatabase, match="sqlite3's Connection"):
                Publishing(publisher, lite).__enter__()
        async with aiosqlite.connect(dsn) as connection:
            with pytest.raises(WrongDatabase, match="aiosqlite's Connection"):
                await Publishing(publisher, connection).__aenter__()
        assert seen == [("sqlite", dsn)] * 2
    with shop.engine().connect() as connection:
        with pytest.raises(WrongDatabase, match="sqlalchemy's Connection"):
            Publishing(publisher, connection).__enter__()
        assert seen[-1] is connection


def test_a_connection_that_cannot_tell_its_database_is_trusted(lite: Shop) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        block = Publishing(_refusing(lite, []), connection)
        block.__enter__()
        block.__exit__(None, None, None)


# Failures when the block is left


def _drop(shop: Shop) -> None:
    with shop.connect() as connection:
        connection.execute("drop table tidings_outbox")


async def test_missing_tables_are_a_schema_error_on_every_driver(shop: Shop) -> None:
    _drop(shop)
    dsn = shop.database.dsn
    opened: list[Any] = []
    if shop.postgresql:
        opened = [psycopg.connect(dsn), await psycopg.AsyncConnection.connect(dsn), await asyncpg.connect(dsn)]
    else:
        opened = [sqlite3.connect(dsn), await aiosqlite.connect(dsn)]
    for connection in opened:
        block: Any = Publishing(shop.publisher, connection)
        if block._link.asynchronous:
            publish = await block.__aenter__()
            publish(OrderPlaced("a"))
            with pytest.raises(SchemaError, match="run `tidings db upgrade`"):
                await block.__aexit__(None, None, None)
            await connection.close()
        else:
            publish = block.__enter__()
            publish(OrderPlaced("a"))
            with pytest.raises(SchemaError, match="run `tidings db upgrade`"):
                block.__exit__(None, None, None)
            assert not block._link.in_transaction()
            connection.close()


def test_a_commit_that_fails_is_the_block_s_error_and_wakes_nobody(pg: Shop) -> None:
    with pg.connect() as admin:
        admin.execute("create table later (id int primary key deferrable initially deferred)")
    with psycopg.connect(pg.database.dsn) as connection:
        block = Publishing(pg.publisher, connection)
        publish = block.__enter__()
        connection.execute("insert into later values (1), (1)")
        publish(OrderPlaced("a"))
        with pytest.raises(psycopg.errors.UniqueViolation):
            block.__exit__(None, None, None)
        assert connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
    assert (pg.log(), pg.wakes) == ([], [])


async def test_a_lost_connection_shows_the_error_that_came_first(pg: Shop) -> None:
    connection = await asyncpg.connect(pg.database.dsn)

    async def lose() -> None:
        async with Publishing(pg.publisher, connection) as publish:
            publish(OrderPlaced("a"))
            with pg.connect() as admin:
                admin.execute("select pg_terminate_backend(%s)", [connection.get_server_pid()])
            await connection.execute("select 1")

    with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
        await lose()
    assert pg.log() == []


async def test_a_cancelled_task_publishes_nothing(pg: Shop) -> None:
    connection = await asyncpg.connect(pg.database.dsn)
    inside = asyncio.Event()

    async def wait() -> None:
        async with Publishing(pg.publisher, connection) as publish:
            publish(OrderPlaced("a"))
            inside.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        task = asyncio.create_task(wait())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not connection.is_in_transaction()
    await connection.close()
    assert pg.log() == []


def test_a_block_in_a_transaction_of_its_own_publishes_though_the_outer_one_has_lost_its_own(lite: Shop) -> None:
    with closing(sqlite3.connect(lite.database.dsn)) as connection:
        outer = Publishing(lite.publisher, connection)
        outer.__enter__()(OrderPlaced("lost"))
        connection.execute("rollback")
        with Publishing(lite.publisher, connection) as publish:
            publish(OrderPlaced("kept"))
        assert lite.orders() == ["kept"]
        with pytest.raises(NoTransaction, match="ended inside the block"):
            outer.__exit__(None, None, None)
    assert lite.orders() == ["kept"]


# SQLAlchemy connections know their savepoints


def test_a_savepoint_of_a_sqlalchemy_connection_takes_its_events_with_it(shop: Shop) -> None:
    engine = shop.engine()
    with engine.connect() as connection, Publishing(shop.publisher, connection) as publish:
        publish(OrderPlaced("1"))
        lost = connection.begin_nested()
        publish(OrderPlaced("lost"))
        lost.rollback()
        with connection.begin_nested():
            publish(OrderPlaced("2"))
    engine.dispose()
    assert shop.orders() == ["1", "2"]


async def test_a_savepoint_of_an_async_connection_takes_its_events_with_it(shop: Shop) -> None:
    engine = shop.async_engine()
    async with engine.connect() as connection, Publishing(shop.publisher, connection) as publish:
        publish(OrderPlaced("1"))
        lost = await connection.begin_nested()
        publish(OrderPlaced("lost"))
        await lost.rollback()
        async with connection.begin_nested():
            publish(OrderPlaced("2"))
    await engine.dispose()
    assert shop.orders() == ["1", "2"]


def test_a_block_inside_a_savepoint_that_is_rolled_back_later(shop: Shop) -> None:
    engine = shop.engine()
    with engine.connect() as connection:
        with connection.begin():
            savepoint = connection.begin_nested()
            with Publishing(shop.publisher, connection) as publish:
                publish(OrderPlaced("lost"))
            savepoint.rollback()
        assert shop.wakes == []
    engine.dispose()
    assert shop.log() == []


def test_a_database_error_inside_a_block_on_sqlalchemy(shop: Shop) -> None:
    engine = shop.engine()
    insert = "insert into orders (name, note) values ('a', '')"

    def fail(connection: Any) -> None:
        with Publishing(shop.publisher, connection) as publish:
            publish(OrderPlaced("lost"))
            connection.exec_driver_sql(insert)
            connection.exec_driver_sql(insert)

    with engine.connect() as connection:
        with pytest.raises(IntegrityError):
            fail(connection)
        assert not connection.in_transaction()
        with Publishing(shop.publisher, connection) as publish:
            publish(OrderPlaced("kept"))
    engine.dispose()
    assert (shop.orders(), shop.stored()) == (["kept"], [])


def test_errors_of_the_insert_are_sqlalchemy_s_own(pg: Shop) -> None:
    with pg.connect() as admin:
        admin.execute("alter table tidings_outbox add check (key <> 'refused')")
    with pg.engine().connect() as connection:
        block = Publishing(pg.publisher, connection)
        publish = block.__enter__()
        publish(OrderPlaced("refused"))
        with pytest.raises(DBAPIError) as caught:
            block.__exit__(None, None, None)
        assert isinstance(caught.value, IntegrityError)
        assert not connection.in_transaction()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3.Connection.autocommit came with Python 3.12")
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_transaction_modes_of_python_3_12(lite: Shop, autocommit: bool) -> None:
    connect: Callable[..., sqlite3.Connection] = sqlite3.connect
    with closing(connect(lite.database.dsn, autocommit=autocommit)) as connection:
        with Publishing(lite.publisher, connection) as publish:
            publish(OrderPlaced("a"))
        assert lite.orders() == (["a"] if autocommit else [])
        connection.commit()
    assert lite.orders() == ["a"]
