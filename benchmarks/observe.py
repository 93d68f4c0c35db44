"""What observing costs: the same backlog handled, and the same events published, with nothing measured, as it comes, and with everything on.

- "as it comes" is what every service does: counts and histograms, flushed into `stats` every ten seconds. Its reference keeps no histograms.
- Metrics are OpenTelemetry's SDK with a reader of its own, and a scrape every second, more often than anybody does.
- "1 %" is how a busy service is traced: the publisher's trace is sampled or not, and the events say so. The reference handles the same events
  and is not traced.
- "all" records every span. Its reference makes the same spans by hand, in the handler or beside the publishing: that is what OpenTelemetry's
  SDK costs, whoever calls it, and it is said how much that is.

Each handling run is measured from when a quarter of the backlog has been handled: a service lasts longer than its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
from opentelemetry.context import attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks import handlers
from benchmarks.backlog import fill
from benchmarks.database import Database, fresh_database
from benchmarks.handle import KEYS, Bench, Variant, benches
from benchmarks.handlers import Calls
from benchmarks.measuring import interleave, throughput
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, LINES, OrderPlaced, contract, orders
from tidings import Envelope, Service, Subscriptions
from tidings.consume.counters import Histogram
from tidings.stores import SQLStore

DRIVER = Variant("asyncpg connection", handlers.driver, "driver")
BATCH = Variant("batch of 100, one INSERT", handlers.batch(100), "batch")
TASKS = 16

_services = count(1)
_extract = TraceContextTextMapPropagator().extract

#: One way to handle: the variant, and what is done to the service.
Way = tuple[Variant, Callable[[Service], None]]


class Forgetting(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Observers:
    """What an application sets up once."""

    def __init__(self) -> None:
        self.all, self.few = TracerProvider(), TracerProvider(sampler=ParentBasedTraceIdRatio(0.01))
        for provider in (self.all, self.few):
            provider.add_span_processor(BatchSpanProcessor(Forgetting()))

    def every_trace(self, service: Service) -> None:
        service.instrument(metrics=False, tracer_provider=self.all)

    def few_traces(self, service: Service) -> None:
        service.instrument(metrics=False, tracer_provider=self.few)

    def close(self) -> None:
        for provider in (self.all, self.few):
            provider.shutdown()


def nothing(service: Service) -> None:
    """Leave a service as it comes."""


def spanned(tracer: Tracer) -> handlers.Declare:
    """asyncpg: one INSERT an event, in a span that the handler makes by hand."""

    def declare(subscriptions: Subscriptions, calls: Calls) -> None:
        @subscriptions.subscribe(OrderPlaced, name="effect")
        async def effect(event: OrderPlaced, connection: asyncpg.Connection, envelope: Envelope) -> None:
            attributes = {
                "messaging.system": "tidings", "messaging.operation.name": "process", "messaging.operation.type": "process",
                "messaging.destination.name": envelope.topic, "messaging.consumer.group.name": "bench",
                "messaging.destination.subscription.name": "bench/effect", "messaging.message.id": str(envelope.id),
                "messaging.message.conversation_id": envelope.correlation_id, "event.name": envelope.name, "attempt": envelope.attempt,
            }  # fmt: skip
            parent = _extract({"traceparent": envelope.traceparent or ""})
            span = tracer.start_span(f"process {envelope.topic}", parent, SpanKind.CONSUMER, attributes)
            token = attach(set_span_in_context(span))
            try:
                await connection.execute(INSERT_EFFECT, event.order_id)
            finally:
                detach(token)
                span.end()

    return declare


@contextmanager
def unmeasured() -> Iterator[None]:
    """Keep no histograms."""
    names = ("observe", "observe_each", "since")
    kept = [getattr(Histogram, name) for name in names]
    for name in names:
        setattr(Histogram, name, lambda *_: None)
    try:
        yield
    finally:
        for name, method in zip(names, kept, strict=True):
            setattr(Histogram, name, method)


async def run(settings: Settings) -> list[Section]:
    """Measure handling and publishing in every mode."""
    events = settings.count(40_000, 2_000)
    observers = Observers()
    sections: list[Section] = []
    try:
        async with fresh_database(settings.server, "observe") as database, benches(database, events) as (bench, _):
            wanted = [variant for variant in (DRIVER, BATCH) if settings.wants(variant.name)]
            sections += [await untraced(settings, variant, bench) for variant in wanted]
            traced = [await _traced(bench, f"few_{variant.raw}_", 100) for variant in wanted]
            sections += [await few_traces(settings, *each, observers) for each in zip(wanted, traced, strict=True)]
            if DRIVER in wanted:
                sections.append(await every_trace(settings, await _traced(bench, "all_", 1), observers))
            if settings.wants("publish"):
                sections += await published(settings, database, bench.store, observers)
    finally:
        observers.close()
    return sections


async def untraced(settings: Settings, variant: Variant, bench: Bench) -> Section:
    """Handle events of a publisher that is not traced."""

    async def unmeasured_run() -> float:
        with unmeasured():
            return await _run(bench, (variant, nothing))

    async def metrics_run() -> float:
        # As in a process of its own: a provider observes every service that it was ever given.
        reader = InMemoryMetricReader()
        meters = MeterProvider([reader])
        async with scraping(reader):
            rate = await _run(bench, (variant, lambda service: service.instrument(traces=False, meter_provider=meters)))
        meters.shutdown()
        return rate

    runs = {"reference": unmeasured_run, "as it comes": lambda: _run(bench, (variant, nothing)), "metrics": metrics_run}
    rows = await _rows(settings, variant.name, bench, runs)
    return Section(f"observe: handling {bench.events:,} events, {variant.name}", "events/s", "no histograms", rows, [])


async def few_traces(settings: Settings, variant: Variant, bench: Bench, observers: Observers) -> Section:
    """Handle events of which one in a hundred belongs to a trace that is sampled."""
    ways: dict[str, Way] = {"reference": (variant, nothing), "traces, sampled 1 %": (variant, observers.few_traces)}
    rows = await _rows(settings, f"1 %, {variant.name}", bench, _runs(bench, ways))
    return Section(f"observe: handling {bench.events:,} events of a traced publisher, {variant.name}", "events/s", "not traced", rows, [])


async def every_trace(settings: Settings, bench: Bench, observers: Observers) -> Section:
    """Handle events that all belong to traces that are sampled."""
    by_hand = Variant(DRIVER.name, spanned(observers.all.get_tracer("by hand")), DRIVER.raw)
    ways: dict[str, Way] = {
        "reference": (by_hand, nothing), "traces, all": (DRIVER, observers.every_trace), "not traced": (DRIVER, nothing),
    }  # fmt: skip
    rows = await _rows(settings, f"all, {DRIVER.name}", bench, _runs(bench, ways))
    remark = "What the SDK's spans cost is the distance between the reference and 'not traced'."
    return Section(
        f"observe: handling {bench.events:,} events, each in a recorded trace, {DRIVER.name}",
        "events/s",
        "the same spans by hand",
        rows,
        [remark],
    )


async def published(settings: Settings, database: Database, store: SQLStore, observers: Observers) -> list[Section]:
    """Publish in every mode that changes anything for the publisher. Where it is traced, each transaction runs in the span of a request."""
    engine = database.engine(TASKS)
    seconds = settings.choose(1.5, 0.2)
    few, every = observers.few.get_tracer("user"), observers.all.get_tracer("user")

    def way(observe: Callable[[Service], None], request: Tracer | None = None, *, by_hand: bool = False) -> Callable[[], Any]:
        async def once() -> float:
            service = Service(f"observed-{next(_services)}", contracts=[contract], store=SQLStore(engine, prefix=store.names.prefix))
            observe(service)

            async def transaction(number: int) -> None:
                order_id = uuid4()
                with nullcontext() if request is None else request.start_as_current_span("request"):
                    async with AsyncSession(engine) as session, session.begin():
                        await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
                        event_id = service.publish(session, OrderPlaced(order_id, f"customer-{number}", LINES))
                        if by_hand and request is not None:
                            attributes = {
                                "messaging.system": "tidings", "messaging.operation.name": "publish", "messaging.operation.type": "create",
                                "messaging.destination.name": "order.placed", "event.name": "order.placed", "messaging.message.id": str(event_id),
                            }  # fmt: skip
                            request.start_span("publish order.placed", kind=SpanKind.PRODUCER, attributes=attributes).end()

            done, took = await throughput(transaction, TASKS, seconds)
            return done / took

        return once

    def uncounted(service: Service) -> None:
        service.publisher._count = lambda *_: None

    what = f"observe: publishing one event a transaction, {TASKS} tasks"
    wanted: tuple[tuple[str, str, dict[str, Callable[[], Any]]], ...] = (
        (what, "not counted", {"reference": way(uncounted), "as it comes": way(nothing)}),
        (
            f"{what}, in requests of which 1 % are sampled", "not traced",
            {"reference": way(nothing, few), "traces, sampled 1 %": way(observers.few_traces, few)},
        ),
        (
            f"{what}, in requests that are all sampled", "the same spans by hand, not written into the event",
            {"reference": way(nothing, every, by_hand=True), "traces, all": way(observers.every_trace, every)},
        ),
    )  # fmt: skip
    sections: list[Section] = []
    for title, reference, runs in wanted:
        figures = await interleave(title, runs, settings.rounds)
        rows = [Row(name, figures[name], figures["reference"], _goals(name), "") for name in runs if name != "reference"]
        sections.append(Section(title, "transactions/s", reference, rows, []))
    await engine.dispose()
    return sections


async def _traced(bench: Bench, prefix: str, sampled: int) -> Bench:
    """Return a backlog of a traced publisher, in tables of its own."""
    store = SQLStore(bench.engine, prefix=prefix)
    await store.upgrade()
    await fill(bench.database, store.names.outbox, bench.events, keys=KEYS, transaction=10, sampled=sampled)
    return Bench(bench.database, bench.engine, store, bench.loop, bench.events)


async def _run(bench: Bench, way: Way) -> float:
    variant, prepare = way
    return await bench.ours(variant, prepare=prepare, warm=bench.events // 4)


def _runs(bench: Bench, ways: Mapping[str, Way]) -> dict[str, Callable[[], Any]]:
    return {name: lambda way=way: _run(bench, way) for name, way in ways.items()}  # type: ignore[misc]


async def _rows(settings: Settings, title: str, bench: Bench, runs: Mapping[str, Callable[[], Any]]) -> list[Row]:
    """Run them in turn. What does not depend on who else uses the machine is the processor time of an event, the least of all runs."""
    cpu: dict[str, float] = {}

    def measured(name: str, run: Callable[[], Any]) -> Callable[[], Any]:
        async def once() -> float:
            rate: float = await run()
            cpu[name] = min(cpu.get(name, bench.cpu["ours"]), bench.cpu["ours"])
            return rate

        return once

    contenders = {name: measured(name, run) for name, run in runs.items()}
    if not settings.quick:
        await interleave(f"observe, warming up {title}", contenders, 1)
    figures = await interleave(f"observe, {title}", contenders, settings.rounds)
    return [
        Row(name, figures[name], figures["reference"], _goals(name), f"{cpu[name]:.1f} us (reference {cpu['reference']:.1f})")
        for name in runs
        if name != "reference"
    ]


def _goals(mode: str) -> tuple[Goal, ...]:
    if mode == "not traced":
        return ()
    return (Goal("ratio", ">=", 0.98 if mode == "as it comes" else 0.95),)


@asynccontextmanager
async def scraping(reader: InMemoryMetricReader) -> AsyncIterator[None]:
    """Read metrics every second."""

    async def scrape() -> None:
        while True:
            await asyncio.sleep(1.0)
            reader.get_metrics_data()

    task = asyncio.ensure_future(scrape())
    try:
        yield
    finally:
        task.cancel()
