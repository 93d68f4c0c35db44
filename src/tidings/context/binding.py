"""What is bound now: by `bind`, by a middleware, or by the event whose handler runs.

A binding belongs to the event that was being handled when it was made, or to none: in a handler, nothing counts that was bound outside of it,
not even where the service itself was started inside a binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, TypeVar

import msgspec

from tidings.context.keys import BAGGAGE, CORRELATION, ENVIRONMENT, TENANT, TRACE, TRACESTATE, ContextKey, ContextValue
from tidings.envelope import Envelope

__all__ = ["Context", "bind", "bind_fields", "bound", "bound_fields", "common", "current", "current_envelope", "in_same_context", "of"]

T = TypeVar("T")

#: Which event is being handled: what is published meanwhile is caused by it. Set by the consuming side around each handler.
current_envelope: ContextVar[Envelope | None] = ContextVar("tidings.current_envelope", default=None)


class Bound(NamedTuple):
    """What was bound, by event header, and while which event was being handled."""

    cause: Envelope | None
    fields: Mapping[str, str | None]


#: Read by every publisher.
bound: ContextVar[Bound | None] = ContextVar("tidings.bound", default=None)


class Context(msgspec.Struct, frozen=True):
    """The context at one moment.

    Attributes:
        fields: texts by the name of the event header that they travel in.
    """

    fields: Mapping[str, str] = {}

    def get(self, key: ContextKey[T]) -> T | None:
        """Return the value of a key, or None; what its `parse` does not take is none."""
        return key.read(self.fields)

    @property
    def tenant(self) -> str | None:
        """The tenant."""
        return self.get(TENANT)

    @property
    def environment(self) -> str | None:
        """The environment that the flow belongs to; not that of the service, which is `service.environment`."""
        return self.get(ENVIRONMENT)

    @property
    def correlation_id(self) -> str | None:
        """What everything has in common which one flow causes."""
        return self.get(CORRELATION)

    @property
    def traceparent(self) -> str | None:
        """W3C trace context."""
        return self.get(TRACE)


def current() -> Context:
    """Return the context here: what is bound, before what the event has that is being handled."""
    cause = current_envelope.get()
    fields = {} if cause is None else _fields_of(cause)
    for name, text in bound_fields(cause).items():
        if text is None:
            fields.pop(name, None)
        else:
            fields[name] = text
    return Context(fields)


@contextmanager
def bind(
    *values: ContextValue,
    tenant: str | None = None,
    environment: str | None = None,
    correlation_id: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
    baggage: str | None = None,
) -> Iterator[Context]:
    """Bind context for a block: `with context.bind(REGION.of("eu"), tenant="acme"):`. What is published in it carries it.

    What is bound outside stays bound, unless it is bound anew; `TENANT.of(None)` unbinds. Threads and tasks that are started inside have it if they
    copy the context, as `asyncio.create_task` and `asyncio.to_thread` do, and `loop.run_in_executor` does not.

    Args:
        values: of keys of the user's own.
        tenant: of `TENANT`. None, here and below, leaves what is bound alone.
        environment: of `ENVIRONMENT`.
        correlation_id: of `CORRELATION`.
        traceparent: of `TRACE`, in W3C's form.
        tracestate: W3C's, beside it.
        baggage: of `BAGGAGE`, in W3C's form.

    Raises:
        InvalidContext: a value cannot travel in a header.
    """
    fields: dict[str, str | None] = {}
    for value in values:
        fields.update(value.fields)
    given: tuple[tuple[ContextKey[Any], str | None], ...] = (
        (TENANT, tenant), (ENVIRONMENT, environment), (CORRELATION, correlation_id), (TRACE, traceparent), (TRACESTATE, tracestate),
        (BAGGAGE, baggage),
    )  # fmt: skip
    for key, text in given:
        if text is not None:
            fields.update(key.of(text).fields)
    with bound_to(fields):
        yield current()


def bind_fields(fields: Mapping[str, str | None]) -> Token[Bound | None]:
    """Bind event headers that were checked before, until `bound` is reset to the token."""
    cause = current_envelope.get()
    all_fields = {**bound_fields(cause), **fields}
    if "traceparent" in fields and "tracestate" not in fields:
        all_fields["tracestate"] = None  # the one that is there belongs to another trace
    return bound.set(Bound(cause, all_fields))


@contextmanager
def bound_to(fields: Mapping[str, str | None]) -> Iterator[None]:
    """Bind event headers that were checked before, for a block."""
    token = bind_fields(fields)
    try:
        yield
    finally:
        bound.reset(token)


@contextmanager
def of(envelope: Envelope) -> Iterator[Context]:
    """Act for one event of a batch: what is published in the block is caused by it, and has its context."""
    token = current_envelope.set(envelope)
    try:
        yield current()
    finally:
        current_envelope.reset(token)


def in_same_context(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that is to be called later, when the event is not handled any more that is handled now, with the context of now."""
    cause, around = current_envelope.get(), bound.get()

    def called() -> None:
        tokens = current_envelope.set(cause), bound.set(around)
        try:
            function()
        finally:
            bound.reset(tokens[1])
            current_envelope.reset(tokens[0])

    return called


def bound_fields(cause: Envelope | None) -> Mapping[str, str | None]:
    """Return what is bound, and counts while this event is handled."""
    now = bound.get()
    return {} if now is None or now.cause is not cause else now.fields


def common(envelopes: Sequence[Envelope]) -> Envelope:
    """Return what is bound while a batch is handled: the event with the most hops, with what all of them have in common.

    A tenant, a trace or a header in which they differ is left out: it must not get onto events that it has nothing to do with.
    """
    deepest = envelopes[0]
    for envelope in envelopes:
        if envelope.hops > deepest.hops:
            deepest = envelope
    tenants = {envelope.tenant for envelope in envelopes}
    traces = {(envelope.traceparent, envelope.tracestate) for envelope in envelopes}
    headers = deepest.headers
    same = all(envelope.headers == headers for envelope in envelopes)
    if len(tenants) == 1 and len(traces) == 1 and same:
        return deepest
    traceparent, tracestate = traces.pop() if len(traces) == 1 else (None, None)
    return msgspec.structs.replace(
        deepest,
        tenant=tenants.pop() if len(tenants) == 1 else None,
        traceparent=traceparent,
        tracestate=tracestate,
        headers={name: text for name, text in headers.items() if all(envelope.headers.get(name) == text for envelope in envelopes)},
    )


def _fields_of(envelope: Envelope) -> dict[str, str]:
    attributes = {
        TENANT.field: envelope.tenant,
        CORRELATION.field: envelope.correlation_id,
        TRACE.field: envelope.traceparent,
        TRACESTATE.field: envelope.tracestate,
    }
    return {**envelope.headers, **{field: text for field, text in attributes.items() if text is not None}}
