"""The facade that saves any aggregate: its events are stored, then published, in one transaction; one without events costs nothing.

Command handlers ask for it by its type. The application provides it, because it knows the service.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["EventsService"]


class EventsService:
    """`persist(aggregate)`: appended to the stream by `stream.append`, published by `converters`, forgotten by the aggregate, in this order.

    Args:
        track: lets the transaction of the command have the events of an object.
    """

    def __init__(self, track: Callable[[object], None]) -> None:
        self._track = track

    def persist(self, aggregate: object) -> None:
        """Save an aggregate. What it recorded before, and what it records until the commit, counts."""
        self._track(aggregate)
