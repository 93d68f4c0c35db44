"""Whether speed stays the same: while an idle transaction holds back vacuum, and in front of a backlog of millions.

A service's rate is that of a backlog of a few thousand events, written while its subscription is paused; its latency
is that of a steady 200 events a second. The reference is the same service on a database beside it that has no trouble, in turns: a machine's
own speed drifts by more than what is looked for here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from uuid import uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks.backlog import fill
from benchmarks.database import Database, fresh_database, warm
from benchmarks.latency import LEAD, RATE, Arrivals
from benchmarks.measuring import Series, percentile, progress, throughput
from benchmarks.publishing_process import at_rate, place_order
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, OrderPlaced, WrongResult, contract, create_tables
from tidings import Service, Subscriptions
from tidings.stores import SQLStore

CONNECTIONS = 32
KEYS = 100
#: At least this share of the rate, and at most its inverse of the latency.
FLAT = 0.95
PATIENCE = 120.0


@dataclass(slots=True)
class Shop:
    """A service that runs, and what publishes for it."""

    database: Database
    engine: AsyncEngine
    store: SQLStore
    service: Service
    arrivals: Arrivals

    @property
    def handled(self) -> int:
        """How many events were handled so far."""
        return self.service.counters.total["shop/ship", "handled"]

    async def drain(self, events: int) -> float:
        """Write a backlog while the subscription is paused; return at how many events a second it is handled then."""
        await self.rest()
        before = self.handled
        await fill(self.database, self.store.names.outbox, events, keys=KEYS)
        await self.service.operations.resume("ship")
        # The first portions are small, until it is known how fast the handler is.
        first = events // 10
        await self.handled_all(before + first)
        started = perf_counter()
        already = self.handled
        await self.handled_all(before + events)
        return (before + events - already) / (perf_counter() - started)

    async def rest(self) -> None:
        """Pause the subscription, and wait until nothing is handled any more."""
        await self.service.operations.pause("ship")
        handled = -1
        while handled != self.handled:
            handled = self.handled
            await asyncio.sleep(2.5)

    async def handled_all(self, handled: int) -> None:
        """Wait until so many events are handled."""
        started = perf_counter()
        while self.handled < handled:
            await asyncio.sleep(0.002)
            if perf_counter() - started > PATIENCE:
                raise WrongResult(f"flat: after {PATIENCE:.0f} s only {self.handled:,} of {handled:,} events are handled")

    async def latency(self, seconds: float) -> tuple[float, float]:
        """Publish steadily; return p50 and p99 from commit to handler in milliseconds."""
        count = int((LEAD + seconds) * RATE)
        self.arrivals.at.clear()
        committed = await at_rate(lambda order_id: place_order(self.service, AsyncSession(self.engine), order_id), RATE, count)
        started = perf_counter()
        while not self.arrivals.at.keys() >= committed.keys():
            await asyncio.sleep(0.01)
            if perf_counter() - started > PATIENCE:
                missing = len(committed.keys() - self.arrivals.at.keys())
                raise WrongResult(f"flat: after {PATIENCE:.0f} s {missing:,} of {count:,} events have not arrived")
        begin = min(committed.values()) + LEAD
        found = [max(0.0, self.arrivals.at[order_id] - at) * 1e3 for order_id, at in committed.items() if at >= begin]
        return percentile(found, 0.5), percentile(found, 0.99)

    async def publishing(self, seconds: float) -> float:
        """Return how many transactions with one event 16 tasks commit a second."""

        async def transaction(task: int) -> None:
            await place_order(self.service, AsyncSession(self.engine), uuid4())

        done, elapsed = await throughput(transaction, 16, seconds)
        return done / elapsed


@asynccontextmanager
async def shop(settings: Settings, purpose: str) -> AsyncIterator[Shop]:
    """Make a database, and run a service on it for a block."""
    async with fresh_database(settings.server, purpose) as database:
        await create_tables(database)
        engine = database.engine(CONNECTIONS)
        store = SQLStore(engine)
        await store.upgrade()
        await warm(engine, CONNECTIONS)
        handlers, arrivals = Subscriptions(), Arrivals()

        @handlers.subscribe(OrderPlaced)
        async def ship(event: OrderPlaced, connection: asyncpg.Connection) -> None:
            arrivals.note(event.order_id)
            await connection.execute(INSERT_EFFECT, event.order_id)

        service = Service("shop", contracts=[contract], subscriptions=[handlers], store=store)
        try:
            async with service:
                yield Shop(database, engine, store, service, arrivals)
        finally:
            await engine.dispose()


async def run(settings: Settings) -> list[Section]:
    """Measure both kinds of trouble."""
    kinds = {"a transaction idle": held_back, "a backlog": backlog}
    return [await measure(settings) for name, measure in kinds.items() if settings.wants(name)]


async def held_back(settings: Settings) -> Section:
    """An idle transaction keeps every dead row of one database for ten minutes of steady work; another database has none."""
    events, seconds = settings.count(30_000, 3_000), settings.choose(10.0, 2.0)
    rounds = settings.count(8, 1)
    minutes = settings.choose(600.0, 5.0)
    rates: list[list[float]] = [[], []]
    latencies: list[list[tuple[float, float]]] = [[], []]
    async with shop(settings, "free") as free, shop(settings, "held") as held:
        both = (free, held)
        for it in both:
            await it.drain(events)  # which does not count
        idle = await asyncpg.connect(held.database.dsn)
        await idle.execute("begin")
        await idle.execute("select pg_current_xact_id()")
        progress(f"flat: {minutes:.0f} s of work with an idle transaction")
        await asyncio.gather(*(it.latency(minutes) for it in both))
        for number in range(rounds):
            # Each is the first every other time.
            for index, it in list(enumerate(both))[:: 1 if number % 2 else -1]:
                progress(f"flat: round {number + 1} of {rounds}")
                rates[index].append(await it.drain(events))
                latencies[index].append(await it.latency(seconds))
        await idle.execute("rollback")
        await idle.close()
        progress("")
    rows = [Row("handled a second", _series(rates[1]), _series(rates[0]), (Goal("ratio", ">=", FLAT),))]
    for index, name in enumerate(("latency p50, ms", "latency p99, ms")):
        without, with_one = (_series([found[index] for found in each]) for each in latencies)
        rows.append(Row(name, with_one, without, (Goal("ratio", "<=", round(1 / FLAT, 2)),)))
    return Section(f"flat: a transaction idle for {minutes:.0f} s at {RATE} events/s", "events/s, ms", "a database without it", rows)


async def backlog(settings: Settings) -> Section:
    """Millions of events wait, or lie there already handled; two services take turns, so that both have the same machine."""
    small, large = settings.count(200_000, 5_000), settings.count(10_000_000, 20_000)
    seconds, rounds = settings.choose(3.0, 0.2), settings.count(6, 1)
    rates: list[list[float]] = [[], []]
    published: list[list[float]] = [[], []]
    async with shop(settings, "few") as few, shop(settings, "many") as many:
        both = (few, many)
        for it, events in zip(both, (small, large), strict=True):
            progress(f"flat: {events:,} events are written")
            await it.rest()
            await fill(it.database, it.store.names.outbox, events, keys=KEYS)
        for number in range(rounds):
            # Each is the first every other time.
            for index, it in list(enumerate(both))[:: 1 if number % 2 else -1]:
                progress(f"flat: publishing, round {number + 1} of {rounds}")
                published[index].append(await it.publishing(seconds))
        for number in range(rounds):
            for index, it in list(enumerate(both))[:: 1 if number % 2 else -1]:
                progress(f"flat: handling, round {number + 1} of {rounds}")
                await it.service.operations.resume("ship")
                # The first portions are small, until it is known how fast the handler is.
                await it.handled_all(it.handled + small // 100)
                rates[index].append(await _rate(it, seconds))
                await it.rest()
    progress("")
    goal = (Goal("ratio", ">=", FLAT),)
    rows = [
        Row("handled a second", _series(rates[1]), _series(rates[0]), goal),
        Row("published a second, 1 event", _series(published[1]), _series(published[0]), goal),
    ]
    return Section(f"flat: a backlog of {large:,} events", "events/s", f"a backlog of {small:,}", rows)


async def _rate(it: Shop, seconds: float) -> float:
    started, before = perf_counter(), it.handled
    await asyncio.sleep(seconds)
    return (it.handled - before) / (perf_counter() - started)


def _series(values: list[float]) -> Series:
    return Series(tuple(values))
