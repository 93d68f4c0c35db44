"""What users tell their driver about prepared statements holds for our statements too, which go past SQLAlchemy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from private_services.pgbouncer import version
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.consume.world import World
from tests.pgbouncer.conftest import open_behind
from tests.pgbouncer.proxies import ASYNCPG, Behind, proxy, proxy_of_our_own
from tests.pgbouncer.test_whole_job import whole_job
from tests.services.databases import Database
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql

#: The names that asyncpg makes up.
NAMED = Sql("select count(*)::int from pg_prepared_statements where name like '\\_\\_asyncpg\\_%' and statement like '%$1::int[]%'")
OURS = Command(Sql("select 1 = any($1::int[])"), ([1, 2],))

SETTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, True),
    "SQLAlchemy's cache off": ({"connect_args": {"prepared_statement_cache_size": 0}}, False),
    "asyncpg's cache off": ({"connect_args": {"statement_cache_size": 0}}, False),
    **{name: (options, False) for name, options in ASYNCPG.items()},
}


@asynccontextmanager
async def engine_on(url: str, options: dict[str, Any]) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "in a transaction"])
@pytest.mark.parametrize("settings", SETTINGS)
async def test_statements_are_named_unless_the_engine_says_otherwise(postgresql: Database, settings: str, autocommit: bool) -> None:
    options, named = SETTINGS[settings]
    async with engine_on(postgresql.url, options) as engine, engine.connect() as connection:
        if autocommit:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        else:
            # The statement that BEGIN is sent with goes through SQLAlchemy.
            await connection.exec_driver_sql("select 1")
        for _ in range(3):
            assert await connection.run_sync(run, OURS) == [(True,)]
        ((count,),) = await connection.run_sync(run, Command(NAMED, ()))
        assert bool(count) == named


async def test_an_engine_without_settings_works_where_the_proxy_follows_prepared_statements(
    past_the_proxy: Database, postgresql_url: str, pgbouncer_program: Path
) -> None:
    if version(pgbouncer_program) < (1, 21):
        pytest.skip("PgBouncer before 1.21 does not follow prepared statements from session to session")
    with proxy_of_our_own(pgbouncer_program, postgresql_url, {"max_prepared_statements": "200"}) as url:
        behind = proxy(url, past_the_proxy)
        async with open_behind(behind, {"pool_size": 20}) as world:
            await whole_job(world, behind, count=10)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_commands_of_several_processes_do_not_meet_in_a_session(world: World, behind: Behind, driver: str) -> None:
    store = behind.proxied.url if driver == "asyncpg" else behind.proxied.sync_url
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tidings", "db", "check", "--store", store, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
