"""Stores for tests: opened on an engine of their own, which ends with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from tests.services.databases import Database
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure


@asynccontextmanager
async def opened(
    database: Database, *, schema: str | None = None, prefix: str = "tidings_", sync: bool = False, **options: Any
) -> AsyncIterator[SQLStore]:
    """Give a store on an `AsyncEngine`, or with `sync` on an `Engine`; `options` go to the engine."""
    if database.kind == "postgresql":
        options = {"pool_size": 20, **options}
    engine = create_engine(database.sync_url, **options) if sync else create_async_engine(database.url, **options)
    if database.kind == "sqlite":
        configure(engine)
    store = SQLStore(engine, schema=schema, prefix=prefix)
    try:
        yield store
    finally:
        store.close()
        if sync:
            engine.dispose()
        else:
            await engine.dispose()
