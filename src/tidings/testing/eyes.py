"""Looking into the store's database at once, from code that cannot await: a test asks for what is there now, not for what was there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Eyes"]

R = TypeVar("R")


class Eyes:
    """Runs functions of a connection, and returns their results; each on a connection of its own that only reads."""

    def __init__(self, engine: Engine | AsyncEngine) -> None:
        self._engine = engine

    def look(self, function: Callable[[Connection], R]) -> R:
        """Return what the function finds."""
        if isinstance(self._engine, AsyncEngine):
            # The engine's own connections belong to the running loop, which is blocked meanwhile.
            with ThreadPoolExecutor(1, thread_name_prefix="tidings-eyes") as thread:
                return thread.submit(lambda: asyncio.run(_look(self._engine, function))).result()
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            return function(connection)


async def _look(engine: Engine | AsyncEngine, function: Callable[[Connection], R]) -> R:
    assert isinstance(engine, AsyncEngine)
    sync = engine.sync_engine
    other = AsyncEngine(Engine(sync.pool.recreate(), sync.dialect, sync.url))
    try:
        async with other.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await connection.run_sync(function)
    finally:
        await other.dispose()
