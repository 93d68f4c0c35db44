"""Handling: events a second from a backlog, effects once, for each kind of thing that a handler may ask for.

The reference is a raw loop with the same kind of handler (raw_loop.py). Both handle the same backlog, which is written once: every run of
ours is a new service, whose group starts at the beginning of the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter, process_time
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import handlers
from benchmarks.backlog import fill
from benchmarks.database import Database, fresh_database, warm
from benchmarks.handlers import Calls, Declare
from benchmarks.measuring import Run, interleave
from benchmarks.raw_loop import SIZE, RawLoop, Unit
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.statements import counted
from benchmarks.workload import WrongResult, check, contract, create_tables
from tidings import Service, Subscriptions
from tidings.cli.collector import settle
from tidings.stores import SQLStore

KEYS = 100
CONNECTIONS = 32
#: The best peer with this work (an inbox written by hand), in events a second: see the README.
BEST_PEER = 2_650
PATIENCE = 120.0

_services = count(1)


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of handler, its raw loop, and what was promised.

    Attributes:
        effects: whether it leaves a row for each event.
        keyed: which of the two backlogs it handles.
        size: events of one raw transaction.
    """

    name: str
    declare: Declare
    raw: str
    goals: tuple[Goal, ...] = ()
    effects: bool = True
    keyed: bool = True
    size: int = SIZE


VARIANTS = (
    Variant(
        "asyncpg connection", handlers.driver, "driver", (Goal("ratio", ">=", 0.60), Goal("ours", ">=", 3 * BEST_PEER))
    ),
    Variant("AsyncConnection", handlers.connection, "connection", (Goal("ratio", ">=", 0.65),)),
    Variant("AsyncSession an event", handlers.session, "session", (Goal("ratio", ">=", 0.80),)),
    Variant("AsyncSession an event, ORM object", handlers.orm, "orm"),
    Variant("AsyncSession a transaction, ORM object", handlers.one_session, "one_session", (Goal("ratio", ">=", 0.60),)),
    Variant("batch of 100, one INSERT", handlers.batch(100), "batch", (Goal("ours", ">=", 30_000),)),
    Variant("batch of 500, one INSERT", handlers.batch(500), "batch", (Goal("ours", ">=", 30_000),), size=500),
    Variant("plain, keyed", handlers.plain, "plain", effects=False),
    Variant("plain, no key", handlers.plain_unkeyed, "plain", (Goal("ours", ">=", 20_000),), effects=False, keyed=False),
)  # fmt: skip


