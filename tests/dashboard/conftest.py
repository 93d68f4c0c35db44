"""A dashboard in this process, on a database that has a bit of everything in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine

from tests.cli.till import fill
from tests.services.databases import Database, PostgreSQLDatabases
from tidings.dashboard import Dashboard
from tidings.stores import SQLStore

LOCAL = ("127.0.0.1", 50000)


def client_of(dashboard: Any, address: tuple[str, int] = LOCAL, host: str = "localhost", **headers: str) -> httpx.AsyncClient:
    """Return a client of an application in this process that comes from an address."""
    transport = httpx.ASGITransport(dashboard, client=address)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Events that were handled, are dead, wait, are scheduled and unread. For all tests of a module: only look at it."""
    if request.param == "sqlite":
        database = Database.sqlite(Path(tmp_path_factory.mktemp("filled")) / "till.sqlite")
        asyncio.run(fill(database))
        yield database
        return
    databases: PostgreSQLDatabases = request.getfixturevalue("postgresql_databases")
    with databases.fresh() as database:
        asyncio.run(fill(database))
        yield database


@pytest.fixture
async def fresh(database: Database) -> Database:
    """The same, for one test, which may change it."""
    await fill(database)
    return database


@pytest.fixture
def engines() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for engine in made:
        engine.dispose()


@pytest.fixture
def open_store(engines: list[Any]) -> Iterator[Any]:
    """Return what makes a store on a database, closed after the test."""
    stores: list[SQLStore] = []

    def make(database: Database) -> SQLStore:
        engine = create_engine(database.sync_url)
        engines.append(engine)
        store = SQLStore(engine)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
async def client(filled: Database, open_store: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client on this machine, of a dashboard without auth."""
    async with client_of(Dashboard(open_store(filled))) as made:
        yield made
