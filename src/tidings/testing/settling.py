"""What is the matter with a service that does not become quiet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tidings.envelope import Envelope
from tidings.errors import TidingsError

if TYPE_CHECKING:
    from tidings.testing.crashes import Fate

__all__ = ["NotSettled", "busy", "circle"]


class NotSettled(TidingsError, AssertionError):
    """A service under test did not become quiet; the message says what it was doing."""


def busy(fate: Fate) -> str:
    """Say which handlers were cut off, and forget it."""
    cut_off, fate.interrupted = fate.interrupted, []
    return "; ".join(f"{label} was handling {event!r}" for label, event in cut_off) or "no handler was running"


def circle(log: Iterable[tuple[Any, Envelope]], after: int) -> str:
    """Say what was published after a position of the log, and how often."""
    names = Counter(envelope.name for _, envelope in log if (envelope.sequence or 0) > after)
    return "handlers go on publishing " + ", ".join(f"{name} ({count} times)" for name, count in names.most_common(5))
