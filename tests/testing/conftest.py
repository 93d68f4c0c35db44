"""The shop under test, on the throw-away file and on the service's own PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.services.databases import Database
from tests.testing.shop import Base, Shop
from tidings.stores import SQLStore
from tidings.testing import Harness

Make = Callable[..., Harness]


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["throwaway", pytest.param("own", marks=pytest.mark.postgresql)])
async def make(request: pytest.FixtureRequest, shop: Shop) -> AsyncIterator[Make]:
    """What makes a harness of the shop: on a throw-away file, and on a store of its own."""
    engines: list[AsyncEngine] = []

    def make(**options: Any) -> Harness:
        store = None
        if request.param == "own":
            database: Database = request.getfixturevalue("postgresql")
            engines.append(create_async_engine(database.url, pool_size=10))
            store = SQLStore(engines[-1])
        return Harness(shop.service(), store=store, tables=Base.metadata, **options)

    yield make
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def t(make: Make) -> AsyncIterator[Harness]:
    async with make() as harness:
        yield harness


@pytest.fixture
async def lite(shop: Shop) -> AsyncIterator[Harness]:
    """A harness on a throw-away file, for what does not depend on the database."""
    async with Harness(shop.service(), tables=Base.metadata) as harness:
        yield harness


@pytest.fixture
def count() -> Callable[[Harness, type[Base], str], Any]:
    async def rows(harness: Harness, table: type[Base], order_id: str) -> int:
        async with harness.sessionmaker() as session:
            found = await session.execute(sa.select(sa.func.count()).select_from(table).filter_by(order_id=order_id))
            return found.scalar_one()

    return rows
