"""Clocks. Leases are judged by the database clock; these serve local deadlines and timestamps."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from tidings.errors import ConfigurationError

__all__ = ["check_aware", "duration", "elapsed", "now"]

# CLOCK_MONOTONIC stops while a Linux machine is suspended; a worker that wakes up must see that its lease has run out.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else None


def elapsed() -> float:
    """Return seconds on a clock that never goes back and, where the system has one, counts time spent suspended."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


def check_aware(**times: datetime | None) -> None:
    """Refuse a time that does not say of which zone it is.

    Raises:
        ConfigurationError: the argument's name, and its value.
    """
    for name, given in times.items():
        if given is not None and not isinstance(given, datetime):
            raise ConfigurationError(f"{name}={given!r} is no time: give an aware datetime")
        if given is not None and given.utcoffset() is None:
            raise ConfigurationError(f"{name}={given} has no time zone: give an aware datetime")


def duration(span: timedelta | float | None) -> str:
    """Return a time span in its largest unit: `0.2 s`, `14 s`, `3 min`, `5 h`, `2 d`."""
    if span is None:
        return ""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    for unit, size, least in (("d", 86400.0, 2.0), ("h", 3600.0, 2.0), ("min", 60.0, 2.0)):
        if seconds >= size * least:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} s" if seconds >= 10 else f"{max(seconds, 0.0):.1f} s"
