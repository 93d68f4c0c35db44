"""Clocks. Leases are judged by the database clock; these serve local deadlines and timestamps."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["elapsed", "now"]

# CLOCK_MONOTONIC stops while a Linux machine is suspended; a worker that wakes up must see that its lease has run out.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC) if hasattr(time, "CLOCK_MONOTONIC") else None


def elapsed() -> float:
    """Return seconds on a clock that never goes back and, where the system has one, counts time spent suspended."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
