"""What a test sees: events as a subscriber gets them, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar
from uuid import UUID

from tidings.envelope import Envelope

__all__ = ["Handled", "ParkedEvent", "Published", "ScheduledEvent"]

E = TypeVar("E")


class Published(list[E]):
    """Published events, in order; compares like the list that it is.

    Attributes:
        envelopes: their envelopes, in the same order.
    """

    def __init__(self, pairs: Iterable[tuple[E, Envelope]] = ()) -> None:
        pairs = list(pairs)
        super().__init__(event for event, _ in pairs)
        self.envelopes: list[Envelope] = [envelope for _, envelope in pairs]


@dataclass(frozen=True, slots=True)
class Handled:
    """An event that a subscription is done with.

    Attributes:
        envelope: with the number of the attempt that succeeded.
        subscription: its name, without the group.
    """

    event: Any
    envelope: Envelope
    subscription: str


@dataclass(frozen=True, slots=True)
class ScheduledEvent:
    """An event that waits for its time, outside the log.

    Attributes:
        due_in: the time until it enters the log.
    """

    event: Any
    id: UUID
    key: str | None
    due_in: timedelta

    def __str__(self) -> str:
        return f"{self.event!r}, due in {_span(self.due_in)}"


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that a subscription could not handle so far, or that waits behind one.

    Attributes:
        event, envelope: None when its data, or its headers, cannot be understood.
        subscription: its name, without the group.
        state: `dead` or `retrying` for the first of its key; `blocked` for one that waits behind it.
        attempts: how often it was tried.
        reason: `failed`, `rejected`, `behind`, `waiting for code`, `undecodable` or `slow`.
        error: the last failure, as `type: message`; None if there was none.
        traceback: where it was raised.
        due_in: the time until it is tried again, or None.
    """

    event: Any
    envelope: Envelope | None
    event_name: str
    key: str | None
    subscription: str
    state: Literal["dead", "retrying", "blocked"]
    attempts: int
    reason: str
    error: str | None
    traceback: str | None
    due_in: timedelta | None

    def __str__(self) -> str:
        what = self.event_name if self.event is None else repr(self.event)
        when = "" if self.due_in is None else f", again in {_span(self.due_in)}"
        error = "" if self.error is None else f": {self.error.partition(chr(10))[0]}"
        return f"{self.subscription} {what}, {self.state} after attempt {self.attempts} ({self.reason}){when}{error}"


def _span(time: timedelta) -> str:
    seconds = time.total_seconds()
    return f"{seconds:.3g} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
