"""Checking what was published, and saying what there is instead. Pure functions over values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["explained", "matching", "nothing"]

E = TypeVar("E")

#: Most events that a message lists.
_LISTED = 20


def matching(
    published: Sequence[Any], event_type: type[E], where: Callable[[E], bool] | None, fields: Mapping[str, Any], *, once: bool, context: str,
    verb: str = "published",
) -> E:  # fmt: skip
    """Return the first event of a type with these field values.

    Args:
        once: whether a second one is a failure.
        context: what else there is to say when it fails.
        verb: what was done with them.

    Raises:
        AssertionError: there is none, or there are several and `once`.
        TypeError: the event class has no such field.
    """
    __tracebackhide__ = True
    found = [
        event for event in published if type(event) is event_type and _misses(event, fields) is None and (where is None or where(event))
    ]
    if found and not (once and len(found) > 1):
        return found[0]
    wanted = event_type.__qualname__ + "".join((" that the predicate accepts" if where else "", _with(fields)))
    head = f"{len(found)} times, not once: {wanted}" if found else f"not {verb}: {wanted}"
    raise AssertionError(f"{head}\n{explained(published, event_type, fields)}{context}")


def nothing(published: Sequence[Any], event_type: type[Any] | None, context: str) -> None:
    """Raise if there is an event, of this type if one is given.

    Raises:
        AssertionError: there is.
    """
    __tracebackhide__ = True
    found = [event for event in published if event_type is None or type(event) is event_type]
    if found:
        what = "nothing" if event_type is None else f"no {event_type.__qualname__}"
        raise AssertionError(f"{what} should have been published\n{explained(found)}{context}")


def explained(published: Sequence[Any], event_type: type[Any] | None = None, fields: Mapping[str, Any] | None = None) -> str:
    """Return a list of what was published; beside events of the type, why they were not meant."""
    if not published:
        return "published: nothing"
    lines = ["published:"]
    for event in published[:_LISTED]:
        miss = _misses(event, fields or {}) if type(event) is event_type else None
        lines.append(f"  {event!r}" + ("" if miss is None else f"  <- {miss} is {getattr(event, miss)!r}"))
    if len(published) > _LISTED:
        lines.append(f"  and {len(published) - _LISTED} more")
    return "\n".join(lines)


def _misses(event: object, fields: Mapping[str, Any]) -> str | None:
    """Return the name of the first field that has another value."""
    for name, value in fields.items():
        if not hasattr(event, name):
            raise TypeError(f"{type(event).__qualname__} has no field {name!r}")
        if getattr(event, name) != value:
            return name
    return None


def _with(fields: Mapping[str, Any]) -> str:
    return "" if not fields else " with " + ", ".join(f"{name}={value!r}" for name, value in fields.items())
