"""Reading the log: a backlog of a million events against a bare cursor, memory meanwhile, and what an idle poll costs."""

from __future__ import annotations

import json
from time import perf_counter

from benchmarks.backlog import fill
from benchmarks.child import child
from benchmarks.database import Database, fresh_database
from benchmarks.measuring import Series, interleave, percentile
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import check
from tidings.stores import SQLStore
from tidings.stores.base import Mark

PAGE = 1000
RETAINED = 300_000


async def run(settings: Settings) -> list[Section]:
    """Measure both."""
    async with fresh_database(settings.server, "read") as database:
        sections = await backlog(settings, database)
    async with fresh_database(settings.server, "idle") as database:
        sections += await idle(settings, database)
    return sections


async def backlog(settings: Settings, database: Database) -> list[Section]:
    """Read everything, in a process of its own each time."""
    events = settings.count(1_000_000, 20_000)
    engine = database.engine(2)
    store = SQLStore(engine)
    await store.upgrade()
    await fill(database, store.names.outbox, events, keys=10_000)
    await engine.dispose()
    size = await database.admin.fetchval(f"select avg(length(data::text))::int from {store.names.outbox}")
    growth: dict[str, list[float]] = {"log": [], "cursor": []}

    async def read(kind: str) -> float:
        found = await child("benchmarks.reading", kind, database.dsn, str(PAGE))
        check(kind, rows=(found["rows"], events))
        growth[kind].append((found["peak"] - found["settled"]) / 2**20)
        return events / float(found["seconds"])

    figures = await interleave("read", {"cursor": lambda: read("cursor"), "log": lambda: read("log")}, settings.rounds)
    # Flat: what a million events add once the first pages have made buffers and caches.
    cursor = Series(tuple(growth["cursor"]))
    memory = Row(
        "peak above the first ten pages", Series(tuple(growth["log"])), None, (Goal("ours", "<=", 16),), f"cursor: {cursor.median:.2f}"
    )
    reference = "asyncpg cursor, same rows and columns, fetched by the page"
    title = f"read: backlog of {events:,} events of {size} bytes, {events // 100:,} transactions, pages of {PAGE:,}"
    return [
        Section(title, "events/s", reference, [Row("SQLStore.log.read", figures["log"], figures["cursor"], (Goal("ratio", ">=", 0.5),))]),
        Section("read: memory meanwhile", "MiB", "", [memory]),
    ]


async def idle(settings: Settings, database: Database) -> list[Section]:
    """Poll a log that has nothing new, with old rows retained in it."""
    events = settings.count(RETAINED, 20_000)
    polls = settings.count(1000, 50)
    engine = database.engine(2)
    store = SQLStore(engine)
    await store.upgrade()
    await fill(database, store.names.outbox, events, keys=10_000)
    async with store.connections.autocommit() as held:
        start = Mark(await database.admin.fetchval("select pg_current_snapshot()::text"), None, 0)
        mark = (await held.run(store.log.read, start, PAGE)).end

        async def ours() -> float:
            nonlocal mark
            times = []
            for _ in range(polls):
                started = perf_counter()
                batch = await held.run(store.log.read, mark, PAGE)
                times.append(perf_counter() - started)
                mark = batch.end
                check("idle poll", rows=(len(batch.rows), 0))
            return percentile(times, 0.5) * 1e3

        async def raw() -> float:
            times = []
            for _ in range(polls):
                started = perf_counter()
                await database.admin.fetch("select 1")
                times.append(perf_counter() - started)
            return percentile(times, 0.5) * 1e3

        figures = await interleave("idle poll", {"raw": raw, "ours": ours}, settings.rounds)
        buffers = float(await pages_touched(database, store, mark))
    await engine.dispose()
    title = f"read: idle poll with {events:,} retained rows"
    return [
        Section(title, "ms", "`select 1` on asyncpg", [Row("median", figures["ours"], figures["raw"])]),
        Section(title, "buffers", "", [Row("touched by one poll", Series((buffers,)), None, (Goal("ours", "<=", 10),))]),
    ]


async def pages_touched(database: Database, store: SQLStore, mark: Mark) -> int:
    """Return how many of the server's buffers one poll from this mark touches."""
    assert mark.previous is not None
    _, xmax, late = mark.previous.split(":")
    statement = store.log.poll.numbered  # type: ignore[union-attr]
    plan = await database.admin.fetchval(
        f"explain (analyze, buffers, format json) {statement}", xmax, late.split(",") if late else [], PAGE
    )
    top = json.loads(plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
