"""Metrics through OpenTelemetry, and traces that lead from the publisher over the relay into the handler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect, effect_sync
from tidings import Publish, Retry, Service, Subscriptions
from tidings.consume.counters import BOUNDS, Counters
from tidings.observability import tracing
from tidings.observability.opentelemetry import record
from tidings.testing.memory import Memory


class Traces:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("user")

    def of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traces() -> Traces:
    return Traces()


def traced(service: Service, traces: Traces) -> Service:
    service.instrument(metrics=False, tracer_provider=traces.provider)
    return service


class Stubborn(ParentBased):
    """Asks nobody's parent."""

    def __init__(self, root: Sampler) -> None:
        super().__init__(root)
        self.asked: list[dict[str, Any]] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> SamplingResult:
        self.asked.append(dict(rest[1]))
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, *rest, **more)


class Looking(ParentBased):
    """Looks at what a span is linked to, and samples nothing."""

    def __init__(self) -> None:
        super().__init__(ALWAYS_OFF)
        self.seen: list[int] = []

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *rest: Any, **more: Any) -> SamplingResult:
        self.seen += [link.context.span_id for link in rest[2]]
        return ALWAYS_OFF.should_sample(parent_context, trace_id, name, *rest, **more)


def spans_started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of each span that the SDK is asked for."""
    names: list[str] = []
    start_span = Tracer.start_span

    def started(self: Tracer, name: str, *rest: Any, **more: Any) -> Any:
        names.append(name)
        return start_span(self, name, *rest, **more)

    monkeypatch.setattr(Tracer, "start_span", started)
    return names


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_trace_leads_from_the_publisher_to_the_handler_and_to_what_that_publishes(world: World, traces: Traces) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        with traces.tracer.start_as_current_span("select"):
            await effect(session, "bill", event)
        publish(OrderBilled(event.order_id))

    @handlers.subscribe(OrderBilled)
    def print_bill(event: OrderBilled, session: Session) -> None:
        with traces.tracer.start_as_current_span("insert"):
            effect_sync(session, "print", event)

    service = traced(world.service(handlers), traces)
    async with service:
        with traces.tracer.start_as_current_span("request") as request:
            await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 2)
        await until(lambda: traces.of("process order.billed"))
    (published,) = traces.of("publish order.placed")
    (processed,) = traces.of("process order.placed")
    (billed,) = traces.of("publish order.billed")
    (printed,) = traces.of("process order.billed")
    (select,), (insert,) = traces.of("select"), traces.of("insert")
    assert {ids(span)[0] for span in (published, processed, billed, printed, select, insert)} == {request.get_span_context().trace_id}
    assert parent(published) == request.get_span_context().span_id
    assert parent(processed) == ids(published)[1]
    assert parent(select) == ids(processed)[1]
    assert parent(billed) == ids(processed)[1]
    assert parent(printed) == ids(billed)[1]
    assert parent(insert) == ids(printed)[1]
    assert published.kind is SpanKind.PRODUCER
    assert processed.kind is SpanKind.CONSUMER
    assert processed.attributes is not None
    row = world.published("order.placed")[0]
    wanted: dict[str, Any] = {
        "messaging.system": "tidings",
        "messaging.operation.type": "process",
        "messaging.destination.name": "order.placed",
        "messaging.destination.subscription.name": "shop/bill",
        "messaging.consumer.group.name": "shop",
        "messaging.message.id": str(row["id"]),
        "tidings.event.name": "order.placed",
        "tidings.attempt": 1,
    }
    assert wanted.items() <= dict(processed.attributes).items()


async def test_through_a_broker_the_trace_goes_on(world: World, traces: Traces) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = traced(world.service(handlers, transport=Memory()), traces)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
        await until(lambda: traces.of("process order.placed"))
    (published,), (sent,), (processed,) = (traces.of(f"{what} order.placed") for what in ("publish", "send", "process"))
    assert parent(published) is None
    assert parent(sent) == parent(processed) == ids(published)[1]
    assert sent.kind is SpanKind.CLIENT
    assert sent.attributes is not None
    assert sent.attributes["messaging.system"] == "memory"


async def test_many_at_once_are_linked(world: World, traces: Traces) -> None:
    handlers = Subscriptions()
    calls: list[int] = []

    @handlers.subscribe(OrderPlaced, batch=10)
    async def work(events: list[OrderPlaced], session: AsyncSession) -> None:
        calls.append(len(events))

    service = traced(world.service(handlers, transport=Memory("atomic")), traces)
    await world.publish(service, *(OrderPlaced(str(n)) for n in range(10)))
    async with service:
        await until(lambda: service.counters.of("handled") == 10)
        await until(lambda: len(traces.of("process order.placed")) == len(calls))
    published = {ids(span) for span in traces.of("publish order.placed")}
    assert len(published) == 10
    for name in ("send", "process"):
        linked: set[tuple[int, int]] = set()
        for span in traces.of(f"{name} order.placed"):
            if span.links:
                linked |= {(link.context.trace_id, link.context.span_id) for link in span.links}
            elif span.parent is not None:
                linked.add((span.parent.trace_id, span.parent.span_id))
        assert linked == published, name


@pytest.mark.parametrize("looks", [False, True])
async def test_the_links_of_a_span_that_is_not_recorded_are_read_when_its_sampler_looks(
    world: World, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, batch=10)
    async def work(events: list[OrderPlaced], session: AsyncSession) -> None:
        pass

    made: list[int] = []

    def link(context: trace.SpanContext) -> trace.Link:
        made.append(context.span_id)
        return trace.Link(context)

    monkeypatch.setattr(tracing, "Link", link)
    sampler = Looking() if looks else ParentBased(ALWAYS_OFF)
    service = world.service(handlers, transport=Memory("atomic"))
    service.instrument(metrics=False, tracer_provider=TracerProvider(sampler=sampler))
    await world.publish(service, *(OrderPlaced(str(n)) for n in range(10)))
    async with service:
        await until(lambda: service.counters.of("handled") == 10)
    seen = sampler.seen if isinstance(sampler, Looking) else []
    assert made == seen
    assert bool(seen) == looks


async def test_a_message_that_is_refused_is_an_error_of_its_span(world: World, traces: Traces) -> None:
    broker = Memory(name="eu")
    broker.refuses = lambda _: "too large for it"
    service = traced(world.service(Subscriptions(), transport=broker), traces)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: len(traces.of("send order.placed")) >= 2)
    first, second = traces.of("send order.placed")[:2]
    assert first.status.status_code is second.status.status_code is StatusCode.ERROR
    assert "too large for it" in (first.status.description or "")
    assert "too large for it" in (second.status.description or "")
    assert first.attributes is not None
    assert first.attributes["messaging.system"] == "memory", "the kind of broker, not the name that it has here"


async def test_an_attempt_that_fails_is_an_error_of_its_span(world: World, traces: Traces) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=2, base=0.01, max=0.01))
    async def work(event: OrderPlaced) -> None:
        raise ValueError("no such account")

    service = traced(world.service(handlers), traces)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: len(traces.of("process order.placed")) == 2)
    first, second = traces.of("process order.placed")
    assert first.status.status_code is StatusCode.ERROR
    assert "no such account" in (first.status.description or "")
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes["error.type"] == "ValueError"
    assert [first.attributes["tidings.attempt"], second.attributes["tidings.attempt"]] == [1, 2]
    assert parent(first) == parent(second), "both belong to the publisher's trace"


async def test_handlers_that_run_at_once_do_not_see_each_others_spans(world: World, traces: Traces) -> None:
    handlers = Subscriptions()
    seen: dict[str, int] = {}

    @handlers.subscribe(OrderPlaced, concurrency=5, shared=False)
    async def work(event: OrderPlaced) -> None:
        before = trace.get_current_span().get_span_context().span_id
        await asyncio.sleep(0.01)
        assert trace.get_current_span().get_span_context().span_id == before
        seen[event.order_id] = before

    service = traced(world.service(handlers), traces)
    async with service:
        await world.publish(service, *(OrderPlaced(str(n)) for n in range(10)))
        await until(lambda: service.counters.of("handled") == 10)
    assert len(set(seen.values())) == 10


@pytest.mark.parametrize("flags", ["00", "02"])
@pytest.mark.parametrize("state", ["", ',"tracestate":"a=b"'])
async def test_a_trace_that_is_not_recorded_stays_so(
    world: World, traces: Traces, monkeypatch: pytest.MonkeyPatch, state: str, flags: str
) -> None:
    handlers = Subscriptions()
    given = f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        with traces.tracer.start_as_current_span("select"):
            publish(OrderBilled(event.order_id))

    started = spans_started(monkeypatch)
    service = traced(world.service(handlers), traces)
    async with service:
        await world.insert_row(headers=f'{{"traceparent":"{given}"{state}}}')
        await until(lambda: service.counters.of("handled") == 1)
    assert traces.exporter.get_finished_spans() == ()
    assert started == ["select"], "the SDK is not even asked for ours"
    headers = str(world.published("order.billed")[0]["headers"])
    assert "00-0af7651916cd43dd8448eb211c80319c-" in headers
    assert f"-{flags}" in headers
    assert ("a=b" in headers) == bool(state)
    assert not trace.get_current_span().get_span_context().is_valid


async def test_what_is_published_in_a_request_that_is_not_sampled_makes_no_span(
    world: World, traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = world.service(handlers)
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    provider.add_span_processor(SimpleSpanProcessor(traces.exporter))
    service.instrument(metrics=False, tracer_provider=provider)
    started = spans_started(monkeypatch)
    async with service:
        with provider.get_tracer("user").start_as_current_span("request") as request:
            await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
    assert started == ["request"]
    context = request.get_span_context()
    assert f"00-{context.trace_id:032x}-{context.span_id:016x}-" in str(world.published("order.placed")[0]["headers"])


@pytest.mark.parametrize(
    "sampler", [ALWAYS_ON, ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), Stubborn(ALWAYS_OFF)], ids=["on", "parent", "own"]
)
async def test_a_sampler_that_samples_below_what_is_not_sampled_is_asked(world: World, traces: Traces, sampler: Sampler) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = world.service(handlers)
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(SimpleSpanProcessor(traces.exporter))
    service.instrument(metrics=False, tracer_provider=provider)
    async with service:
        await world.insert_row(headers='{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}')
        await until(lambda: traces.of("process t"))
    (span,) = traces.of("process t")
    assert parent(span) == 0xB7AD6B7169203331


async def test_a_sampler_sees_what_all_events_of_a_kind_have_in_common(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    sampler = Stubborn(ALWAYS_OFF)
    service = world.service(handlers)
    service.instrument(metrics=False, tracer_provider=TracerProvider(sampler=sampler))
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
    published, processed = sampler.asked
    assert published["messaging.destination.name"] == processed["messaging.destination.name"] == "order.placed"
    assert processed["messaging.destination.subscription.name"] == "shop/work"
    assert processed["messaging.operation.type"] == "process"


async def test_without_tracing_the_context_of_the_cause_is_handed_on(world: World) -> None:
    handlers = Subscriptions()
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    service = world.service(handlers)
    async with service:
        await world.insert_row(headers=f'{{"traceparent":"{given}"}}')
        await until(lambda: service.counters.of("handled") == 1)
    assert given in str(world.published("order.billed")[0]["headers"])


@pytest.mark.parametrize("hostile", ["", "00-zz-1-01", "x" * 4000, "00-00000000000000000000000000000000-0000000000000000-01"])
async def test_a_context_that_is_none_begins_a_new_trace(world: World, traces: Traces, hostile: str) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = traced(world.service(handlers), traces)
    async with service:
        await world.insert_row(headers=f'{{"traceparent":"{hostile}"}}')
        await until(lambda: traces.of("process t"))
    (span,) = traces.of("process t")
    assert span.parent is None


async def test_metrics_are_given_to_a_meter(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    service = world.service(handlers)
    service.instrument(traces=False, meter_provider=provider)
    async with service:
        await world.publish(service, *(OrderPlaced(str(n)) for n in range(5)))
        await until(lambda: service.counters.of("handled") == 5)
        await until(lambda: service._sampler is not None and service._sampler.observed is not None)
        found = metrics_of(reader)
    assert found["tidings.events.published"][0].value == 5
    (handled,) = found["tidings.events.handled"]
    assert handled.value == 5
    assert dict(handled.attributes) == {"service": "shop", "subscription": "shop/work"}
    for name, histogram in (("handler.duration", "took"), ("event.lag", "lag")):
        kept = service.counters.histogram("shop/work", histogram)
        (number,), (total,) = found[f"tidings.{name}.count"], found[f"tidings.{name}.sum"]
        assert number.value == 5
        assert total.value == pytest.approx(kept.total)
        buckets = {point.attributes["le"]: point.value for point in found[f"tidings.{name}.bucket"]}
        assert list(buckets) == [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        assert list(buckets.values()) == [sum(kept.counts[: n + 1]) for n in range(len(BOUNDS) + 1)]
        assert buckets["+Inf"] == 5
    assert found["tidings.reader.backlog"][0].attributes["reader"] == "shop/shop@log"
    provider.shutdown()


def test_nothing_is_told_to_a_meter_while_events_are_handled() -> None:
    made: list[str] = []

    class Asked(NoOpMeter):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("create"):
                made.append(name)
            return super().__getattribute__(name)

    class Provider(NoOpMeterProvider):
        def get_meter(self, name: str, *rest: Any, **more: Any) -> Asked:
            return Asked(name)

    record("shop", "1", Counters(), cast("Any", None), Provider())
    assert made
    assert {name for name in made if not name.startswith("create_observable")} == set()


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Sequence[Any]]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
