"""What observing costs: the same backlog handled, and the same events published, with nothing measured, as it comes, and with everything on.

- "as it comes" is what every service does: counts and histograms, flushed into `stats` every ten seconds. Its reference keeps no histograms.
- Metrics are OpenTelemetry's SDK with a reader of its own, and four scrapes a second, more often than anybody does.
- "1 %" is how a busy service is traced: the publisher's trace is sampled or not, and the events say so. The reference handles the same events
  and is not traced.
- "all" records every span. Its reference makes the same spans by hand, in the handler or beside the publishing: that is what OpenTelemetry's
  SDK costs, whoever calls it, and it is said how much that is.

It is about some percent, so all of them take turns within one run, and what is compared is the processor time of this process for an event
(`turns.py`). A process that has enough to do is bound by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
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
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks import handlers
from benchmarks.backlog import fill
from benchmarks.database import Database, fresh_database
from benchmarks.handle import KEYS, Bench, Variant, benches
from benchmarks.handlers import Calls
from benchmarks.measuring import progress
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.turns import Turns
from benchmarks.workload import INSERT_EFFECT, LINES, OrderPlaced, WrongResult, contract, orders
from tidings import Envelope, Service, Subscriptions
from tidings.consume.counters import Histogram
from tidings.observability.tracing import Tracing
from tidings.publish.publisher import Publisher
from tidings.stores import SQLStore

DRIVER = Variant("asyncpg connection", handlers.driver, "driver")
SESSION = Variant("AsyncSession an event", handlers.session, "session")
BATCH = Variant("batch of 100, one INSERT", handlers.batch(100), "batch")
TASKS = 16
UNIT = "us of processor time an event"

_services = count(1)
_extract = TraceContextTextMapPropagator().extract

#: Measures while a service runs, with what switches its ways on.
Rounds = Callable[[Service, Calls, Mapping[str, Callable[[], None]]], Awaitable[None]]


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


class ByHand:
    """A handler that makes the span itself, while it is told to.

    Attributes:
        on: whether it does.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.on = False
        self._tracer = tracer

    def declare(self, subscriptions: Subscriptions, calls: Calls) -> None:
        """asyncpg: one INSERT an event."""

        @subscriptions.subscribe(OrderPlaced, name="effect")
        async def effect(event: OrderPlaced, connection: asyncpg.Connection, envelope: Envelope) -> None:
            calls.count += 1
            if not self.on:
                await connection.execute(INSERT_EFFECT, event.order_id)
                return
            attributes: dict[str, Any] = {
                "messaging.system": "tidings", "messaging.operation.name": "process", "messaging.operation.type": "process",
                "messaging.destination.name": envelope.topic, "messaging.consumer.group.name": "bench",
                "messaging.destination.subscription.name": "bench/effect", "messaging.message.id": str(envelope.id),
                "messaging.message.conversation_id": envelope.correlation_id, "tidings.event.name": envelope.name,
                "tidings.attempt": envelope.attempt,
            }  # fmt: skip
            parent = _extract({"traceparent": envelope.traceparent or ""})
            span = self._tracer.start_span(f"process {envelope.topic}", parent, SpanKind.CONSUMER, attributes)
            token = attach(set_span_in_context(span))
            try:
                await connection.execute(INSERT_EFFECT, event.order_id)
            finally:
                detach(token)
                span.end()


class Unmeasured:
    """Keeps histograms from being kept, while it is told to."""

    _NAMES = ("observe", "observe_each", "since")

    def __init__(self) -> None:
        self._kept = [getattr(Histogram, name) for name in self._NAMES]

    def on(self) -> None:
        """Keep no histograms."""
        for name in self._NAMES:
            setattr(Histogram, name, lambda *_: None)

    def off(self) -> None:
        """Keep them."""
        for name, method in zip(self._NAMES, self._kept, strict=True):
            setattr(Histogram, name, method)


class Scraping:
    """Reads metrics, while it is told to.

    Attributes:
        on: whether it does.
    """

    def __init__(self) -> None:
        self.on = False
        self._reader = InMemoryMetricReader()
        self._meters = MeterProvider([self._reader])

    def instrument(self, service: Service) -> None:
        """Let a service tell its metrics."""
        service.instrument(traces=False, meter_provider=self._meters)

    async def run(self) -> None:
        """Read four times a second."""
        while True:
            await asyncio.sleep(0.25)
            if self.on:
                self._reader.get_metrics_data()

    def close(self) -> None:
        """Forget the service: a provider reads every one that it was ever given."""
        self._meters.shutdown()


