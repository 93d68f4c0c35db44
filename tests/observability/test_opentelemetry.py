"""Metrics through OpenTelemetry, and traces that lead from the publisher over the relay into the handler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect, effect_sync
from tidings import Publish, Retry, Service, Subscriptions
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


@pytest.mark.parametrize("state", ["", ',"tracestate":"a=b"'])
async def test_a_trace_that_is_not_recorded_stays_so(world: World, traces: Traces, state: str) -> None:
    handlers = Subscriptions()
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        with traces.tracer.start_as_current_span("select"):
            publish(OrderBilled(event.order_id))

    service = traced(world.service(handlers), traces)
    async with service:
        await world.insert_row(headers=f'{{"traceparent":"{given}"{state}}}')
        await until(lambda: service.counters.of("handled") == 1)
    assert traces.exporter.get_finished_spans() == ()
    headers = str(world.published("order.billed")[0]["headers"])
    assert "00-0af7651916cd43dd8448eb211c80319c-" in headers
    assert "-00" in headers
    assert ("a=b" in headers) == bool(state)
    assert not trace.get_current_span().get_span_context().is_valid


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
    assert found["tidings.handler.duration"][0].count == 5
    assert found["tidings.event.lag"][0].count == 5
    assert found["tidings.reader.backlog"][0].attributes["reader"] == "shop/shop@log"
    provider.shutdown()


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Sequence[Any]]:
    data: Any = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
