"""Publish filters: functions that see every event which a service publishes, at the call, before it is buffered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidings.errors import ConfigurationError

__all__ = ["Publication", "PublishFilter", "check_filters", "check_result"]


@dataclass(slots=True)
class Publication:
    """An event that is being published.

    Attributes:
        event: the event; it has been encoded already, so that changing it changes nothing.
        key: the partition key.
        tenant: what it carries as its tenant.
        scheduled: whether it enters the log later.
        headers: the user's own headers and context; a filter may change them. Those that Tidings writes itself are not among them.
    """

    event: object
    name: str
    version: int | None
    topic: str
    key: str | None
    tenant: str | None
    scheduled: bool
    headers: dict[str, str]


#: A filter raises, e.g. `Vetoed`, to refuse the event: the error comes out of `publish`. It returns nothing.
PublishFilter = Callable[[Publication], None]


def check_filters(what: str, filters: Any) -> tuple[Any, ...]:
    """Return filters as a tuple.

    Raises:
        ConfigurationError: it is no list of functions.
    """
    if isinstance(filters, str | bytes) or not hasattr(filters, "__iter__"):
        raise ConfigurationError(f"Service {what}={filters!r}: give a list of functions")
    found = tuple(filters)
    for each in found:
        if not callable(each):
            raise ConfigurationError(f"Service {what}: {each!r} is no function")
    return found


def check_result(filter_: Any, result: object) -> None:
    """Refuse what a publish filter must not return: it would be waited for, or believed to mean something."""
    if result is None:
        return
    close = getattr(result, "close", None)
    if hasattr(result, "__await__") and close is not None:
        close()
    raise TypeError(
        f"publish filter {getattr(filter_, '__qualname__', filter_)} returned {type(result).__name__}: publishing is never awaited, and a filter "
        "changes `publication.headers` or raises Vetoed(...)"
    )
