"""Worker processes, and a world on the database that they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.consume.world import World, open_world
from tests.services.databases import Database
from tests.workers.processes import Nursery, Worker

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("workers"))
    yield nursery
    nursery.close()


@pytest.fixture
async def world(postgresql: Database) -> AsyncIterator[World]:
    """Our tables on PostgreSQL, and a table for effects."""
    async with open_world(postgresql) as world:
        yield world


@pytest.fixture
async def any_world(database: Database) -> AsyncIterator[World]:
    """Our tables on each kind of database, and a table for effects."""
    async with open_world(database) as world:
        yield world


@pytest.fixture
def start(nursery: Nursery, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start worker processes on the database of the test's world; they end with the test."""
    # The world closes after its workers have ended.
    name = "any_world" if "any_world" in request.fixturenames else "world"
    world: World = request.getfixturevalue(name)

    def start(app: str = "orders", **config: Any) -> Worker:
        return nursery.start(app, world.database.url, **config)

    yield start
    nursery.end_workers()
