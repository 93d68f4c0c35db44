"""Context keys: which header a value travels in, what it may look like, and which Python value it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, NamedTuple, TypeVar, overload

from tidings.envelope import RESERVED_HEADERS
from tidings.errors import ConfigurationError, InvalidContext

__all__ = ["BAGGAGE", "CARRIED", "CORRELATION", "ENVIRONMENT", "TENANT", "TRACE", "TRACESTATE", "ContextKey", "ContextValue"]

T = TypeVar("T")

#: Most characters of any value: what a header of an event may have.
LONGEST = 4096

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")


class ContextValue(NamedTuple):
    """A key with a value, as `bind` takes it: event headers and what they get; None takes a header away."""

    fields: Mapping[str, str | None]


class ContextKey(Generic[T]):
    """A value that flows from requests through events into handlers: `REGION = ContextKey("x-region")`.

    Give it to `Service(context=[REGION])`, so that handlers hand it on to what they publish, and to a middleware's `trust`, where it may come
    from outside.

    Args:
        header: the header of HTTP and of events, in small letters, e.g. `x-region`.
        parse: makes the value from text; raises ValueError for text that is none.
        text: writes the value as text.
        longest: most characters of the text, 1 to 4096.
        invalid: what a middleware does about text that cannot be used: `refuse` the request, or `drop` the header.

    Raises:
        ConfigurationError: the header is no name of a header, or means something else; `longest` is out of its range.
    """

    __slots__ = ("field", "header", "invalid", "longest", "parse", "text")

    @overload
    def __init__(self: ContextKey[str], header: str, *, longest: int = ..., invalid: Literal["refuse", "drop"] = ...) -> None: ...
    @overload
    def __init__(
        self, header: str, *, parse: Callable[[str], T], text: Callable[[T], str] = ..., longest: int = ...,
        invalid: Literal["refuse", "drop"] = ...,
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        header: str,
        *,
        parse: Callable[[str], Any] = str,
        text: Callable[[Any], str] = str,
        longest: int = 256,
        invalid: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if not isinstance(header, str) or not _TOKEN.match(header):
            raise ConfigurationError(f"ContextKey({header!r}): give the name of a header in small letters, e.g. 'x-region'")
        if header in RESERVED_HEADERS or header.startswith(("ce-", "cap-", "tidings-")):
            raise ConfigurationError(f"ContextKey({header!r}): this header means something else: choose another, e.g. 'x-{header}'")
        if not isinstance(longest, int) or not 1 <= longest <= LONGEST:
            raise ConfigurationError(f"ContextKey({header!r}, longest={longest!r}): give 1 to {LONGEST} characters")
        if invalid not in ("refuse", "drop"):
            raise ConfigurationError(f"ContextKey({header!r}, invalid={invalid!r}): give 'refuse' or 'drop'")
        self.header = header
        self.field = header
        self.parse: Callable[[str], T] = parse
        self.text: Callable[[T], str] = text
        self.longest = longest
        self.invalid: Literal["refuse", "drop"] = invalid

    def __repr__(self) -> str:
        return f"ContextKey({self.header!r})"

    def of(self, value: T | None) -> ContextValue:
        """Return this key with a value, for `bind`; None for none, whatever is bound outside.

        Raises:
            InvalidContext: the text of the value cannot travel in a header.
        """
        if value is None:
            return ContextValue({self.field: None})
        text = self.text(value)
        self.check(text)
        return ContextValue({self.field: text})

    def get(self) -> T | None:
        """Return the value that is bound here, or that the event has which is being handled; None for none, or for one that is invalid."""
        from tidings.context.binding import current

        return current().get(self)

    def check(self, text: str) -> T:
        """Return the value of a text that has come from outside.

        Raises:
            InvalidContext: it has control characters or none at all, is too long, or `parse` does not take it.
        """
        if not isinstance(text, str) or not 0 < len(text) <= self.longest:
            raise InvalidContext(f"{self.header}: give text of 1 to {self.longest} characters")
        if not text.isprintable() or text != text.strip():
            raise InvalidContext(f"{self.header}: the text has control characters, or spaces around it")
        try:
            return self.parse(text)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise InvalidContext(f"{self.header}: the text is not what is expected there ({type(error).__name__})") from error

    def read(self, fields: Mapping[str, str]) -> T | None:
        """Return the value among the headers of an event, or None."""
        text = fields.get(self.field)
        if text is None:
            return None
        try:
            return self.check(text)
        except InvalidContext:
            return None


def _traceparent(text: str) -> str:
    if not _TRACEPARENT.match(text):
        raise ValueError(text)
    return text


def _built_in(header: str, field: str, **options: Any) -> ContextKey[str]:
    key: ContextKey[str] = ContextKey("x-" + header.removeprefix("x-"), **options)
    key.header, key.field = header, field
    return key


#: The tenant: `x-tenant` of HTTP, the CloudEvents extension `tenantid` of events, `envelope.tenant`.
TENANT = _built_in("x-tenant", "tenantid")
#: The environment, e.g. `canary`: the header `x-env` of HTTP and of events.
ENVIRONMENT = ContextKey("x-env", longest=64)
#: The id that everything has in common which one flow causes: `x-correlation-id` of HTTP, `correlationid` of events.
CORRELATION = _built_in("x-correlation-id", "correlationid", invalid="drop")
#: W3C trace context, `traceparent` and `tracestate`. A text that is none is dropped, as the standard wants it.
TRACE = _built_in("traceparent", "traceparent", parse=_traceparent, invalid="drop")
#: What goes with a trace: a list of 512 characters at most.
TRACESTATE = _built_in("tracestate", "tracestate", longest=512, invalid="drop")
#: W3C baggage, passed through as it is.
BAGGAGE = ContextKey("baggage", longest=LONGEST, invalid="drop")

#: Those whose headers are no attributes of the envelope, and are handed on by every service.
CARRIED = (ENVIRONMENT, BAGGAGE)
