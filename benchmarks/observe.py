"""What observing costs: the same backlog handled, and the same events published, with nothing measured, as it comes, and with everything on.

The reference keeps no histograms; "as it comes" is what every service does: counts and histograms, flushed into `stats` every ten seconds.
Metrics are OpenTelemetry's SDK with a reader of its own, and a scrape for Prometheus every second. Traces go to an exporter that
forgets them: "sampled 1 %" is how a busy service is traced, "all" records every span.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import handlers
from benchmarks.database import Database, fresh_database
from benchmarks.handle import Bench, Variant, benches
from benchmarks.measuring import interleave, throughput
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import LINES, OrderPlaced, contract, orders
from tidings import Service
from tidings.consume.counters import Histogram
from tidings.stores import SQLStore

VARIANTS = (Variant("asyncpg connection", handlers.driver, "driver"), Variant("batch of 100, one INSERT", handlers.batch(100), "batch"))
MODES = ("as it comes", "metrics", "traces, sampled 1 %", "traces, all")
TASKS = 16

_services = count(1)


class Forgetting(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Observers:
    """What an application sets up once."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.traces = {1.0: TracerProvider(), 0.01: TracerProvider(sampler=ParentBasedTraceIdRatio(0.01))}
        for provider in self.traces.values():
            provider.add_span_processor(BatchSpanProcessor(Forgetting()))

    def observe(self, service: Service, mode: str) -> None:
        if mode == "metrics":
            service.instrument(traces=False, meter_provider=self.meters)
        elif mode.startswith("traces"):
            service.instrument(metrics=False, tracer_provider=self.traces[0.01 if "1 %" in mode else 1.0])

    def close(self) -> None:
        self.meters.shutdown()
        for provider in self.traces.values():
            provider.shutdown()


@contextmanager
def unmeasured() -> Iterator[None]:
    """Keep no histograms."""
    kept = Histogram.observe, Histogram.since
    changed: Any = Histogram
    changed.observe = changed.since = lambda *_: None
    try:
        yield
    finally:
        changed.observe, changed.since = kept


async def run(settings: Settings) -> list[Section]:
    """Measure handling and publishing in every mode."""
    events = settings.count(20_000, 2_000)
    observers = Observers()
    try:
        async with fresh_database(settings.server, "observe") as database, benches(database, events) as (bench, _):
            wanted = [variant for variant in VARIANTS if settings.wants(variant.name)]
            handling = [row for variant in wanted for row in await handled(settings, variant, bench, observers)]
            publishing = await published(settings, database, bench.store, observers) if settings.wants("publish") else []
    finally:
        observers.close()
    reference = "the same service without histograms"
    return [
        Section(f"observe: handling {events:,} events", "events/s", reference, handling, []),
        Section(f"observe: publishing one event a transaction, {TASKS} tasks", "transactions/s", "not observed", publishing, []),
    ]


async def handled(settings: Settings, variant: Variant, bench: Bench, observers: Observers) -> list[Row]:
    """Handle the backlog in every mode. What does not depend on who else uses the machine is the processor time of an event, the least of all runs."""
    cpu: dict[str, float] = {}

    def mode(name: str) -> Callable[[], Any]:
        async def once() -> float:
            if name == "nothing":
                with unmeasured():
                    rate = await bench.ours(variant)
            else:
                async with scraping(observers, name):
                    rate = await bench.ours(variant, prepare=lambda service: observers.observe(service, name))
            cpu[name] = min(cpu.get(name, bench.cpu["ours"]), bench.cpu["ours"])
            return rate

        return once

    runs = {name: mode(name) for name in ("nothing", *MODES)}
    if not settings.quick:
        await interleave(f"observe, warming up {variant.name}", runs, 1)
    figures = await interleave(f"observe, {variant.name}", runs, settings.rounds)
    return [
        Row(
            f"{variant.name}: {name}",
            figures[name],
            figures["nothing"],
            _goals(name),
            f"{cpu[name]:.1f} us (reference {cpu['nothing']:.1f})",
        )
        for name in MODES
    ]


async def published(settings: Settings, database: Database, store: SQLStore, observers: Observers) -> list[Row]:
    """Publish in every mode that changes anything for the publisher."""
    engine = database.engine(TASKS)
    seconds = settings.choose(1.0, 0.2)

    def mode(name: str) -> Callable[[], Any]:
        async def once() -> float:
            service = Service(f"observed-{next(_services)}", contracts=[contract], store=SQLStore(engine, prefix=store.names.prefix))
            if name == "not observed":
                service.publisher._count = lambda *_: None
            observers.observe(service, name)

            async def transaction(number: int) -> None:
                order_id = uuid4()
                async with AsyncSession(engine) as session, session.begin():
                    await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
                    service.publish(session, OrderPlaced(order_id, f"customer-{number}", LINES))

            done, took = await throughput(transaction, TASKS, seconds)
            return done / took

        return once

    runs = {name: mode(name) for name in ("not observed", "as it comes", "traces, sampled 1 %", "traces, all")}
    figures = await interleave("observe, publishing", runs, settings.rounds)
    await engine.dispose()
    return [Row(name, figures[name], figures["not observed"], _goals(name), "") for name in runs if name != "not observed"]


def _goals(mode: str) -> tuple[Goal, ...]:
    return (Goal("ratio", ">=", 0.98 if mode == "as it comes" else 0.95),)


@asynccontextmanager
async def scraping(observers: Observers, mode: str) -> AsyncIterator[None]:
    """Read metrics every second, as Prometheus would at most."""

    async def scrape() -> None:
        while True:
            await asyncio.sleep(1.0)
            observers.reader.get_metrics_data()

    task = asyncio.ensure_future(scrape()) if mode == "metrics" else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
