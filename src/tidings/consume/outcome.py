"""How an event ended for a subscription, as the inbox remembers it."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Outcome"]


class Outcome(IntEnum):
    """Values of `inbox.outcome`."""

    HANDLED = 0
    EXPIRED = 1
    DISCARDED = 2
    DEAD = 3