@dataclass(slots=True)
class Bench:
    """One backlog and those who handle it.

    Attributes:
        cpu: microseconds of this process's processor time that an event took in the last run of `ours` and of `raw`.
    """

    database: Database
    engine: AsyncEngine
    store: SQLStore
    loop: RawLoop
    events: int
    cpu: dict[str, float] = field(default_factory=dict)

    async def ours(self, variant: Variant, engine: AsyncEngine | None = None) -> float:
        """Handle everything once with a new service; return events a second."""
        async with self.running(variant, engine) as (service, _):
            started, used = perf_counter(), process_time()
            await self.handled(variant, service, self.events)
            elapsed = perf_counter() - started
            self.cpu["ours"] = (process_time() - used) / self.events * 1e6
        return self.events / elapsed

    @asynccontextmanager
    async def running(
        self, variant: Variant, engine: AsyncEngine | None = None, prepare: Callable[[Service], None] = lambda _: None
    ) -> AsyncIterator[tuple[Service, Calls]]:
        """Run a new service, which handles everything; check what it has left."""
        store = self.store if engine is None else SQLStore(engine, prefix=self.store.names.prefix)
        subscriptions, calls = Subscriptions(), Calls()
        variant.declare(subscriptions, calls)
        await self._clear()
        service = Service(f"bench-{next(_services)}", contracts=[contract], subscriptions=[subscriptions], store=store)
        prepare(service)
        async with service:
            yield service, calls
            await self.handled(variant, service, self.events)
        names = self.store.names
        inbox = await self.database.admin.fetchval(f"select count(*) from {names.inbox}")
        check(variant.name, inbox=(inbox, self.events))
        await self._check(variant, calls.count)
        inverted = await self.database.admin.fetchval(
            f"select count(*) from (select o.position < lag(o.position) over (partition by o.key order by e.id) as back "
            f"from effects e join {names.outbox} o on o.id = e.event_id) w where back"
        )
        check(variant.name, out_of_order=(inverted, 0))

    async def raw(self, variant: Variant) -> float:
        """Handle everything once with the raw loop; return events a second."""
        await self._clear()
        before = self.loop.count
        unit: Unit = getattr(self.loop, variant.raw)
        started, used = perf_counter(), process_time()
        await self.loop.run(unit, variant.size)
        elapsed = perf_counter() - started
        self.cpu["raw"] = (process_time() - used) / self.events * 1e6
        check(f"raw loop, {variant.name}", inbox=(await self.database.admin.fetchval("select count(*) from raw_inbox"), self.events))
        await self._check(variant, self.loop.count - before)
        return self.events / elapsed

    async def statements(self, variant: Variant) -> str:
        """Return how many statements an event costs, the handler's own left out: the store's, and BEGIN, COMMIT and ROLLBACK."""
        engine = self.database.engine(CONNECTIONS)
        with counted(engine) as counts:
            await self.ours(variant, engine)
        await engine.dispose()
        return f"{counts['ours'] / self.events:.3f} + {counts['transaction'] / self.events:.3f}"

    async def handled(self, variant: Variant, service: Service, least: int) -> int:
        """Wait until so many events have been handled; return how many have."""
        since = perf_counter()
        while (found := service.counters.total[f"{service.name}/effect", "handled"]) < least:
            await asyncio.sleep(0.002)
            if perf_counter() - since > PATIENCE:
                raise WrongResult(f"{variant.name}: after {PATIENCE:.0f} s only {dict(service.counters.total)} of {self.events:,} events")
        return found

    async def _clear(self) -> None:
        await self.database.clear(self.store.names.inbox, "effects", "raw_inbox")

    async def _check(self, variant: Variant, called: int) -> None:
        if not variant.effects:
            check(variant.name, calls=(called, self.events))
            return
        found: Any = await self.database.admin.fetchrow("select count(*) as rows, count(distinct event_id) as events from effects")
        check(variant.name, rows=(found["rows"], self.events), events=(found["events"], self.events))


async def run(settings: Settings) -> list[Section]:
    """Measure every variant beside its raw loop."""
    events = settings.count(20_000, 2_000)
    async with fresh_database(settings.server, "handle") as database, benches(database, events) as (keyed, unkeyed):
        wanted = [variant for variant in VARIANTS if settings.wants(variant.name)]
        rows = [await measure(settings, variant, keyed if variant.keyed else unkeyed) for variant in wanted]
    remark = (
        "Last column: processor time of this process for an event; statements of ours for an event, counted in a run of their own: "
        "the store's + BEGIN, COMMIT, ROLLBACK."
    )
    title = f"handle: {events:,} events, {KEYS} keys, effects once"
    return [Section(title, "events/s", "raw loop, same kind of handler, bulk inbox, four tasks", rows, [remark])]


async def measure(settings: Settings, variant: Variant, bench: Bench) -> Row:
    """Run a variant and its raw loop in turn, after a run of each that does not count."""
    runs: dict[str, Run] = {"raw": lambda: bench.raw(variant), "ours": lambda: bench.ours(variant)}
    if not settings.quick:
        await interleave(f"handle, warming up {variant.name}", runs, 1)
    figures = await interleave(f"handle, {variant.name}", runs, settings.rounds)
    cpu = f"{bench.cpu['ours']:.0f} us (raw {bench.cpu['raw']:.0f})"
    return Row(variant.name, figures["ours"], figures["raw"], variant.goals, f"{cpu}; {await bench.statements(variant)}")


@asynccontextmanager
async def benches(database: Database, events: int) -> AsyncIterator[tuple[Bench, Bench]]:
    """Make the backlogs, with keys and without, in two sets of tables; one pool serves both."""
    await create_tables(database)
    engine = database.engine(CONNECTIONS)
    stores = [SQLStore(engine, prefix=prefix) for prefix in ("keyed_", "unkeyed_")]
    for store, keys in zip(stores, (KEYS, 0), strict=True):
        await store.upgrade()
        await fill(database, store.names.outbox, events, keys=keys, transaction=10)
    await warm(engine, CONNECTIONS)
    # As `tidings run` does once it has started.
    settle()
    async with RawLoop(database, engine, stores[0].names.outbox) as first, RawLoop(database, engine, stores[1].names.outbox) as second:
        yield Bench(database, engine, stores[0], first, events), Bench(database, engine, stores[1], second, events)
    await engine.dispose()
