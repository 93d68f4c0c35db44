"""Shops on each kind of database."""

from __future__ import annotations

import pytest

from tests.publish.shop import Shop
from tests.services.databases import Database


def _shop(database: Database) -> Shop:
    shop = Shop(database)
    shop.create()
    return shop


@pytest.fixture
def shop(database: Database) -> Shop:
    """A shop on SQLite, and one on PostgreSQL."""
    return _shop(database)


@pytest.fixture
def lite(sqlite: Database) -> Shop:
    """A shop on SQLite, for what depends on SQLAlchemy only."""
    return _shop(sqlite)


@pytest.fixture
def pg(postgresql: Database) -> Shop:
    """A shop on PostgreSQL, for what only PostgreSQL does."""
    return _shop(postgresql)
