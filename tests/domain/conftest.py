"""Shops of each kind."""

from __future__ import annotations

import pytest

from tests.domain.shop import Shop
from tests.services.databases import Database
from tests.transports.conftest import rabbitmq_url

__all__ = ["rabbitmq_url"]


@pytest.fixture(params=["async", "sync"])
async def shop(database: Database, request: pytest.FixtureRequest) -> Shop:
    """A shop on each database, with asynchronous and with synchronous sessions."""
    made = Shop(database, asynchronous=request.param == "async")
    await made.create()
    return made


@pytest.fixture
async def async_shop(database: Database) -> Shop:
    """A shop on each database with asynchronous sessions."""
    made = Shop(database, asynchronous=True)
    await made.create()
    return made


@pytest.fixture
async def lite(sqlite: Database) -> Shop:
    """A shop on SQLite with synchronous sessions, for what depends on SQLAlchemy only."""
    made = Shop(sqlite, asynchronous=False)
    await made.create()
    return made


@pytest.fixture
async def async_lite(sqlite: Database) -> Shop:
    """A shop on SQLite with asynchronous sessions."""
    made = Shop(sqlite, asynchronous=True)
    await made.create()
    return made
