"""Traces through OpenTelemetry's API: from the span that publishes, over the relay, to the span in which the handler runs.

The context travels in the event's headers as W3C Trace Context (`traceparent`, `tracestate`), so it goes through the outbox, every broker and
other languages. What an event has is the context of its publishing: a relay that sends it alone, and each handler, are children of that one;
a relay that sends many, and a handler of lists, have links to all of them. Names and attributes are those of
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/.

Most events of a busy service are not sampled. What only a recorded span needs is made when there is one: a sampler is asked with the attributes
that all events of a kind have in common, and is not asked at all where it can only say what the parent says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from uuid import UUID

import msgspec

from tidings.errors import MissingExtra

try:
    from opentelemetry.context import Context, attach, detach, get_current
    from opentelemetry.trace import (
        Link,
        NonRecordingSpan,
        Span,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        Tracer,
        TracerProvider,
        get_current_span,
        get_tracer_provider,
        set_span_in_context,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtra("tracing", "opentelemetry") from error

from tidings.observability.unsampled import END, FIRST, KEY, LENGTH, UNSAMPLED, Carried, Unsampled, attaching, read

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
#: Of how many kinds of spans the names and attributes are kept: topics may come from outside.
_KINDS = 1000

_headers = msgspec.json.Decoder(dict[str, Any]).decode

# How the version that everybody writes ends when its trace is sampled.
_SAMPLED = "13579bdf"

Call = Callable[["Plan", Any, "Envelope | list[Envelope]", "Scope", "Deadline", "Filters | None"], Awaitable[None]]


class _Kind(NamedTuple):
    """What all spans of a kind have in common."""

    name: str
    attributes: Mapping[str, Any]


class _Links(Sequence[Link]):
    """Links to the contexts of many events, read when somebody looks: a span that is not recorded has none, and most samplers do not ask."""

    def __init__(self, contexts: Iterable[SpanContext | None]) -> None:
        self._contexts = contexts
        self._read: list[Link] | None = None

    def _links(self) -> list[Link]:
        if self._read is None:
            self._read = list(islice((Link(context) for context in self._contexts if context is not None), _LINKS))
        return self._read

    def __bool__(self) -> bool:
        # Asked of all links, before anybody looks into them.
        return True

    def __len__(self) -> int:
        return len(self._links())

    @overload
    def __getitem__(self, index: int) -> Link: ...
    @overload
    def __getitem__(self, index: slice) -> list[Link]: ...
    def __getitem__(self, index: int | slice) -> Link | list[Link]:
        return self._links()[index]


class Tracing:
    """Makes the spans. A service that is not traced has none of these, and pays for none."""

    def __init__(self, version: str, provider: TracerProvider | None = None) -> None:
        self._version = version
        self._provider = provider
        self._propagator = TraceContextTextMapPropagator()
        self._publishing: dict[tuple[str, int | None, str], _Kind] = {}
        self._calls: dict[tuple[Call, str], Call] = {}
        self.look()

    def look(self) -> None:
        """Take the provider that the process has now: an application may set it after it has made its service."""
        self._tracer: Tracer = (self._provider or get_tracer_provider()).get_tracer("tidings", self._version)
        self._unsampled_here = _drops(self._tracer, "localParentNotSampled")
        self._unsampled_elsewhere = _drops(self._tracer, "remoteParentNotSampled")
        self._attaching = attaching()

    def alone(self) -> str | None:
        """Return the headers, as JSON, of an event that is published now and has no others, if no span is to be made of that; else None."""
        current = get_current_span().get_span_context()
        if current.trace_flags & 1 or not current.is_valid or current.trace_state:
            return None
        if not (self._unsampled_elsewhere if current.is_remote else self._unsampled_here):
            return None
        return f'{{"traceparent":"{_traceparent(current)}"}}'

    def published(self, name: str, version: int | None, topic: str, event_id: UUID, fields: dict[str, str]) -> None:
        """Make the span of publishing an event, a child of what runs now, and write its context into the headers."""
        span = get_current_span()
        if type(span) is Unsampled and self._unsampled_elsewhere:
            fields["traceparent"] = span.traceparent
            fields.pop("tracestate", None)
            return
        current = span.get_span_context()
        inherited = None
        if current.is_valid:
            if not current.trace_flags & 1 and (self._unsampled_elsewhere if current.is_remote else self._unsampled_here):
                _write(current, fields)
                return
        elif (traceparent := fields.get("traceparent")) is not None:
            # Published by a handler that is not traced: the trace goes on where its event was published.
            found = self._parent(traceparent, fields.get("tracestate"))
            if found is not None:
                if not found.trace_flags & 1 and self._unsampled_elsewhere:
                    return
                inherited = set_span_in_context(NonRecordingSpan(found), Context())
        kind = self._publishing.get((name, version, topic)) or self._kind(
            self._publishing, (name, version, topic), f"publish {topic}", _attributes("publish", "create", topic, name, version)
        )
        span = self._tracer.start_span(kind.name, inherited, SpanKind.PRODUCER, kind.attributes)
        if span.is_recording():
            attributes = {"messaging.message.id": str(event_id)}
            if (conversation := fields.get("correlationid")) is not None:
                attributes["messaging.message.conversation_id"] = conversation
            span.set_attributes(attributes)
        span.end()
        context = span.get_span_context()
        if context.is_valid:
            _write(context, fields)

    @contextmanager
    def sending(self, system: str, rows: Sequence[tuple[str, UUID | str, str | bytes]]) -> Iterator[Callable[[str], None]]:
        """Make the span of sending events to a broker; it gives a function that says why some of them have not arrived.

        Args:
            system: the kind of broker, e.g. `rabbitmq`.
            rows: topic, id and headers, as JSON, of each event.
        """
        if len(rows) == 1:
            found = self._of_headers(rows[0][2])
            if found is not None and not found.trace_flags & 1 and self._unsampled_elsewhere:
                yield _unheard
                return
            parent, links = _context(found), None
            more: dict[str, Any] = {"messaging.message.id": str(rows[0][1])}
        else:
            parent, links = Context(), _Links(self._of_headers(headers) for _, _, headers in rows)
            more = {"messaging.batch.message_count": len(rows)}
        topics = {topic for topic, _, _ in rows}
        topic = topics.pop() if len(topics) == 1 else "(several)"
        attributes: dict[str, Any] = {
            "messaging.system": system, "messaging.operation.name": "send", "messaging.operation.type": "send",
            "messaging.destination.name": topic, **more,
        }  # fmt: skip
        with self._tracer.start_as_current_span(f"send {topic}", parent, SpanKind.CLIENT, attributes, links) as span:
            yield lambda reason: span.set_status(Status(StatusCode.ERROR, reason[:300]))

    @property
    def attach(self) -> Callable[[Context], Token[Context]]:
        """What attaches a context that `carried` has made. Looked at once for the events of a transaction, which is often enough."""
        if not self._attaching.is_current():
            self._attaching = attaching()
        return self._attaching.attach

    detach = staticmethod(detach)

    def carried(self, envelopes: Sequence[Envelope]) -> list[Context | None]:
        """Return of each event the context for its handler to run in, where that is all: its trace is not sampled. None where `calling` decides.

        A `traceparent` that says so and is nothing else that can be read counts as one: the trace is a new one then.

        The spans that the handler makes belong to that trace, and are not recorded either. Of many events at once: in the pauses between
        handlers, each of which uses the processor's caches for something else, it takes three times as long.
        """
        if not self._unsampled_elsewhere:
            return [None] * len(envelopes)
        around = get_current()
        if type(around) is Carried and (outer := around.around) is not None:
            # All that it adds is replaced; a chain of them would only grow.
            around = outer
        contexts: list[Context | None] = []
        for envelope in envelopes:
            traceparent = envelope.traceparent
            if (
                traceparent is None
                or not FIRST <= traceparent < END
                or len(traceparent) != LENGTH
                or traceparent[-1] not in UNSAMPLED
                or envelope.tracestate is not None
                or KEY is None
            ):
                contexts.append(self._made(traceparent, envelope.tracestate, around))
                continue
            carried = Carried()
            carried.around, carried.traceparent = around, traceparent
            contexts.append(carried)
        return contexts

    def _made(self, traceparent: str | None, tracestate: str | None, around: Context) -> Context | None:
        """Return what `carried` does of an event whose `traceparent` says more, or something else, than that a trace is not sampled."""
        if traceparent is None or (traceparent[:3] == "00-" and traceparent[-1] in _SAMPLED):
            return None
        parent = self._parent(traceparent, tracestate)
        return None if parent is None or parent.trace_flags & 1 else set_span_in_context(NonRecordingSpan(parent), around)

    def calling(self, call: Call, subscription: str) -> Call:
        """Return a call of handlers inside the span of processing."""
        found = self._calls.get((call, subscription))
        if found is None:
            found = self._calls[call, subscription] = self._traced(call, subscription)
        return found

    def _traced(self, call: Call, subscription: str) -> Call:
        kinds: dict[tuple[str, int | None, str], _Kind] = {}

        async def traced(
            plan: Plan, event: Any, envelope: Envelope | list[Envelope], scope: Scope, deadline: Deadline, filters: Filters | None
        ) -> None:
            first = envelope[0] if isinstance(envelope, list) else envelope
            alone = not isinstance(envelope, list) or len(envelope) == 1
            parent = self._parent(first.traceparent, first.tracestate) if alone and first.traceparent is not None else None
            if parent is not None and not parent.trace_flags & 1 and self._unsampled_elsewhere:
                token = attach(set_span_in_context(NonRecordingSpan(parent)))
                try:
                    await call(plan, event, envelope, scope, deadline, filters)
                finally:
                    detach(token)
                return
            key = (first.name, first.version, first.topic)
            kind = kinds.get(key) or self._kind(kinds, key, f"process {first.topic}", _processing(subscription, first))
            links = None
            attributes = kind.attributes
            if isinstance(envelope, list):
                attributes = {**attributes, "messaging.batch.message_count": len(envelope)}
                if not alone:
                    links = _Links(self._parent(each.traceparent, each.tracestate) for each in envelope)
            span = self._tracer.start_span(
                kind.name, _context(parent), SpanKind.CONSUMER, attributes, links, record_exception=False, set_status_on_exception=False
            )
            if alone and span.is_recording():
                span.set_attributes(
                    {
                        "messaging.message.id": str(first.id), "messaging.message.conversation_id": first.correlation_id,
                        "tidings.attempt": first.attempt,
                    }
                )  # fmt: skip
            token = attach(set_span_in_context(span))
            try:
                await call(plan, event, envelope, scope, deadline, filters)
            except BaseException as error:
                # Also a handler that was cancelled has not succeeded.
                _fail(span, error)
                raise
            finally:
                detach(token)
                span.end()

        return traced

    def _kind(
        self, kinds: dict[tuple[str, int | None, str], _Kind], key: tuple[str, int | None, str], name: str, attributes: Mapping[str, Any]
    ) -> _Kind:
        kind = _Kind(name, attributes)
        if len(kinds) < _KINDS:
            kinds[key] = kind
        return kind

    def _of_headers(self, headers: str | bytes) -> SpanContext | None:
        # Most events of a service that is not traced have no context: look for the word before paying for the parse.
        text = headers.decode("utf-8", "replace") if isinstance(headers, bytes) else headers
        if not isinstance(text, str) or "traceparent" not in text:
            return None
        try:
            found: Mapping[str, Any] = _headers(text)
        except (ValueError, RecursionError):
            return None
        return self._parent(found.get("traceparent"), found.get("tracestate"))

    def _parent(self, traceparent: object, tracestate: object) -> SpanContext | None:
        """Return the context that an event was published in, if it has one that is valid."""
        if not isinstance(traceparent, str):
            return None
        if tracestate is None and (found := read(traceparent)) is not None:
            return found
        carrier = {"traceparent": traceparent}
        if isinstance(tracestate, str):
            carrier["tracestate"] = tracestate
        context = get_current_span(self._propagator.extract(carrier, Context())).get_span_context()
        return context if context.is_valid else None


def _unheard(_reason: str) -> None:
    return


def _drops(tracer: Tracer, which: str) -> bool:
    """Return whether a sampler surely samples nothing below a parent that is not sampled.

    It need not be asked then, which saves most of what a span costs that nobody records. Any sampler but the SDK's own, as it is usually set
    up, is asked: it may sample what it likes.
    """
    sampler = getattr(tracer, "sampler", None)
    if sampler is None:
        return False
    from opentelemetry.sdk.trace.sampling import ParentBased

    if not isinstance(sampler, ParentBased) or type(sampler).should_sample is not ParentBased.should_sample:
        return False
    described: str = sampler.get_description()  # type: ignore[no-untyped-call]
    return described.count("ParentBased") == 1 and f"{which}:AlwaysOffSampler" in described


def _attributes(name: str, kind: str, topic: str, event: str, version: int | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": _SYSTEM, "messaging.operation.name": name, "messaging.operation.type": kind,
        "messaging.destination.name": topic, "tidings.event.name": event,
    }  # fmt: skip
    if version is not None:
        attributes["tidings.event.version"] = version
    return attributes


def _processing(subscription: str, envelope: Envelope) -> dict[str, Any]:
    attributes = _attributes("process", "process", envelope.topic, envelope.name, envelope.version)
    attributes["messaging.consumer.group.name"] = subscription.partition("/")[0]
    attributes["messaging.destination.subscription.name"] = subscription
    return attributes


def _context(parent: SpanContext | None) -> Context:
    """Return the context of a parent; an empty one for none, so that what runs here is not taken for it."""
    return Context() if parent is None else set_span_in_context(NonRecordingSpan(parent), Context())


def _traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _write(context: SpanContext, fields: dict[str, str]) -> None:
    """Write a context into the headers of an event."""
    fields["traceparent"] = _traceparent(context)
    if state := context.trace_state:
        fields["tracestate"] = state.to_header()
    else:
        fields.pop("tracestate", None)


def _fail(span: Span, error: BaseException) -> None:
    if span.is_recording():
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:300]))
        span.record_exception(error)
