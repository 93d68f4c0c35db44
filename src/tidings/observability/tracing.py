"""Traces through OpenTelemetry's API: from the span that publishes, over the relay, to the span in which the handler runs.

The context travels in the event's headers as W3C Trace Context (`traceparent`, `tracestate`), so it goes through the outbox, every broker and
other languages. What an event has is the context of its publishing: a relay that sends it alone, and each handler, are children of that one;
a relay that sends many, and a handler of lists, have links to all of them. Names and attributes are those of
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from tidings.errors import MissingExtra

try:
    from opentelemetry.context import Context, attach, detach
    from opentelemetry.trace import (
        Link,
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer_provider,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtra("tracing", "opentelemetry") from error

if TYPE_CHECKING:
    from tidings.consume.calling import Scope
    from tidings.consume.deadline import Deadline
    from tidings.consume.filters import Filters
    from tidings.consume.injection import Plan
    from tidings.envelope import Envelope

__all__ = ["Tracing"]

_SYSTEM = "tidings"
#: An SDK keeps no more links of a span by default.
_LINKS = 128

_headers = msgspec.json.Decoder(dict[str, Any]).decode

_UNRECORDED = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-00\Z")

Call = Callable[["Plan", Any, "Envelope | list[Envelope]", "Scope", "Deadline", "Filters | None"], Awaitable[None]]


class Tracing:
    """Makes the spans. A service that is not traced has none of these, and pays for none."""

    def __init__(self, version: str, provider: TracerProvider | None = None) -> None:
        self._tracer = (provider or get_tracer_provider()).get_tracer("tidings", version)
        self._propagator = TraceContextTextMapPropagator()

    def published(self, name: str, version: int | None, topic: str, event_id: UUID, fields: dict[str, str]) -> None:
        """Make the span of publishing an event, a child of what runs now, and write its context into the headers."""
        current = get_current_span().get_span_context()
        if current.is_valid and not current.trace_flags.sampled:
            # A trace that is not recorded stays so: what only says that costs a tenth of a span.
            fields["traceparent"] = f"00-{current.trace_id:032x}-{current.span_id:016x}-00"
            fields.pop("tracestate", None)
            if current.trace_state:
                fields["tracestate"] = current.trace_state.to_header()
            return
        attributes = self._attributes("publish", "create", topic, name, version)
        attributes["messaging.message.id"] = str(event_id)
        if (conversation := fields.get("correlationid")) is not None:
            attributes["messaging.message.conversation_id"] = conversation
        inherited = None
        if not current.is_valid:
            # Published by a handler that is not traced: the trace goes on where its event was published.
            inherited = self._context(fields.get("traceparent"), fields.get("tracestate"))
        span = self._tracer.start_span(f"publish {topic}", inherited, SpanKind.PRODUCER, attributes)
        if span.get_span_context().is_valid:
            fields.pop("tracestate", None)
            self._propagator.inject(fields, set_span_in_context(span, Context()))
        span.end()

    @contextmanager
    def sending(self, system: str, rows: Sequence[tuple[str, str, str | bytes]]) -> Iterator[None]:
        """Make the span of sending events to a broker.

        Args:
            rows: topic, id and headers, as JSON, of each event.
        """
        contexts = [self._of_headers(headers) for _, _, headers in rows]
        topics = {topic for topic, _, _ in rows}
        topic = topics.pop() if len(topics) == 1 else "(several)"
        attributes: dict[str, Any] = {
            "messaging.system": system, "messaging.operation.name": "send", "messaging.operation.type": "send",
            "messaging.destination.name": topic,
        }  # fmt: skip
        if len(rows) == 1:
            parent, links = contexts[0] or Context(), []
            attributes["messaging.message.id"] = rows[0][1]
        else:
            parent, links = Context(), self._links(contexts)
            attributes["messaging.batch.message_count"] = len(rows)
        with self._tracer.start_as_current_span(f"send {topic}", parent, SpanKind.CLIENT, attributes, links):
            yield

    def calling(self, call: Call, subscription: str) -> Call:
        """Return a call of handlers inside the span of processing."""

        async def traced(
            plan: Plan, event: Any, envelope: Envelope | list[Envelope], scope: Scope, deadline: Deadline, filters: Filters | None
        ) -> None:
            unrecorded = None if isinstance(envelope, list) else self._unrecorded(envelope)
            if unrecorded is not None:
                token = attach(unrecorded)
                try:
                    await call(plan, event, envelope, scope, deadline, filters)
                finally:
                    detach(token)
                return
            with self._processing(envelope if isinstance(envelope, list) else [envelope], subscription, many=isinstance(envelope, list)):
                await call(plan, event, envelope, scope, deadline, filters)

        return traced

    def _unrecorded(self, envelope: Envelope) -> Context | None:
        """Return the context of an event whose trace nobody records: the spans of its handler belong to it, and are not recorded either."""
        if envelope.traceparent is None or (found := _UNRECORDED.match(envelope.traceparent)) is None:
            return None
        if envelope.tracestate is not None:
            return self._context(envelope.traceparent, envelope.tracestate)
        context = SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True)
        return set_span_in_context(NonRecordingSpan(context), Context()) if context.is_valid else None

    @contextmanager
    def _processing(self, envelopes: Sequence[Envelope], subscription: str, *, many: bool) -> Iterator[None]:
        first = envelopes[0]
        contexts = [self._context(envelope.traceparent, envelope.tracestate) for envelope in envelopes]
        attributes = self._attributes("process", "process", first.topic, first.name, first.version)
        attributes["messaging.consumer.group.name"] = subscription.partition("/")[0]
        attributes["messaging.destination.subscription.name"] = subscription
        links: list[Link] = []
        parent = Context()
        if len(envelopes) == 1:
            parent = contexts[0] or parent
            attributes["messaging.message.id"] = str(first.id)
            attributes["messaging.message.conversation_id"] = first.correlation_id
            attributes["tidings.attempt"] = first.attempt
        else:
            links = self._links(contexts)
        if many:
            attributes["messaging.batch.message_count"] = len(envelopes)
        with self._tracer.start_as_current_span(
            f"process {first.topic}", parent, SpanKind.CONSUMER, attributes, links, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except BaseException as error:
                # Also a handler that was cancelled has not succeeded.
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:300]))
                span.record_exception(error)
                raise

    def _attributes(self, name: str, kind: str, topic: str, event: str, version: int | None) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "messaging.system": _SYSTEM, "messaging.operation.name": name, "messaging.operation.type": kind,
            "messaging.destination.name": topic, "tidings.event.name": event,
        }  # fmt: skip
        if version is not None:
            attributes["tidings.event.version"] = version
        return attributes

    def _links(self, contexts: Sequence[Context | None]) -> list[Link]:
        return [Link(get_current_span(context).get_span_context()) for context in contexts if context is not None][:_LINKS]

    def _of_headers(self, headers: str | bytes) -> Context | None:
        # Most events of a service that is not traced have no context: look for the word before paying for the parse.
        text = headers.decode("utf-8", "replace") if isinstance(headers, bytes) else headers
        if not isinstance(text, str) or "traceparent" not in text:
            return None
        try:
            found: Mapping[str, Any] = _headers(text)
        except (ValueError, RecursionError):
            return None
        return self._context(found.get("traceparent"), found.get("tracestate"))

    def _context(self, traceparent: object, tracestate: object) -> Context | None:
        if not isinstance(traceparent, str):
            return None
        carrier = {"traceparent": traceparent}
        if isinstance(tracestate, str):
            carrier["tracestate"] = tracestate
        context = self._propagator.extract(carrier, Context())
        return context if get_current_span(context).get_span_context().is_valid else None
