"""Databases whose transactions do not behave as the log needs are refused, each with a sentence that says why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.services.databases import Database
from tests.stores.opening import opened
from tidings.errors import ConfigurationError
from tidings.stores import SQLStore

BANNERS = [
    "CockroachDB CCL v23.2.5 (x86_64-pc-linux-gnu, built 2024/05/07, go1.21)",
    "PostgreSQL 11.2-YB-2.21.0.0-b545 on x86_64-pc-linux-gnu, compiled by clang, 64-bit",
    "PostgreSQL 15.2 (Yugabyte) on x86_64-pc-linux-gnu",
    "PostgreSQL 12.12 (Greenplum Database 7.1.0 build commit:e7c2b1f) on x86_64-pc-linux-gnu",
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2, Redshift 1.0.59945",
    "PostgreSQL 9.5.0 on x86_64-unknown-linux-gnu (Materialize 0.87.0)",
]


def pretend(database: Database, banner: str | None = None, number: str | None = None) -> dict[str, object]:
    """Let a server say that it is another; return the engine options with which it does."""
    with psycopg.connect(database.dsn) as connection:
        connection.execute("create schema pretence")
        if banner is not None:
            connection.execute(f"create function pretence.version() returns text language sql as $$select '{banner}'$$")  # type: ignore[arg-type]
        if number is not None:
            connection.execute(
                "create function pretence.current_setting(name text) returns text language sql"
                f" as $$select case when name = 'server_version_num' then '{number}' else pg_catalog.current_setting(name) end$$"  # type: ignore[arg-type]
            )
    return {"connect_args": {"server_settings": {"search_path": "pretence, pg_catalog, public"}}}


@pytest.mark.parametrize("banner", BANNERS, ids=lambda banner: banner.split()[0] + banner.split()[1])
async def test_what_only_speaks_postgresqls_protocol_is_refused(postgresql: Database, banner: str) -> None:
    async with opened(postgresql, schema="events", **pretend(postgresql, banner)) as store:
        for use in (store.open, store.upgrade):
            with pytest.raises(ConfigurationError, match="PostgreSQL's own snapshots") as caught:
                await use()
            assert banner[:40] in str(caught.value)
        assert await store.check() == [str(caught.value)]


async def test_a_postgresql_that_is_too_old_is_refused(postgresql: Database) -> None:
    async with opened(postgresql, schema="events", **pretend(postgresql, number="120018")) as store:
        for use in (store.open, store.upgrade):
            with pytest.raises(ConfigurationError, match="PostgreSQL 12: Tidings needs version 13"):
                await use()
        assert await store.check() == ["the server is PostgreSQL 12: Tidings needs version 13 or later"]


def test_mysql_is_refused_before_anything_connects() -> None:
    driver = SimpleNamespace(paramstyle="format", version_info=(1, 4, 6), Error=Exception, connect=None)
    with pytest.raises(ConfigurationError, match="no statements for 'mysql'"):
        SQLStore(create_engine("mysql+pymysql://user@nowhere/db", module=driver))


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?cache=shared&uri=true", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_sqlite_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="use a file"):
        SQLStore(create_engine(url, poolclass=NullPool))
    with pytest.raises(ConfigurationError, match="use a file"):
        SQLStore(create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool))


def test_sqlite_has_no_schemas(sqlite: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"no schemas.*prefix="):
        SQLStore(create_engine(sqlite.sync_url), schema="events")


@pytest.mark.parametrize("bad", ["tidings-events", 'x"; drop table users; --', "1st", "ä", "a" * 42, "two words", 5])
def test_a_schema_or_prefix_that_is_no_plain_identifier_is_refused(postgresql: Database, bad: Any) -> None:
    engine = create_engine(postgresql.sync_url)
    for options in ({"schema": bad}, {"prefix": bad}):
        with pytest.raises(ConfigurationError, match="not a plain identifier"):
            SQLStore(engine, **options)


def test_what_is_no_engine_is_refused(sqlite: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"not str.*create_engine"):
        SQLStore(sqlite.url)  # type: ignore[arg-type]
