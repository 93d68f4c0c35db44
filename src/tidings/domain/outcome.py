"""What a command handler returned: its value, and the events that are to be published with it. Pure."""

from __future__ import annotations

import typing
from collections.abc import Container, Iterable
from typing import Any, NamedTuple

from tidings.domain.results import Err, Ok
from tidings.errors import InvalidEvent

__all__ = ["Outcome", "Yielded", "outcome_of", "returns_events", "value_hint"]


class Outcome(NamedTuple):
    """A value for the caller, and integration events."""

    value: Any
    events: tuple[Any, ...]

    @property
    def failed(self) -> bool:
        """Whether the value is an `Err`."""
        return isinstance(self.value, Err)


class Yielded(NamedTuple):
    """What a generator has yielded, and returned."""

    items: list[Any]
    value: Any


def outcome_of(result: Any, types: Container[type[Any]], label: str, *, declared: bool) -> Outcome:
    """Tell value and events apart.

    A generator yields events; what else it yields is the value, at most one such thing, unless it returns one. A tuple is a value with events
    when one of its elements is an event, when it begins with an `Ok` or an `Err`, or when the handler's annotation says so (`declared`): its
    first element is the value, unless that is an event too, and the others are events or None. An event alone is published, and the value is None. Anything else is the value.

    Raises:
        InvalidEvent: an element that has to be an event is none.
    """
    if isinstance(result, Yielded):
        events = [item for item in result.items if type(item) in types]
        others = [item for item in result.items if type(item) not in types and item is not None]
        if len(others) + (result.value is not None) > 1:
            raise InvalidEvent(
                f"{label} yields several values, {others!r:.200}: it yields events of the service's contracts, and one value"
            )
        return Outcome(others[0] if others else result.value, tuple(events))
    if type(result) in types:
        return Outcome(None, (result,))
    if type(result) is not tuple or not (declared or _has_result(result) or any(_has_event(item, types) for item in result)):
        return Outcome(result, ())
    rest = result
    value = None
    if not _has_event(result[0], types):
        value, rest = result[0], result[1:]
    return Outcome(value, tuple(_events(rest, types, label)))


def _events(items: Iterable[Any], types: Container[type[Any]], label: str) -> Iterable[Any]:
    for item in items:
        if item is None:
            continue
        if type(item) in types:
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _events(item, types, label)
        else:
            raise InvalidEvent(
                f"{label} returned {item!r:.200} among the events of its tuple: after the value, a tuple holds events of the service's contracts, "
                "lists of them, or None"
            )


def _has_result(items: tuple[Any, ...]) -> bool:
    return bool(items) and isinstance(items[0], (Ok, Err))


def _has_event(item: Any, types: Container[type[Any]]) -> bool:
    return type(item) in types or (isinstance(item, list) and any(type(each) in types for each in item))


def returns_events(hint: Any, types: Container[type[Any]]) -> bool:
    """Return whether an annotation says that a tuple holds events: `tuple[Order, OrderPlaced | None]`."""
    return typing.get_origin(hint) is tuple and any(_mentions(part, types) for part in typing.get_args(hint))


def value_hint(hint: Any, types: Container[type[Any]]) -> Any:
    """Return what an annotation says of the value; None when it says nothing that could be decoded."""
    if returns_events(hint, types):
        first = typing.get_args(hint)[0]
        return None if _mentions(first, types) else value_hint(first, types)
    if typing.get_origin(hint) in (typing.Union, type(int | str)):
        for part in typing.get_args(hint):
            if typing.get_origin(part) is Ok:
                return typing.get_args(part)[0]
    if typing.get_origin(hint) is Ok:
        return typing.get_args(hint)[0]
    return hint


def _mentions(hint: Any, types: Container[type[Any]]) -> bool:
    try:
        known = hint in types
    except TypeError:  # an annotation that cannot be hashed
        known = False
    return known or any(_mentions(part, types) for part in typing.get_args(hint))