async def run(settings: Settings) -> list[Section]:
    """Measure handling and publishing in every mode."""
    events = settings.count(60_000, 6_000)
    observers = Observers()
    sections: list[Section] = []
    try:
        async with fresh_database(settings.server, "observe") as database, benches(database, events) as (bench, _):
            wanted = [variant for variant in (DRIVER, SESSION, BATCH) if settings.wants(variant.name)]
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
    unmeasured = Unmeasured()

    async def once(rounds: Rounds) -> None:
        scraping = Scraping()

        def switch(*, measured: bool, read: bool) -> None:
            (unmeasured.off if measured else unmeasured.on)()
            scraping.on = read

        task = asyncio.ensure_future(scraping.run())
        try:
            async with bench.running(variant, prepare=scraping.instrument) as (service, calls):
                ways = {
                    "reference": lambda: switch(measured=False, read=False),
                    "as it comes": lambda: switch(measured=True, read=False),
                    "metrics": lambda: switch(measured=True, read=True),
                }
                await rounds(service, calls, ways)
        finally:
            task.cancel()
            scraping.close()
            unmeasured.off()

    rows = await _rows(settings, variant, bench, once, variant.name)
    return Section(f"observe: handling {bench.events:,} events, {variant.name}", UNIT, "no histograms", rows, [])


async def few_traces(settings: Settings, variant: Variant, bench: Bench, observers: Observers) -> Section:
    """Handle events of which one in a hundred belongs to a trace that is sampled."""
    by_hand = ByHand(observers.few.get_tracer("by hand"))
    remarks: list[str] = []
    if variant is DRIVER:
        variant = Variant(DRIVER.name, by_hand.declare, DRIVER.raw)
        remarks.append("By hand: each handler reads the context of its event, and makes its span, which the sampler then drops or not.")

    async def once(rounds: Rounds) -> None:
        async with bench.running(variant, prepare=observers.few_traces) as (service, calls):
            publisher, tracing = service.publisher, service.publisher.tracing

            def switch(*, hand: bool, ours: bool) -> None:
                by_hand.on = hand
                _trace(publisher, tracing if ours else None)

            ways = {
                "reference": lambda: switch(hand=False, ours=False),
                "traces, sampled 1 %": lambda: switch(hand=False, ours=True),
            }
            if remarks:
                ways["by hand"] = lambda: switch(hand=True, ours=False)
            await rounds(service, calls, ways)

    rows = await _rows(settings, variant, bench, once, f"1 %, {variant.name}")
    title = f"observe: handling {bench.events:,} events of a traced publisher, {variant.name}"
    return Section(title, UNIT, "not traced", rows, remarks)


async def every_trace(settings: Settings, bench: Bench, observers: Observers) -> Section:
    """Handle events that all belong to traces that are sampled."""
    by_hand = ByHand(observers.all.get_tracer("by hand"))
    variant = Variant(DRIVER.name, by_hand.declare, DRIVER.raw)

    async def once(rounds: Rounds) -> None:
        async with bench.running(variant, prepare=observers.every_trace) as (service, calls):
            publisher, tracing = service.publisher, service.publisher.tracing

            def switch(*, hand: bool, ours: bool) -> None:
                by_hand.on = hand
                _trace(publisher, tracing if ours else None)

            ways = {
                "reference": lambda: switch(hand=True, ours=False),
                "traces, all": lambda: switch(hand=False, ours=True),
                "not traced": lambda: switch(hand=False, ours=False),
            }
            await rounds(service, calls, ways)

    rows = await _rows(settings, variant, bench, once, f"all, {DRIVER.name}")
    remark = "What the SDK's spans cost is the distance between the reference and 'not traced'."
    return Section(
        f"observe: handling {bench.events:,} events, each in a recorded trace, {DRIVER.name}",
        UNIT,
        "the same spans by hand",
        rows,
        [remark],
    )


