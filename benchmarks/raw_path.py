"""The raw path from commit to handler: LISTEN/NOTIFY wakes one reader of the raw outbox, which hands each row to a handler.

What asyncpg can do at best, with an inbox row and an effect for every event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from benchmarks.workload import INSERT_EFFECT, INSERT_ORDER, RAW_PUBLISH, raw_payload

__all__ = ["LISTEN", "NEWS", "place_order", "raw_service"]

_HANDLERS = 8
LISTEN = "bench_raw"

# Every row that no running transaction can still precede.
NEWS = """
select position, event_id, tx::text, data from raw_outbox
where (tx, position) > ($1::text::xid8, $2) and tx < pg_snapshot_xmin(pg_current_snapshot()) order by tx, position limit 500
"""
_INBOX = "insert into raw_inbox (subscription, event_id) values ('bench', $1) on conflict do nothing returning event_id"


async def place_order(connection: Any, order_id: UUID) -> None:
    """The publisher's transaction."""
    async with connection.transaction():
        await connection.execute(INSERT_ORDER, order_id, "c", 10)
        await connection.execute(RAW_PUBLISH, order_id, "order.created", "c", raw_payload(order_id, "c"))
        await connection.execute(f"select pg_notify('{LISTEN}', '')")


@asynccontextmanager
async def raw_service(dsn: str, arrived: Callable[[UUID], None]) -> AsyncIterator[None]:
    """Read and handle for a block; `arrived` is called when a handler starts."""
    news = asyncio.Event()
    listener = await asyncpg.connect(dsn)
    await listener.add_listener(LISTEN, lambda *_: news.set())
    reader = await asyncpg.connect(dsn)
    async with asyncpg.create_pool(dsn, min_size=_HANDLERS, max_size=_HANDLERS) as pool, asyncio.TaskGroup() as tasks:

        async def handle(event_id: UUID) -> None:
            async with pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_INBOX, event_id) is not None:
                    arrived(event_id)
                    await connection.execute(INSERT_EFFECT, event_id)

        async def read() -> None:
            tx, position = "0", 0
            while True:
                news.clear()
                rows = await reader.fetch(NEWS, tx, position)
                for row in rows:
                    tasks.create_task(handle(row["event_id"]))
                if rows:
                    tx, position = rows[-1]["tx"], rows[-1]["position"]
                    continue
                try:
                    async with asyncio.timeout(0.02):
                        await news.wait()
                except TimeoutError:
                    continue

        reading = tasks.create_task(read())
        yield
        reading.cancel()
    await listener.close()
    await reader.close()
