"""Statements of ours on a SQLAlchemy connection: straight to asyncpg where that is safe, with SQLAlchemy's own errors either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, MissingGreenlet, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tests.publish.shop import OrderPlaced, Shop
from tidings.errors import SchemaError
from tidings.publish.session import publish
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql

INSERT = Sql("insert into orders (name, note) values ($1, $2)")


@pytest.fixture
async def engine(pg: Shop) -> AsyncIterator[AsyncEngine]:
    engine = pg.async_engine()
    yield engine
    await engine.dispose()


async def runs(connection: AsyncConnection, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    return await connection.run_sync(run, Command(Sql(sql), arguments))


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What goes to asyncpg's `fetch` itself."""
    statements: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def noting(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        statements.append(query)
        return await fetch(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", noting)
    return statements


def test_every_driver_runs_the_same_command(shop: Shop) -> None:
    engine = shop.engine()
    with engine.begin() as connection:
        assert run(connection, Command(INSERT, ("50 % $1 ?", "x"))) == []
        assert run(connection, Command(INSERT, [("b", "2"), ("a", "1")], many=True)) == []
        cast = "::text" if shop.postgresql else ""
        both = Sql(f"select $2{cast}, $1{cast}, $2{cast} where '%' = '%'")
        assert run(connection, Command(both, ("first", "second"))) == [("second", "first", "second")]
        assert run(connection, Command(Sql("select name from orders order by name"), ())) == [("50 % $1 ?",), ("a",), ("b",)]
    engine.dispose()


async def test_every_async_driver_runs_the_same_command(shop: Shop) -> None:
    engine = shop.async_engine()
    async with engine.begin() as connection:
        for _ in range(2):  # before and after the driver has begun
            await connection.run_sync(run, Command(INSERT, (str(uuid4()), "x")))
        await connection.run_sync(run, Command(INSERT, [("b", "2"), ("a", "1")], many=True))
        rows = await connection.run_sync(run, Command(Sql("select note, count(*) from orders group by note order by note"), ()))
        assert [tuple(row) for row in rows] == [("1", 1), ("2", 1), ("x", 2)]
    await engine.dispose()


async def test_the_first_statement_of_a_transaction_begins_it(pg: Shop, engine: AsyncEngine, straight: list[str]) -> None:
    async with engine.connect() as connection:
        transaction = await connection.begin()
        await runs(connection, "insert into orders (name, note) values ($1, '')", "a")
        assert straight == []
        await runs(connection, "insert into orders (name, note) values ($1, '')", "b")
        assert len(straight) == 1
        await transaction.rollback()
    assert pg.stored() == []


async def test_statements_in_autocommit_go_straight_to_the_driver(pg: Shop, engine: AsyncEngine, straight: list[str]) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await runs(connection, "insert into orders (name, note) values ($1, '')", "a")
        assert len(straight) == 1
        assert pg.stored() == ["a"]


@pytest.mark.parametrize(
    "options",
    [
        {"prepared_statement_cache_size": 0},
        {"statement_cache_size": 0},
        {"prepared_statement_cache_size": 0, "statement_cache_size": 0},
        {"prepared_statement_name_func": lambda: f"mine {uuid4()}"},
    ],
)
async def test_an_engine_without_named_statements_of_asyncpg_gets_none_from_us(
    pg: Shop, straight: list[str], options: dict[str, Any]
) -> None:
    engine = pg.async_engine(connect_args=options)
    async with engine.begin() as connection:
        for name in "ab":
            await runs(connection, "insert into orders (name, note) values ($1, '')", name)
    await engine.dispose()
    assert straight == []
    assert pg.stored() == ["a", "b"]


@pytest.mark.parametrize("path", ["straight", "through sqlalchemy"])
async def test_errors_are_those_of_sqlalchemy(pg: Shop, engine: AsyncEngine, straight: list[str], path: str) -> None:
    seen: list[BaseException] = []

    @event.listens_for(engine.sync_engine, "handle_error")
    def note(context: Any) -> None:
        seen.append(context.sqlalchemy_exception)

    async with engine.connect() as connection:
        async with connection.begin():
            await connection.execute(text("insert into orders (name, note) values ('a', '')"))
        transaction = await connection.begin()
        if path == "straight":
            await connection.execute(text("select 1"))
        with pytest.raises(IntegrityError) as caught:
            await runs(connection, "insert into orders (name, note) values ($1, '')", "a")
        assert bool(straight) == (path == "straight")
        error = caught.value
        assert getattr(error.orig, "sqlstate", None) == "23505"
        assert error.statement == "insert into orders (name, note) values ($1, '')"
        assert error.params == ("a",)
        assert not error.connection_invalidated
        assert seen == [error]
        with pytest.raises(DBAPIError, match="aborted"):
            await runs(connection, "select 1")
        await transaction.rollback()
        assert [tuple(row) for row in await runs(connection, "select name from orders")] == [("a",)]


@pytest.mark.parametrize("path", ["straight", "through sqlalchemy"])
async def test_an_argument_that_does_not_fit_is_an_error_of_sqlalchemy(engine: AsyncEngine, path: str) -> None:
    async with engine.connect() as connection:
        if path == "straight":
            await connection.execute(text("select 1"))
        with pytest.raises((InterfaceError, DBAPIError), match="invalid input"):
            await runs(connection, "select $1::int", "not a number")


async def test_a_missing_table_is_a_schema_error(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        with pytest.raises(SchemaError, match=r'relation "nowhere" does not exist\): run `tidings db upgrade`') as caught:
            await runs(connection, "select * from nowhere")
        assert isinstance(caught.value.__cause__, DBAPIError)


async def test_a_connection_that_was_lost_is_invalidated(pg: Shop, engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        (row,) = await runs(connection, "select pg_backend_pid()")
        with pg.connect() as admin:
            admin.execute("select pg_terminate_backend(%s, 10000)", [row[0]])
        with pytest.raises(DBAPIError) as caught:
            await runs(connection, "select 1")
        assert caught.value.connection_invalidated
        assert connection.invalidated
        await connection.rollback()
        assert [tuple(row) for row in await runs(connection, "select 1")] == [(1,)]


async def test_a_cancelled_statement_gives_the_connection_up(pg: Shop, engine: AsyncEngine) -> None:
    def asleep() -> bool:
        with pg.connect() as admin:
            (count,) = admin.execute(
                "select count(*) from pg_stat_activity where query = 'select pg_sleep(60)' and state = 'active'"
            ).fetchone()
        return bool(count)

    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        task = asyncio.create_task(runs(connection, "select pg_sleep(60)"))
        async with asyncio.timeout(20):
            while not asleep():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert connection.invalidated
        await connection.rollback()
        assert [tuple(row) for row in await runs(connection, "select 1")] == [(1,)]


async def test_outside_of_a_greenlet_it_says_what_sqlalchemy_says(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        sync = connection.sync_connection
        assert sync is not None
        with pytest.raises((MissingGreenlet, StatementError), match="greenlet_spawn has not been called"):
            run(sync, Command(Sql("select 1"), ()))


async def test_publishing_goes_straight_to_the_driver_once_the_transaction_has_begun(
    pg: Shop, engine: AsyncEngine, straight: list[str]
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("select 1"))
        # The commit of a connection to which somebody listens takes nothing with it.
        event.listen((await session.connection()).sync_connection, "commit", lambda _: None)
        publish(pg.publisher, session, OrderPlaced("a"))
    assert len(straight) == 1
    assert "tidings_outbox" in straight[0]
    assert pg.orders() == ["a"]