async def published(settings: Settings, database: Database, store: SQLStore, observers: Observers) -> list[Section]:
    """Publish in every mode that changes anything for the publisher. Where it is traced, each transaction runs in the span of a request."""
    engine = database.engine(TASKS)
    few, every = observers.few.get_tracer("user"), observers.all.get_tracer("user")

    def service(observe: Callable[[Service], None]) -> Service:
        made = Service(f"observed-{next(_services)}", contracts=[contract], store=SQLStore(engine, prefix=store.names.prefix))
        observe(made)
        return made

    def uncounted(service: Service) -> None:
        service.publisher._count = lambda *_: None

    what = f"observe: publishing one event a transaction, {TASKS} tasks"
    wanted: tuple[tuple[str, str, dict[str, Way]], ...] = (
        (what, "not counted", {"reference": Way(service(uncounted)), "as it comes": Way(service(nothing))}),
        (
            f"{what}, in requests of which 1 % are sampled", "not traced",
            {"reference": Way(service(nothing), few), "traces, sampled 1 %": Way(service(observers.few_traces), few)},
        ),
        (
            f"{what}, in requests that are all sampled", "the same spans by hand, not written into the event",
            {
                "reference": Way(service(nothing), every, by_hand=True), "traces, all": Way(service(observers.every_trace), every),
                "not traced": Way(service(nothing), every),
            },
        ),
    )  # fmt: skip
    sections: list[Section] = []
    for title, reference, ways in wanted:
        turns = await _publish(settings, engine, ways, title)
        sections.append(Section(title, "us of processor time a transaction", reference, turns.rows("reference", _goals), []))
    await engine.dispose()
    return sections


@dataclass(frozen=True, slots=True)
class Way:
    """One way to publish.

    Attributes:
        request: makes the span that the transaction runs in.
        by_hand: whether the span of publishing is made beside it.
    """

    service: Service
    request: Tracer | None = None
    by_hand: bool = False

    async def transaction(self, engine: AsyncEngine, number: int) -> None:
        """Insert an order and publish it."""
        order_id = uuid4()
        with nullcontext() if self.request is None else self.request.start_as_current_span("request"):
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
                event_id = self.service.publish(session, OrderPlaced(order_id, f"customer-{number}", LINES))
                if self.by_hand and self.request is not None:
                    attributes = {
                        "messaging.system": "tidings", "messaging.operation.name": "publish", "messaging.operation.type": "create",
                        "messaging.destination.name": "order.placed", "tidings.event.name": "order.placed",
                        "messaging.message.id": str(event_id),
                    }  # fmt: skip
                    self.request.start_span("publish order.placed", kind=SpanKind.PRODUCER, attributes=attributes).end()


async def _publish(settings: Settings, engine: AsyncEngine, ways: Mapping[str, Way], title: str) -> Turns:
    """Let the ways take turns in publishing."""
    way = next(iter(ways.values()))
    done = 0

    def switch(to: Way) -> None:
        nonlocal way
        way = to

    async def work(number: int) -> None:
        nonlocal done
        while True:
            await way.transaction(engine, number)
            done += 1

    switches = {name: partial(switch, each) for name, each in ways.items()}
    warming, turns = (Turns(switches, settings.count(300, 40)) for _ in range(2))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(number)) for number in range(TASKS)]
        await warming.round(lambda: done)
        for number in range(settings.count(4, 1) * settings.rounds):
            progress(f"{title}: round {number + 1}")
            await turns.round(lambda: done)
        for task in tasks:
            task.cancel()
    return turns


async def _traced(bench: Bench, prefix: str, sampled: int) -> Bench:
    """Return a backlog of a traced publisher, in tables of its own."""
    store = SQLStore(bench.engine, prefix=prefix)
    await store.upgrade()
    await fill(bench.database, store.names.outbox, bench.events, keys=KEYS, transaction=10, sampled=sampled)
    return Bench(bench.database, bench.engine, store, bench.loop, bench.events)


def _trace(publisher: Publisher, tracing: Tracing | None) -> None:
    publisher.tracing = tracing


async def _rows(settings: Settings, variant: Variant, bench: Bench, once: Callable[[Rounds], Awaitable[None]], title: str) -> list[Row]:
    """Let the ways take turns while the backlog is handled, as often as it is long enough for a round, in each of several runs."""
    turns: Turns | None = None

    async def rounds(service: Service, calls: Calls, ways: Mapping[str, Callable[[], None]]) -> None:
        nonlocal turns
        turns = Turns(ways, portion) if turns is None else replace(turns, ways=ways)
        await bench.handled(variant, service, bench.events // 10)
        # By calls: thousands are under way, and become handled in lots. The end is slower: the last workers wait for one another.
        while await turns.round(lambda: calls.count, 0.95 * bench.events):
            pass

    portion = settings.count(2_500, 100)
    for number in range(settings.rounds):
        progress(f"observe, {title}: run {number + 1}/{settings.rounds}")
        await once(rounds)
    assert turns is not None
    if not turns.rounds and not settings.quick:
        raise WrongResult(f"{title}: the backlog was too short for a round")
    return turns.rows("reference", _goals)


def _goals(mode: str) -> tuple[Goal, ...]:
    if mode in ("not traced", "by hand"):
        return ()
    return (Goal("ratio", "<=", 1.02 if mode == "as it comes" else 1.05),)
