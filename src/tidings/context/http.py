"""What of a request's headers becomes context: only what is trusted, and only what can travel in the headers of events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tidings.context.keys import TRACE, TRACESTATE, ContextKey
from tidings.errors import ConfigurationError, InvalidContext

__all__ = ["LISTS", "Refused", "checked_keys", "fields_of"]

#: Lists, whose parts may come in several headers; of all others a second one is a forgery or a mistake.
LISTS = frozenset({"tracestate", "baggage"})


class Refused(Exception):
    """A request that must not be served: `reason` is for its sender, and repeats nothing of what it sent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def checked_keys(trust: Iterable[ContextKey[Any]], require: Iterable[ContextKey[Any]]) -> tuple[ContextKey[Any], ...]:
    """Return what is trusted; `tracestate` comes with `traceparent`.

    Raises:
        ConfigurationError: not keys, two of one header, or one is required and not trusted.
    """
    keys = list(trust)
    for key in (*keys, *require):
        if not isinstance(key, ContextKey):
            raise ConfigurationError(f"{key!r} is no ContextKey: give trust=[TENANT, ...]")
        if key not in keys:
            raise ConfigurationError(f"{key!r} is required and not trusted: add it to trust=[...]")
    if TRACE in keys and TRACESTATE not in keys:
        keys.append(TRACESTATE)
    if len({key.header for key in keys}) < len(keys):
        raise ConfigurationError("trust=[...] has two keys of one header")
    return tuple(keys)


def fields_of(
    headers: Iterable[tuple[str, str]], keys: Sequence[ContextKey[Any]], require: Sequence[ContextKey[Any]]
) -> dict[str, str | None]:
    """Return the event headers that a request's headers stand for; names in small letters.

    Raises:
        Refused: a trusted header cannot be used, and its key does not say `drop`; or a required one is missing.
    """
    by_header = {key.header: key for key in keys}
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name in by_header:
            found.setdefault(name, []).append(value.strip(" \t"))
    fields: dict[str, str | None] = {}
    for name, values in found.items():
        key = by_header[name]
        text = ",".join(values) if name in LISTS else values[0]
        try:
            if name not in LISTS and len(values) > 1:
                raise InvalidContext(f"{name}: there are several of it")
            if not text.isascii():
                raise InvalidContext(f"{name}: the text is not ASCII")
            key.check(text)
        except InvalidContext as error:
            if key.invalid == "refuse":
                raise Refused(str(error)) from error
        else:
            fields[key.field] = text
    if "tracestate" in fields and "traceparent" not in fields:
        del fields["tracestate"]
    for key in require:
        if key.field not in fields:
            raise Refused(f"{key.header}: this header is required")
    return fields
