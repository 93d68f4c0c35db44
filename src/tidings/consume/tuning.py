"""Bounds and times of what reads the log."""

from __future__ import annotations

__all__ = ["LEASE_SECONDS", "Tuning"]

#: How long a lease lasts without renewal, by the database's clock. A dead worker's readers are taken over within this time.
LEASE_SECONDS = 10.0


class Tuning:
    """Bounds and times of a receiver or relay. The defaults suit; tests change them.

    Attributes:
        page: most rows of one read.
        events, bytes: most events, and bytes of them, that are in memory.
        shortest, longest: seconds between two polls when there is something to do, and when nothing has happened for long.
        checkpoint_seconds: how often a checkpoint that moved is written; `checkpoint_idle` when nothing was handled.
        lease: seconds that a lease lasts.
        slow: seconds after which an event that still runs is promoted.
        max_parked: most parked events of a subscription; with more, it takes nothing until there are fewer.
        sends, batch: most calls of a transport that are under way at a time, and most messages of one.
        again, again_longest: seconds until a relay tries to connect again, the first time and at most.
        first_contact: seconds that starting a service waits for its brokers at most.
    """

    page = 1000
    events = 5000
    bytes = 64 << 20
    shortest = 0.005
    longest = 0.5
    checkpoint_seconds = 0.1
    checkpoint_idle = 10.0
    lease = LEASE_SECONDS
    slow = 10.0
    max_parked = 10_000
    sends = 4
    batch = 1000
    again = 0.1
    again_longest = 15.0
    first_contact = 5.0
