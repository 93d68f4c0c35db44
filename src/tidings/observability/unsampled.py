"""Contexts of traces that are not sampled, for OpenTelemetry: most events of a busy service have one, and nobody looks into it.

So little is done for each: its `traceparent` is kept as it is. It is read when somebody asks, and the span and the dictionary are made then that
OpenTelemetry has in such a place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import Token
from types import FunctionType, ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

from opentelemetry import context as context_api
from opentelemetry.context import Context, contextvars_context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

__all__ = ["END", "FIRST", "KEY", "LENGTH", "UNSAMPLED", "Carried", "Unsampled", "attaching", "read"]


def _key() -> str | None:
    made = set_span_in_context(INVALID_SPAN, Context())
    key = next(iter(made), None)
    return key if made == {key: INVALID_SPAN} else None


#: The key that a context has its span by; None where it is not as simple as that. `set_span_in_context` takes three copies to say so.
KEY = _key()

#: A `traceparent` of the version that everybody writes, whose trace is not sampled, has this length, is from FIRST to before END, and ends so.
#: What else it must be is looked at when somebody asks: a match costs more than all the rest that is done for an event. The sender of one that
#: turns out to be nothing is believed in this all the same.
LENGTH = 55
FIRST = f"00-{1:032x}"
END = "00-g"
UNSAMPLED = "02468ace"

# The version that everybody writes.
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")
_FLAGS = tuple(TraceFlags(flags) for flags in range(256))

# The same of a trace that is not sampled. No groups: few of these are read.
_unsampled = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]\Z").match


def read(traceparent: str) -> SpanContext | None:
    """Return what a `traceparent` says, if it is valid and of the version that everybody writes."""
    found = _TRACEPARENT.match(traceparent)
    if found is None:
        return None
    return SpanContext(int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=_FLAGS[int(found[3], 16)])


class Unsampled(NonRecordingSpan):
    """A parent that is not sampled, of a `traceparent` that was matched: read when somebody asks, which most handlers never do."""

    _read: SpanContext | None = None

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        if self._read is None:
            self._read = read(self.traceparent)
            assert self._read is not None
        return self._read

    def __repr__(self) -> str:
        return f"NonRecordingSpan({self.get_span_context()!r})"


class Carried(Context):
    """The context for a handler of an event whose trace is not sampled: the one around it, and the parent. It is filled when somebody looks into it.

    Where the `traceparent` turns out to be none, the parent is of a new trace, which is not sampled either.

    C code that reads the dictionary below without asking, such as `json.dumps`, finds nothing in one that nobody has looked into.
    """

    # Half of what an instance's own dictionary takes to make, and one is made for every event.
    __slots__ = ("around", "traceparent")

    around: Context | None
    traceparent: str

    def __getattr__(self, name: str) -> None:
        # Whoever makes another one of this type has made an ordinary context.
        if name == "around":
            return
        raise AttributeError(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Context(self).__reduce_ex__(protocol)

    def fill(self) -> None:
        """Become what it says, in one step: two threads may do it at once, and a third one look in between."""
        around = self.around
        if around is not None and KEY is not None:
            dict.update(self, {**around, KEY: Unsampled(self.traceparent if _unsampled(self.traceparent) else _new())})
            self.around = None


def _new() -> str:
    """Return the `traceparent` of a new trace that is not sampled."""
    # Neither half is ever all zeros: a UUID has its version and its variant in it.
    return f"00-{uuid4().hex}-{uuid4().hex[16:]}-00"


def _filled(name: str) -> Callable[..., Any]:
    method = getattr(Context, name)

    def filled(self: Carried, *given: Any, **named: Any) -> Any:
        if self.around is not None:
            self.fill()
        return method(self, *given, **named)

    return filled


# Everything that reads or changes a dictionary; `{**context}` and `dict(context)` ask as well, because `__iter__` is not a dictionary's own.
for _name in (
    "get", "copy", "keys", "values", "items", "__getitem__", "__contains__", "__iter__", "__len__", "__eq__", "__ne__", "__or__", "__ror__",
    "__reversed__", "__repr__", "pop", "popitem", "setdefault", "update", "clear", "__delitem__", "__ior__",
):  # fmt: skip
    setattr(Carried, _name, _filled(_name))


class Attaching(NamedTuple):
    """What attaches a context, as things were when somebody looked.

    Attributes:
        attach: what to call.
        runtime: where OpenTelemetry keeps contexts.
        function: OpenTelemetry's `attach`, or what somebody had put in its place.
    """

    attach: Callable[[Context], Token[Context]]
    runtime: object
    function: object

    def is_current(self) -> bool:
        """Return whether things are still like that."""
        return getattr(context_api, "_RUNTIME_CONTEXT", None) is self.runtime and context_api.attach is self.function


def attaching() -> Attaching:
    """Return what attaches a context.

    OpenTelemetry's runtime keeps the context in a `ContextVar`, two calls below `attach`, which is as much as a small handler can afford: where
    its own functions are all that there is in between, that variable's `set` is returned. Somebody may have put another runtime there (Sentry
    does), or wrapped a function to hear of it (profilers do): `attach` is returned then.
    """
    runtime = getattr(context_api, "_RUNTIME_CONTEXT", None)
    function = context_api.attach
    variable = getattr(runtime, "_current_context", None)
    if (
        variable is not None
        and type(runtime) is ContextVarsRuntimeContext
        and "attach" not in vars(runtime)
        and _own(function, context_api)
        and _own(ContextVarsRuntimeContext.attach, contextvars_context)
    ):
        return Attaching(variable.set, runtime, function)
    return Attaching(function, runtime, function)


def _own(function: object, module: ModuleType) -> bool:
    """Return whether a function is what its module has written, and nobody's that stands in for it."""
    return isinstance(function, FunctionType) and function.__code__.co_filename == getattr(module, "__file__", None)
