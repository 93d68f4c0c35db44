"""Events of traces that are not sampled: they cost little, and whoever looks finds the same as with a span of the SDK."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from contextvars import Token
from datetime import UTC, datetime
from functools import wraps
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import contextvars_context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Envelope, Publish, Retry, Service, Subscriptions
from tidings.consume.pace import Pace
from tidings.observability import tracing, unsampled
from tidings.observability.tracing import Tracing
from tidings.publish.headers import written

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
SAMPLED = f"00-{TRACE}-{SPAN}-01"


def current() -> SpanContext:
    return trace.get_current_span().get_span_context()


def outgoing() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def envelope_of(traceparent: str | None, tracestate: str | None = None) -> Envelope:
    return Envelope(
        id=uuid4(), source="shop", name="order.placed", version=1, topic="t", key="a", time=datetime.now(UTC), correlation_id="c",
        traceparent=traceparent, tracestate=tracestate,
    )  # fmt: skip


def traced(world: World, handlers: Subscriptions, **options: Any) -> tuple[Service, TracerProvider]:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
    service = world.service(handlers, **options)
    service.instrument(metrics=False, tracer_provider=provider)
    return service, provider


def headers(traceparent: str | None, tracestate: str | None = None) -> str:
    return written({name: text for name, text in (("traceparent", traceparent), ("tracestate", tracestate)) if text is not None})


#: They say that they are not sampled, and look as if they could be read.
UNREADABLE = [f"00-{TRACE.upper()}-{SPAN}-00", f"00-{TRACE}-{'0' * 16}-00", f"00-{TRACE}_{SPAN}-00", f"00-0{'z' * 31}-{SPAN}-00"]

TRACEPARENTS = [
    UNSAMPLED,
    SAMPLED,
    f"00-{TRACE}-{SPAN}-02",
    f"00-{TRACE}-{SPAN}-fe",
    f"00-{TRACE}-{SPAN}-ff",
    f"00-{TRACE}-{SPAN}-0A",
    f"00-{'0' * 32}-{SPAN}-00",
    f"00-{'0' * 32}-{'0' * 16}-00",
    f"00-{TRACE}-{SPAN}-00-more",
    f"00-{TRACE}-{SPAN}-00-1",
    f"00-{TRACE}-{SPAN}-00\n",
    f" {UNSAMPLED} ",
    f"01-{TRACE}-{SPAN}-00",
    f"01-{TRACE}-{SPAN}-00-1",
    f"01-{TRACE}-{SPAN}-01-0",
    f"ff-{TRACE}-{SPAN}-00",
    f"00-{TRACE}-{SPAN}-0",
    f"00_{TRACE}-{SPAN}-00",
    "00-",
    "0",
    "",
    "\u0660\u0660-" + UNSAMPLED[3:],
]


@pytest.mark.parametrize("around", [{}, {"theirs": "kept"}], ids=["alone", "around"])
@pytest.mark.parametrize("tracestate", [None, "a=b,c=d", "", "not valid"])
@pytest.mark.parametrize("traceparent", [*TRACEPARENTS, None])
def test_what_is_carried_is_what_the_propagator_reads(traceparent: str | None, tracestate: str | None, around: dict[str, str]) -> None:
    carrier = {name: text for name, text in (("traceparent", traceparent), ("tracestate", tracestate)) if text is not None}
    read = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, context.Context())).get_span_context()
    token = context.attach(context.Context(around))
    try:
        (found,) = Tracing("1", TracerProvider(sampler=ParentBased(ALWAYS_ON))).carried([envelope_of(traceparent, tracestate)])
    finally:
        context.detach(token)
    if read.is_valid and not read.trace_flags.sampled:
        assert found is not None
        span = trace.get_current_span(found)
        assert span.get_span_context() == read
        assert type(span.get_span_context().trace_flags) is TraceFlags
        assert span.get_span_context() is span.get_span_context()
        assert not span.is_recording()
        assert repr(span) == f"NonRecordingSpan({read!r})"
        assert found == {**around, **trace.set_span_in_context(span, context.Context())}
        assert isinstance(found, context.Context)
    else:
        assert found is None


@pytest.mark.parametrize("around", [{}, {"theirs": "kept"}], ids=["alone", "around"])
@pytest.mark.parametrize("traceparent", UNREADABLE)
def test_who_says_that_nothing_is_recorded_is_believed_in_a_new_trace(traceparent: str, around: dict[str, str]) -> None:
    found, another = (carried_in(around, traceparent) for _ in range(2))
    span = trace.get_current_span(found)
    made = span.get_span_context()
    assert made.is_valid
    assert not made.trace_flags.sampled
    assert made.trace_id not in (int(TRACE, 16), trace.get_current_span(another).get_span_context().trace_id)
    assert found == {**around, **trace.set_span_in_context(span, context.Context())}


def _updated(found: Any) -> dict[str, object]:
    made: dict[str, object] = {}
    made.update(found)
    return made


def _set(found: Any) -> dict[str, object]:
    made = dict(context.set_value("mine", 1, found))
    del made["mine"]
    return made


LOOKS: dict[str, Callable[[Any], Any]] = {
    "dict": dict, "unpacked": lambda found: {**found}, "copy": lambda found: found.copy(), "items": lambda found: dict(found.items()),
    "keys": lambda found: dict(zip(found.keys(), found.values(), strict=True)), "or": lambda found: found | {}, "ror": lambda found: {} | found,
    "in": lambda found: {name: found[name] for name in found if name in found}, "updated": _updated,
    "values": lambda found: dict(zip(reversed(list(reversed(found))), found.values(), strict=True)), "set": _set,
    "length": lambda found: len(found) and dict(found), "equal": lambda found: found == {} or dict(found),
    "unequal": lambda found: (found != {}) and dict(found), "text": lambda found: repr(found) and dict(found),
    "get": lambda found: found.get("theirs") and dict(found),
}  # fmt: skip


def carried_in(around: dict[str, str], traceparent: str = UNSAMPLED) -> context.Context:
    token = context.attach(context.Context(around))
    try:
        (found,) = Tracing("1", TracerProvider()).carried([envelope_of(traceparent)])
    finally:
        context.detach(token)
    assert found is not None
    return found


@pytest.mark.parametrize("look", LOOKS)
def test_a_context_is_whole_whoever_looks_first(look: str) -> None:
    found = carried_in({"theirs": "kept"})
    seen = LOOKS[look](found)
    assert seen["theirs"] == "kept"
    assert len(seen) == 2
    assert trace.get_current_span(context.Context(seen)).get_span_context().trace_id == int(TRACE, 16)
    assert found == seen


def test_no_way_to_read_a_dictionary_is_forgotten() -> None:
    changing = {"clear", "pop", "popitem", "setdefault", "update", "fromkeys", "__setitem__", "__delitem__", "__ior__"}
    other = {
        "__new__",
        "__init__",
        "__getattribute__",
        "__sizeof__",
        "__class_getitem__",
        "__doc__",
        "__hash__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
    }
    reading = set(vars(dict)) - changing - other
    assert reading <= set(vars(type(carried_in({}))))


def test_contexts_within_contexts_are_no_chain() -> None:
    found = carried_in({"theirs": "kept"})
    for _ in range(3000):
        token = context.attach(found)
        try:
            (inner,) = Tracing("1", TracerProvider()).carried([envelope_of(UNSAMPLED)])
        finally:
            context.detach(token)
        assert inner is not None
        found = inner
    assert context.get_value("theirs", found) == "kept"
    assert trace.get_current_span(found).get_span_context().trace_id == int(TRACE, 16)


def test_what_was_around_never_shows_its_own_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads fill a context at once: the first is done while the second has just begun, and looks again before the second is done."""
    outer = trace.set_span_in_context(trace.NonRecordingSpan(SpanContext(1, 2, is_remote=True)), context.Context())
    found: Any = carried_in({})
    seen: list[int] = []
    making = unsampled.Unsampled

    def first() -> None:
        seen.append(trace.get_current_span(found).get_span_context().trace_id)

    class Around(context.Context):
        def keys(self) -> Any:
            if not seen:
                found.around = outer
                first()
            return super().keys()

        def __iter__(self) -> Any:
            return super().__iter__()

    def made(traceparent: str) -> Any:
        if found.around is None:
            first()
        return making(traceparent)

    monkeypatch.setattr(unsampled, "Unsampled", made)
    found.around = Around(outer)
    assert trace.get_current_span(found).get_span_context().trace_id == int(TRACE, 16)
    assert seen == [int(TRACE, 16)] * 2


