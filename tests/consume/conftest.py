"""A world for every test that needs real parts, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.consume.world import World, open_world
from tests.services.databases import Database


@pytest.fixture
async def world(upgraded: None, database: Database) -> AsyncIterator[World]:
    """Our tables on each kind of database, with an asynchronous engine."""
    async with open_world(database) as world:
        yield world


@pytest.fixture(params=["async", "sync"])
async def any_world(upgraded: None, database: Database, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Our tables on each kind of database, with an asynchronous and with a synchronous engine (sqlite3, psycopg)."""
    async with open_world(database, asynchronous=request.param == "async") as world:
        yield world


@pytest.fixture
async def sync_world(upgraded: None, database: Database) -> AsyncIterator[World]:
    """Our tables on each kind of database, with a synchronous engine (sqlite3, psycopg)."""
    async with open_world(database, asynchronous=False) as world:
        yield world


@pytest.fixture
async def pg_world(postgresql: Database) -> AsyncIterator[World]:
    """For what only PostgreSQL does."""
    async with open_world(postgresql) as world:
        yield world
