"""One reader of a backlog, in a process of its own, so that its memory can be told: `python -m benchmarks.reading log|cursor DSN PAGE`.

Prints what it read, how long it took, and its resident memory after the first pages and at its peak.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.event_loop import run_loop
from tidings.stores import SQLStore
from tidings.stores.base import Mark

#: Pages after which buffers and caches have their size.
WARM = 10

#: What `SQLStore.log` gives of each row.
COLUMNS = "position, id, source, name, version, topic, key, headers::text, data::text, time"


class Meter:
    """Counts rows, and knows how much memory was resident once reading had settled."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.pages = self.settled = 0

    def page(self, rows: Any) -> None:
        self.rows += len(rows)
        self.bytes += sum(len(row[8]) for row in rows)
        self.pages += 1
        if self.pages == WARM:
            self.settled = resident("VmRSS")


async def log(dsn: str, page: int, meter: Meter) -> float:
    """Read as a receiver does; return the seconds that it took."""
    engine = create_async_engine(f"postgresql+asyncpg://{dsn.partition('://')[2]}", pool_size=1)
    store = SQLStore(engine)
    await store.open()
    async with store.connections.autocommit() as held:
        # Before every transaction: the first window is the whole log.
        mark = Mark("1:1:", None, 0)
        await held.run(store.log.read, mark, 1)
        started = perf_counter()
        while True:
            batch = await held.run(store.log.read, mark, page)
            mark = batch.end
            meter.page(batch.rows)
            if not batch.more:
                break
        elapsed = perf_counter() - started
    await engine.dispose()
    return elapsed


async def cursor(dsn: str, page: int, meter: Meter) -> float:
    """Read the same columns of the same rows through a bare cursor; return the seconds that it took."""
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        started = perf_counter()
        rows = await connection.cursor(f"select {COLUMNS} from tidings_outbox order by position")
        while page_of := await rows.fetch(page):
            meter.page(page_of)
        elapsed = perf_counter() - started
    await connection.close()
    return elapsed


def resident(field: str) -> int:
    """Return bytes of resident memory: `VmRSS` now, `VmHWM` at the peak. 0 where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(f"{field}:")), 0)


def main() -> None:
    """Read, and print what was found as JSON."""
    kind, dsn, page = sys.argv[1:]
    meter = Meter()
    elapsed = run_loop({"log": log, "cursor": cursor}[kind], dsn, int(page), meter)
    print(json.dumps({"rows": meter.rows, "bytes": meter.bytes, "seconds": elapsed, "settled": meter.settled, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