def test_a_context_of_the_same_type_is_an_ordinary_one() -> None:
    kind: Any = type(carried_in({}))
    assert kind({"a": 1}).get("a") == 1
    assert kind() == {}
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = kind().no_such_thing


def test_a_context_that_is_pickled_is_whole() -> None:
    read = pickle.loads(pickle.dumps(carried_in({"theirs": "kept"}), 0))  # noqa: S301 - our own
    assert type(read) is context.Context
    assert read["theirs"] == "kept"
    assert trace.get_current_span(read).get_span_context().trace_id == int(TRACE, 16)


@pytest.mark.parametrize("around", [{}, {"theirs": "kept"}], ids=["alone", "around"])
def test_who_changes_a_context_gets_what_the_api_gives(around: dict[str, str]) -> None:
    """Contexts are not to be changed. Versions of the API differ in what they let through; ours does the same as theirs."""

    def popped(given: Any) -> object:
        try:
            return given.pop("theirs")
        except Exception as error:
            return type(error)

    found, plain = carried_in(around), context.Context(dict(carried_in(around)))
    assert popped(found) == popped(plain)
    assert found.keys() == plain.keys()
    assert trace.get_current_span(found).get_span_context().trace_id == int(TRACE, 16)


async def test_a_context_that_was_kept_says_the_same_elsewhere() -> None:
    kept = carried_in({})

    def elsewhere() -> SpanContext:
        token = context.attach(kept)
        try:
            return current()
        finally:
            context.detach(token)

    # Not `to_thread`, which takes the current context along.
    assert (await asyncio.get_running_loop().run_in_executor(None, elsewhere)).trace_id == int(TRACE, 16)
    assert not current().is_valid


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ParentBased(ALWAYS_ON, remote_parent_not_sampled=ALWAYS_ON)], ids=["on", "parent"])
def test_nothing_is_carried_past_a_sampler_that_wants_to_be_asked(sampler: Any) -> None:
    given = [envelope_of(text) for text in (UNSAMPLED, None)]
    assert Tracing("1", TracerProvider(sampler=sampler)).carried(given) == [None, None]


