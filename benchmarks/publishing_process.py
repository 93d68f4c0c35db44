"""A publisher at a steady rate, in this process or as one of its own: `python -m benchmarks.publishing_process ours|raw DSN RATE COUNT`.

As a process it prints when each commit had returned, on the clock that all processes of a machine share, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks import raw_path
from benchmarks.event_loop import run_loop
from benchmarks.workload import LINES, OrderPlaced, contract, orders
from tidings import Service
from tidings.stores import SQLStore

__all__ = ["CONNECTIONS", "KEYS", "at_rate", "place_order", "raw_publisher"]

CONNECTIONS = 8
KEYS = 100

Place = Callable[[UUID], Awaitable[None]]


async def at_rate(place: Place, rate: float, count: int) -> dict[UUID, float]:
    """Start a transaction every 1/rate seconds, whether the ones before are finished or not; return when each commit had returned."""
    committed: dict[UUID, float] = {}

    async def one(order_id: UUID) -> None:
        await place(order_id)
        committed[order_id] = monotonic()

    started = monotonic() + 0.1
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            wait = started + number / rate - monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.create_task(one(uuid4()))
    return committed


async def place_order(service: Service, session: AsyncSession, order_id: UUID) -> None:
    """The transaction of an application that uses us."""
    async with session, session.begin():
        await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
        service.publish(session, OrderPlaced(order_id, f"customer-{order_id.int % KEYS}", LINES))


@asynccontextmanager
async def raw_publisher(dsn: str) -> AsyncIterator[Place]:
    """Give the raw transaction, on a pool."""
    async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:

        async def place(order_id: UUID) -> None:
            async with pool.acquire() as connection:
                await raw_path.place_order(connection, order_id)

        yield place


@asynccontextmanager
async def our_publisher(dsn: str) -> AsyncIterator[Place]:
    """Give our transaction, of a service that handles nothing."""
    engine = create_async_engine(f"postgresql+asyncpg://{dsn.partition('://')[2]}", pool_size=CONNECTIONS, max_overflow=0)
    service = Service("shop", contracts=[contract], store=SQLStore(engine))
    yield lambda order_id: place_order(service, AsyncSession(engine), order_id)
    await engine.dispose()


async def publish(kind: str, dsn: str, rate: float, count: int) -> None:
    """Publish, and print."""
    async with {"raw": raw_publisher, "ours": our_publisher}[kind](dsn) as place:
        committed = await at_rate(place, rate, count)
    print(json.dumps({str(order_id): at for order_id, at in committed.items()}))


if __name__ == "__main__":
    run_loop(publish, sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
