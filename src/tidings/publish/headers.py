"""The headers of an outgoing event: what its cause hands on, and the user's own, as one flat JSON object of strings in pure ASCII."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tidings.envelope import RESERVED_HEADERS, Envelope
from tidings.errors import InvalidEvent

__all__ = ["CHAIN", "CHAIN_FROM", "MAX_HEADERS", "MAX_NAME", "MAX_VALUE", "can_travel", "inherited", "user_headers", "written"]

#: How many headers a user may give, and how many characters a name and a value may have.
MAX_HEADERS = 64
MAX_NAME = 128
MAX_VALUE = 4096

#: How many names of events a chain keeps, and from which hop on there is one: most flows are short and do not pay for it.
CHAIN = 16
CHAIN_FROM = 4

_encode = msgspec.json.Encoder().encode

# What every transport can carry as a header name: printable ASCII without spaces.
_NAME = re.compile(r"[!-~]+\Z")


def inherited(cause: Envelope, carried: Sequence[str] = ()) -> dict[str, str]:
    """Return the headers that an event gets from the event whose handler publishes it.

    Args:
        carried: the cause's own headers that are handed on: context, which has come from outside.
    """
    correlation = cause.correlation_id
    if not can_travel(correlation):
        correlation = str(cause.id)  # as if it had none
    headers = {"correlationid": correlation, "causationid": str(cause.id), "hops": str(cause.hops + 1)}
    if cause.tenant is not None and can_travel(cause.tenant):
        headers["tenantid"] = cause.tenant
    if cause.traceparent is not None and can_travel(cause.traceparent):
        headers["traceparent"] = cause.traceparent
        if cause.tracestate is not None and can_travel(cause.tracestate):
            headers["tracestate"] = cause.tracestate
    if cause.headers:
        for name in carried:
            text = cause.headers.get(name)
            if text is not None and can_travel(text):
                headers[name] = text
    if cause.hops >= CHAIN_FROM - 1:
        names = (*cause.chain, "_".join(cause.name.split())[:MAX_NAME])
        headers["chain"] = " ".join(names[-CHAIN:])
    return headers


def can_travel(text: str) -> bool:
    """Whether what may have come from outside is handed on."""
    return 0 < len(text) <= MAX_VALUE and text.isprintable()


def user_headers(event: str, headers: Mapping[str, str], collision: Callable[[str], str | None] = lambda _: None) -> dict[str, str]:
    """Check the user's headers and return them; `event` names the event type in messages.

    Args:
        collision: says why no transport could carry a header of this name.

    Raises:
        TypeError: it is no mapping.
        InvalidEvent: too many headers; a name that is reserved, too long or not printable ASCII; a value that is no string, too long,
            or cannot be stored (NUL, lone surrogates).
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"{event}: headers={_short(headers)} is not a dictionary of names and texts")
    if len(headers) > MAX_HEADERS:
        raise InvalidEvent(f"{event}: {len(headers)} headers are more than {MAX_HEADERS}: put data into the event")
    given: dict[Any, Any] = dict(headers)  # nothing has checked yet that they are strings
    for name, value in given.items():
        if not isinstance(name, str) or not _NAME.match(name) or len(name) > MAX_NAME:
            raise InvalidEvent(f"{event}: header name {_short(name)} is not 1 to {MAX_NAME} characters of printable ASCII without spaces")
        if name.lower() in RESERVED_HEADERS:
            raise InvalidEvent(f"{event}: header {name!r} is written by Tidings itself: choose another name")
        if reason := collision(name):
            raise InvalidEvent(f"{event}: header {name!r} {reason}")
        if not isinstance(value, str):
            raise InvalidEvent(f"{event}: header {name!r} is {_short(value)} ({type(value).__name__}): header values are strings")
        if len(value) > MAX_VALUE:
            raise InvalidEvent(f"{event}: header {name!r} has {len(value):,} characters, more than {MAX_VALUE:,}: put data into the event")
        if "\0" in value:
            raise InvalidEvent(f"{event}: header {name!r} contains a NUL character, which PostgreSQL cannot store")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InvalidEvent(f"{event}: header {name!r} contains a lone surrogate, which is not valid Unicode text") from None
    return given


def written(headers: Mapping[str, str]) -> str:
    """Return headers as JSON text in pure ASCII."""
    # Nearly all are ASCII as they are, and plain strings: this is a tenth of the work.
    try:
        text = _encode(headers)
    except (UnicodeEncodeError, TypeError):
        return _escaped(headers)
    return text.decode() if text.isascii() else _escaped(headers)


def _escaped(headers: Mapping[str, str]) -> str:
    return json.dumps(headers, separators=(",", ":"))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