def test_a_context_that_keeps_its_span_in_another_way_is_made_by_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "KEY", None)
    (found,) = Tracing("1", TracerProvider()).carried([envelope_of(UNSAMPLED)])
    assert trace.get_current_span(found).get_span_context().trace_id == int(TRACE, 16)
    assert not current().is_valid


def test_contexts_are_attached_where_the_api_finds_them() -> None:
    tracing = Tracing("1", TracerProvider())
    assert tracing.attach is not context.attach, "the short way"
    found = carried_in({})
    token = tracing.attach(found)
    try:
        assert context.get_current() is found
    finally:
        tracing.detach(token)
    assert context.get_current() == {}


class Heard(ContextVarsRuntimeContext):
    """A runtime of somebody else's, in variables of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def attach(self, context: context.Context) -> Token[context.Context]:
        self.heard.append("attach")
        return super().attach(context)


def _runtime(monkeypatch: pytest.MonkeyPatch, heard: list[str]) -> None:
    runtime = Heard()
    runtime.heard = heard
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", runtime)


def _wrapped(owner: Any) -> Callable[[pytest.MonkeyPatch, list[str]], None]:
    def wrap(monkeypatch: pytest.MonkeyPatch, heard: list[str]) -> None:
        original = owner.attach

        @wraps(original)
        def attach(*given: Any) -> Any:
            heard.append("attach")
            return original(*given)

        monkeypatch.setattr(owner, "attach", attach)

    return wrap


def _wrapped_instance(monkeypatch: pytest.MonkeyPatch, heard: list[str]) -> None:
    _wrapped(vars(context)["_RUNTIME_CONTEXT"])(monkeypatch, heard)


HOOKS: dict[str, Callable[[pytest.MonkeyPatch, list[str]], None]] = {
    "runtime": _runtime, "function": _wrapped(context), "method": _wrapped(ContextVarsRuntimeContext), "of the instance": _wrapped_instance,
}  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_who_listens_to_attaching_hears_of_it_as_soon_as_he_listens(monkeypatch: pytest.MonkeyPatch, hook: str) -> None:
    tracing = Tracing("1", TracerProvider())
    found = carried_in({})
    token = tracing.attach(found)
    tracing.detach(token)
    heard: list[str] = []
    HOOKS[hook](monkeypatch, heard)
    if hook in ("runtime", "function"):
        token = tracing.attach(found)
        assert context.get_current() is found
        tracing.detach(token)
        assert heard == ["attach"]
    # What is wrapped further below is seen when a service starts.
    tracing.look()
    heard.clear()
    token = tracing.attach(found)
    assert context.get_current() is found
    tracing.detach(token)
    assert heard == ["attach"]
    assert context.get_current() == {}


@pytest.mark.parametrize("module", [context, contextvars_context], ids=["api", "runtime"])
def test_modules_that_are_no_files_are_attached_to_by_the_api(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.delattr(module, "__file__")
    assert Tracing("1", TracerProvider()).attach is context.attach


@pytest.mark.parametrize("runtime", [None, object()], ids=["none", "other"])
def test_a_runtime_of_another_kind_is_left_to_the_api(monkeypatch: pytest.MonkeyPatch, runtime: object) -> None:
    monkeypatch.setattr(context, "_RUNTIME_CONTEXT", runtime)
    assert Tracing("1", TracerProvider()).attach is context.attach


async def test_each_event_of_a_transaction_runs_in_its_own_context(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Subscriptions()
    seen: dict[str, tuple[SpanContext, dict[str, str]]] = {}
    later: list[asyncio.Task[SpanContext]] = []
    connections: list[Any] = []
    over = asyncio.Event()
    monkeypatch.setattr(Pace, "share", lambda _: 100)

    async def look() -> SpanContext:
        await over.wait()
        return current()

    @handlers.subscribe(OrderPlaced, concurrency=1)
    async def work(event: OrderPlaced, connection: AsyncConnection, envelope: Envelope) -> None:
        connections.append(connection.sync_connection)
        seen[envelope.source] = current(), outgoing()
        assert baggage.get_all() == {}, "of the event before"
        # Never detached.
        context.attach(baggage.set_baggage("left", "behind"))
        later.append(asyncio.ensure_future(look()))
        await asyncio.sleep(0)
        assert current() == seen[envelope.source][0]

    service, _ = traced(world, handlers)
    given: dict[str, tuple[str | None, str | None]] = {
        "first": (UNSAMPLED, None), "sampled": (SAMPLED, None), "none": (None, None), "second": (f"00-{TRACE}-{'1' * 16}-00", None),
        "third": (f"00-{TRACE}-{'2' * 16}-02", "a=b"), "hostile": ("00-zz-1-00", None), "unreadable": (UNREADABLE[0], None), "last": (f"00-{TRACE}-{'3' * 16}-00", None),
    }  # fmt: skip
    for source, each in given.items():
        await world.insert_row(source=source, headers=headers(*each))
    async with service:
        await until(lambda: service.counters.of("handled") == len(given))
        over.set()
        contexts = await asyncio.gather(*later)
    assert len(set(connections)) == 1, "they share a transaction"
    assert list(seen) == list(given)
    assert contexts == [found for found, _ in seen.values()], "a task that a handler has begun stays in its trace"
    for source in ("first", "second", "third", "last"):
        found, carrier = seen[source]
        assert found.is_remote
        assert not found.trace_flags.sampled
        assert carrier["traceparent"] == given[source][0], source
        assert carrier.get("tracestate") == given[source][1], source
    assert seen["sampled"][0].trace_id == int(TRACE, 16)
    for source in ("sampled", "none", "hostile"):
        assert seen[source][0].trace_flags.sampled, "a span of ours"
        assert not seen[source][0].is_remote
    assert seen["none"][0].trace_id != seen["hostile"][0].trace_id
    found, carrier = seen["unreadable"]
    assert found.is_valid
    assert not found.trace_flags.sampled
    assert carrier == {"traceparent": f"00-{found.trace_id:032x}-{found.span_id:016x}-00"}
    assert not current().is_valid


@pytest.mark.parametrize("how", ["raises", "takes too long", "is cancelled"])
@pytest.mark.parametrize("plain", [False, True], ids=["transaction", "plain"])
async def test_a_handler_that_fails_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch, how: str, plain: bool) -> None:
    handlers = Subscriptions()
    seen: list[tuple[str, SpanContext]] = []
    untraced: list[SpanContext] = []
    monkeypatch.setattr(Pace, "share", lambda _: 100)

    async def fail(envelope: Envelope) -> None:
        seen.append((envelope.source, current()))
        if envelope.source == "bad":
            if how == "raises":
                raise ValueError("no")
            if how == "is cancelled":
                raise asyncio.CancelledError
            await asyncio.Event().wait()

    if plain:

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1), timeout=0.2)
        async def work(event: OrderPlaced, envelope: Envelope) -> None:
            await fail(envelope)
    else:

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1), timeout=0.2)
        async def work_in_transaction(event: OrderPlaced, connection: AsyncConnection, envelope: Envelope) -> None:
            await fail(envelope)

    service, _ = traced(world, handlers)

    @service.on_dead
    async def dead(_: Any) -> None:
        untraced.append(current())

    await world.insert_row(source="good", key="a", headers=headers(UNSAMPLED))
    await world.insert_row(source="bad", key="b", headers=headers(UNSAMPLED))
    await world.insert_row(source="sampled", key="c", headers=headers(SAMPLED))
    async with service:
        await until(lambda: service.counters.of("handled") == 2 and untraced)
    assert untraced == [trace.INVALID_SPAN_CONTEXT]
    for source, found in seen:
        assert found.trace_id == int(TRACE, 16)
        assert found.trace_flags.sampled == (source == "sampled")
        assert (found.span_id == int(SPAN, 16)) == (source != "sampled")
    assert {source for source, _ in seen} == {"good", "bad", "sampled"}


async def test_a_handler_in_a_thread_runs_in_the_trace_of_its_event(world: World) -> None:
    handlers = Subscriptions()
    seen: list[SpanContext] = []

    @handlers.subscribe(OrderPlaced)
    def work(event: OrderPlaced) -> None:
        seen.append(current())

    service, _ = traced(world, handlers)
    await world.insert_row(headers=headers(UNSAMPLED))
    async with service:
        await until(lambda: service.counters.of("handled") == 1)
    assert [found.span_id for found in seen] == [int(SPAN, 16)]


async def test_what_surrounds_the_service_surrounds_its_handlers(world: World) -> None:
    handlers = Subscriptions()
    seen: list[tuple[object, int]] = []

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, connection: AsyncConnection) -> None:
        seen.append((baggage.get_baggage("theirs"), current().span_id))

    service, _ = traced(world, handlers)
    for _ in range(2):
        await world.insert_row(headers=headers(UNSAMPLED))
    token = context.attach(baggage.set_baggage("theirs", "kept"))
    try:
        async with service:
            await until(lambda: service.counters.of("handled") == 2)
    finally:
        context.detach(token)
    assert seen == [("kept", int(SPAN, 16))] * 2


async def test_what_a_handler_of_an_event_that_is_not_sampled_publishes_belongs_to_its_trace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, connection: AsyncConnection, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    service, provider = traced(world, handlers)
    read: list[object] = []
    for module in (tracing, unsampled):
        monkeypatch.setattr(module, "read", read.append)
    await world.insert_row(headers=headers(UNSAMPLED))
    async with service:
        await until(lambda: service.counters.of("handled") == 1)
    assert f"{UNSAMPLED}'" in str(world.published("order.billed")[0]["headers"]).replace('"', "'")
    assert read == [], "nobody has asked"
    provider.shutdown()


@pytest.mark.parametrize(
    "parent",
    [
        SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(0)),
        SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(0)),
        SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(2)),
        SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(0), trace_state=TraceState([("a", "b")])),
        SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1)),
        trace.INVALID_SPAN_CONTEXT,
    ],
    ids=["local", "remote", "flags", "state", "sampled", "none"],
)  # fmt: skip
@pytest.mark.parametrize(
    "sampler",
    [
        ParentBased(ALWAYS_OFF), ALWAYS_ON, ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON),
        ParentBased(ALWAYS_OFF, local_parent_not_sampled=ALWAYS_ON),
    ],
    ids=["usual", "on", "remote", "local"],
)  # fmt: skip
def test_the_headers_of_an_event_that_has_no_others_are_the_same_as_among_others(parent: SpanContext, sampler: Any) -> None:
    traces = Tracing("1", TracerProvider(sampler=sampler))
    with trace.use_span(trace.NonRecordingSpan(parent)):
        text = traces.alone()
        fields: dict[str, str] = {}
        traces.published("order.placed", 1, "t", envelope_of(None).id, fields)
    continues = f"{parent.span_id:016x}" in fields["traceparent"]
    assert text == (written(fields) if continues and not parent.trace_state else None)


async def test_a_provider_that_is_set_after_the_service_was_made_counts_when_it_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked too early, OpenTelemetry gives a tracer that does not say how it samples: every event would pay for a span that nobody records."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced) -> None: ...

    service = world.service(handlers)
    service.instrument(metrics=False)
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON))
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: provider)
    async with service:
        made = service.publisher.tracing
        assert made is not None
        (context,) = made.carried([envelope_of(UNSAMPLED)])
        assert context is not None
