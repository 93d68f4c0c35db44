from __future__ import annotations

import os

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.services.databases import Database, PostgreSQLDatabases

TABLES = {
    "sqlite": "select count(*) from sqlite_master",
    "postgresql": "select count(*) from information_schema.tables where table_schema not in ('pg_catalog', 'information_schema')",
}


@pytest.mark.parametrize("turn", [1, 2])
def test_every_test_starts_with_an_empty_database(database: Database, turn: int) -> None:
    engine = create_engine(database.sync_url)
    with engine.begin() as connection:
        assert connection.scalar(text(TABLES[database.kind])) == 0
        connection.execute(text("create table leftover (id integer primary key)"))
    engine.dispose()


async def test_the_async_url_leads_to_the_same_database(database: Database) -> None:
    sync_engine = create_engine(database.sync_url)
    with sync_engine.begin() as connection:
        connection.execute(text("create table here (id integer primary key)"))
    sync_engine.dispose()
    engine = create_async_engine(database.url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("select count(*) from here")) == 0
    await engine.dispose()


async def test_the_dsn_is_what_the_drivers_take(postgresql: Database) -> None:
    connection = await asyncpg.connect(postgresql.dsn)
    assert await connection.fetchval("select 1") == 1
    await connection.close()


def test_what_a_test_leaves_behind_is_gone_for_the_next_one(postgresql_databases: PostgreSQLDatabases) -> None:
    with postgresql_databases.fresh() as first:
        forgotten = psycopg.connect(first.dsn)
        forgotten.execute("create schema other")
        forgotten.execute("create table other.leftover (id integer)")
        forgotten.execute("create type mood as enum ('sad')")
        forgotten.execute("create function leftover() returns integer language sql as 'select 1'")
        forgotten.commit()
        forgotten.tpc_begin(f"in doubt {os.getpid()}")
        forgotten.execute("insert into other.leftover values (1)")
        forgotten.tpc_prepare()
        idle_in_transaction = psycopg.connect(first.dsn)
        idle_in_transaction.execute("lock table other.leftover in access share mode")
    forgotten.close()
    idle_in_transaction.close()
    with postgresql_databases.fresh() as second, psycopg.connect(second.dsn) as connection:
        assert second == first
        left = connection.execute(
            "select nspname::text from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
            " union all select proname from pg_proc where pronamespace = 'public'::regnamespace"
            " union all select typname from pg_type where typnamespace = 'public'::regnamespace"
            " union all select gid from pg_prepared_xacts where database = current_database()"
        ).fetchall()
        assert left == [("public",)]


def test_a_database_that_a_test_dropped_is_replaced(postgresql_databases: PostgreSQLDatabases, postgresql_url: str) -> None:
    with postgresql_databases.fresh() as first, psycopg.connect(postgresql_url, autocommit=True) as connection:
        connection.execute(f'drop database "{first.dsn.rpartition("/")[2]}" with (force)')
    with postgresql_databases.fresh() as second, psycopg.connect(second.dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
