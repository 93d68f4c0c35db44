"""A dashboard in this process, on a database that has a bit of everything in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine

from tests.cli.conftest import filled
from tests.cli.till import fill
from tests.services.databases import Database
from tidings.dashboard import Dashboard
from tidings.stores import SQLStore

__all__ = ["filled"]

LOCAL = ("127.0.0.1", 50000)


def client_of(dashboard: Any, address: tuple[str, int] = LOCAL, host: str = "localhost", **headers: str) -> httpx.AsyncClient:
    """Return a client of an application in this process that comes from an address."""
    transport = httpx.ASGITransport(dashboard, client=address)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", headers=headers)


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
