"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from tidings.stores import SQLStore


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


async def become(condition: Callable[[], Awaitable[object]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


async def someone_waits(store: SQLStore) -> bool:
    """Whether a session of the store's PostgreSQL database waits for a lock of another one."""
    query = "select exists (select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    return bool(await store.call(lambda c: c.exec_driver_sql(query).scalar_one()))
