"""Stores with their tables made, on a fresh database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Connection, create_engine

from tests.services.databases import Database
from tests.stores.clusters import Cluster, Programs
from tests.stores.opening import opened
from tests.stores.processes import Processes, running
from tidings.stores import SQLStore


@pytest.fixture
async def store(database: Database) -> AsyncIterator[SQLStore]:
    """A store on each kind of database, on an `AsyncEngine`."""
    async with opened(database) as store:
        await store.upgrade()
        yield store


@pytest.fixture
async def postgresql_store(postgresql: Database) -> AsyncIterator[SQLStore]:
    async with opened(postgresql) as store:
        await store.upgrade()
        yield store


@pytest.fixture
async def sqlite_store(sqlite: Database) -> AsyncIterator[SQLStore]:
    async with opened(sqlite) as store:
        await store.upgrade()
        yield store


@pytest.fixture
def plain(postgresql: Database) -> Iterator[Connection]:
    """An autocommit connection to the database of `postgresql`, for tests that need no event loop."""
    engine = create_engine(postgresql.sync_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture(scope="session")
def programs() -> Programs:
    """PostgreSQL's own programs, `initdb` to `pg_dump`; without them the test is skipped, with the reason."""
    found = Programs.find()
    if found is None:
        pytest.skip("no PostgreSQL programs on this machine (initdb, pg_basebackup, pg_dump): the server that is used runs elsewhere")
    return found


@pytest.fixture(scope="session")
def elsewhere(programs: Programs) -> Iterator[Cluster]:
    """A PostgreSQL cluster of our own beside the one that tests use: to restore into, and to have a standby."""
    with programs.cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def four_processes() -> Iterator[Processes]:
    with running(4) as processes:
        yield processes
