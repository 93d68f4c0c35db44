"""From commit to handler, at 200 events a second: publisher and handler in one process, and in two.

The clock starts when the publisher's commit has returned, and stops where the handler begins. A handler that begins before is at 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks.child import child
from benchmarks.database import Database, fresh_database, warm
from benchmarks.measuring import Series, interleave, percentile
from benchmarks.publishing_process import CONNECTIONS, at_rate, place_order, raw_publisher
from benchmarks.raw_path import raw_service
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, OrderPlaced, WrongResult, check, contract, create_tables
from tidings import Service, Subscriptions
from tidings.stores import SQLStore

RATE = 200
#: Seconds at the beginning that do not count: connections are opened, and a quiet reader looks twice a second only.
LEAD = 1.0

#: What p50, p99 and max of our path may be, in milliseconds.
GOALS = {"one process": (1.5, 6.0, None), "two processes": (6.0, 25.0, None)}

Publish = Callable[[int], Awaitable[dict[UUID, float]]]


class Arrivals:
    """When each event's handler began first."""

    def __init__(self) -> None:
        self.at: dict[UUID, float] = {}
        self._enough = asyncio.Event()
        self._wanted = 0

    def note(self, order_id: UUID) -> None:
        self.at.setdefault(order_id, monotonic())
        if self._wanted and len(self.at) >= self._wanted:
            self._enough.set()

    async def wait(self, count: int) -> None:
        """Wait until so many have arrived.

        Raises:
            WrongResult: they have not within 30 seconds.
        """
        self._wanted = count
        if len(self.at) < count:
            try:
                async with asyncio.timeout(30):
                    await self._enough.wait()
            except TimeoutError:
                raise WrongResult(f"latency: {len(self.at):,} of {count:,} events have arrived, and the others not within 30 s") from None


async def run(settings: Settings) -> list[Section]:
    """Measure the raw path and ours, in one process and in two, in turn."""
    async with fresh_database(settings.server, "latency") as database:
        await create_tables(database)
        engine = database.engine(CONNECTIONS + 24)
        store = SQLStore(engine)
        await store.upgrade()
        await warm(engine, CONNECTIONS + 8)
        found: dict[str, list[list[float]]] = {}
        seconds = settings.choose(15.0, 2.0)

        async def once(kind: str, place: str) -> float:
            latencies = await measure(database, engine, store, kind, seconds, apart=place == "two processes")
            shares = [percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies)]
            found.setdefault(f"{kind}, {place}", []).append(shares)
            return shares[0]

        runs = {f"{kind}, {place}": (lambda kind=kind, place=place: once(kind, place)) for place in GOALS for kind in ("raw", "ours")}
        await interleave("latency", runs, settings.rounds)
        await engine.dispose()
    rows = []
    for place, bounds in GOALS.items():
        for index, (name, bound) in enumerate(zip(("p50", "p99", "max"), bounds, strict=True)):
            ours, raw = (Series(tuple(shares[index] for shares in found[f"{kind}, {place}"])) for kind in ("ours", "raw"))
            rows.append(Row(f"{place}, {name}", ours, raw, () if bound is None else (Goal("ours", "<=", bound),)))
    title = f"latency: commit to handler at {RATE} events/s for {seconds:.0f} s"
    return [Section(title, "ms", "asyncpg, LISTEN/NOTIFY in the publisher's transaction, read, inbox row, effect", rows)]


async def measure(database: Database, engine: AsyncEngine, store: SQLStore, kind: str, seconds: float, *, apart: bool) -> list[float]:
    """Return the latency of each event in milliseconds."""
    await database.clear(store.names.outbox, store.names.inbox, store.names.checkpoints, "orders", "effects", "raw_outbox", "raw_inbox")
    arrivals = Arrivals()
    count = int((LEAD + seconds) * RATE)
    async with (our_path if kind == "ours" else raw_path)(database, engine, store, arrivals) as publish:
        if apart:
            printed = await child("benchmarks.publishing_process", kind, database.dsn, str(RATE), str(count))
            committed = {UUID(order_id): float(at) for order_id, at in printed.items()}
        else:
            committed = await publish(count)
        await arrivals.wait(count)
    effects = await database.admin.fetchrow("select count(*) as rows, count(distinct event_id) as events from effects")
    check(f"latency, {kind}", rows=(effects["rows"], count), events=(effects["events"], count))
    begin = min(committed.values()) + LEAD
    return [max(0.0, arrivals.at[order_id] - at) * 1e3 for order_id, at in committed.items() if at >= begin]


@asynccontextmanager
async def our_path(database: Database, engine: AsyncEngine, store: SQLStore, arrivals: Arrivals) -> AsyncIterator[Publish]:
    """Run a service that handles; give what publishes in its process."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def ship(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        arrivals.note(event.order_id)
        await connection.execute(INSERT_EFFECT, event.order_id)

    service = Service("shop", contracts=[contract], subscriptions=[handlers], store=store)
    async with service:
        yield lambda count: at_rate(lambda order_id: place_order(service, AsyncSession(engine), order_id), RATE, count)


@asynccontextmanager
async def raw_path(database: Database, engine: AsyncEngine, store: SQLStore, arrivals: Arrivals) -> AsyncIterator[Publish]:
    """Run the raw reader and handlers; give what publishes in their process."""
    async with raw_service(database.dsn, arrivals.note), raw_publisher(database.dsn) as place:
        yield lambda count: at_rate(place, RATE, count)
