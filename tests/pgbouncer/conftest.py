"""Databases behind PgBouncer, which lends a server connection for one transaction; see scripts/private_services/pgbouncer.py."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from private_services.pgbouncer import PgBouncer
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import IN_CI, POSTGRESQL_URL
from tests.consume.world import World
from tests.pgbouncer.proxies import ASYNCPG, DIRECT, DOCUMENTED, PSYCOPG, Behind, proxy
from tests.services.databases import Database

# Set by `scripts/services run`: the URL of the proxy, or the reason why there is none.
PGBOUNCER_URL = os.environ.get("TIDINGS_TEST_PGBOUNCER", "")
PGBOUNCER_MISSING = os.environ.get("TIDINGS_TEST_PGBOUNCER_MISSING", "")


@pytest.fixture(scope="session")
def pgbouncer_url(postgresql_url: str) -> str:
    """A libpq URL that leads to PostgreSQL through PgBouncer; without one the test is skipped, with the reason."""
    if not PGBOUNCER_URL:
        if PGBOUNCER_MISSING:
            pytest.skip(f"no PgBouncer: {PGBOUNCER_MISSING}")
        if IN_CI:
            pytest.fail("CI=true, but nobody tried to start PgBouncer; run the tests through `make test`.")
        pytest.skip("no PgBouncer: TIDINGS_TEST_PGBOUNCER is not set; `make test` starts a private one")
    servers = []
    for url in (POSTGRESQL_URL, PGBOUNCER_URL):
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            servers.append(connection.execute("select pg_postmaster_start_time(), inet_server_port()").fetchone())
    assert servers[0] == servers[1], "PgBouncer leads to another server than TIDINGS_TEST_POSTGRESQL: run `scripts/services stop pgbouncer`"
    return PGBOUNCER_URL


@pytest.fixture(scope="session")
def pgbouncer_program(postgresql_url: str) -> Path:
    """PgBouncer's program, for tests with settings of their own; without it the test is skipped, with the reason."""
    program = PgBouncer(postgresql_url).find()
    if program is None:
        pytest.skip("no PgBouncer program on this machine: the proxy that is used runs elsewhere, with settings of its own")
    return program


@pytest.fixture
def past_the_proxy(postgresql: Database) -> Database:
    """A fresh database, in sessions that can be told from those of the proxy."""
    return replace(postgresql, sync_url=f"{postgresql.sync_url}?application_name={DIRECT}")


@pytest.fixture
def behind(past_the_proxy: Database, pgbouncer_url: str) -> Behind:
    """A fresh database behind PgBouncer, which has two connections to it."""
    return proxy(pgbouncer_url, past_the_proxy)


@asynccontextmanager
async def open_behind(behind: Behind, options: dict[str, Any], *, asynchronous: bool = True) -> AsyncIterator[World]:
    """A world whose services go through the proxy, with these options of their engine; its eyes look past the proxy."""
    url = behind.proxied.url if asynchronous else behind.proxied.sync_url
    world = World(behind.direct, create_async_engine(url, **options) if asynchronous else sa.create_engine(url, **options))
    try:
        await world.store.upgrade()
        await world.execute("create table effects (number bigint generated always as identity, subscription text, key text, value integer)")
        yield world
    finally:
        world.store.close()
        await world.close()


@pytest.fixture
async def world(behind: Behind) -> AsyncIterator[World]:
    """Our tables behind PgBouncer, with the engine that docs/deployment.md advises."""
    async with open_behind(behind, DOCUMENTED) as world:
        yield world


@pytest.fixture(params=[*ASYNCPG, "psycopg"])
async def any_world(behind: Behind, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Our tables behind PgBouncer, with each kind of engine that suits a pooling proxy."""
    options = ASYNCPG.get(request.param)
    async with open_behind(behind, options or PSYCOPG, asynchronous=options is not None) as world:
        yield world
