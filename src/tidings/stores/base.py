"""What a store hands to the engine: rows of the log with the checkpoint after each, standings of events, lanes and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

__all__ = [
    "ALONE",
    "Batch",
    "Claim",
    "Claimed",
    "Delivery",
    "Dropped",
    "Failure",
    "Lease",
    "Mark",
    "Parking",
    "Registered",
    "Retention",
    "Standing",
    "Verdict",
]


class Mark(msgspec.Struct, frozen=True, gc=False):
    """How far a reader has come; opaque to everyone but the store.

    `position` has a meaning inside the window between `previous` and `current` only; without windows (SQLite) it is all there is. Whoever reads
    a broker by position has `place` in place of all of them: the positions as JSON, empty before the first.
    """

    previous: str | None
    current: str | None
    position: int
    place: str | None = None


class Batch(NamedTuple):
    """Rows of the log in order, and the mark after each of them.

    A row begins with `(position, id, source, name, version, topic, key, headers, data, time)`, headers and data as JSON text.

    Attributes:
        end: the mark to read on from; with no rows, how far an empty window reached.
        clock: the database's time; None if it was not asked for.
        more: whether reading on at once may give more.
    """

    rows: Sequence[Any]
    marks: list[Mark]
    end: Mark
    clock: datetime | str | None
    more: bool = False


class Standing:
    """What is known of an event when a subscription is about to handle it."""

    RUN = 0
    DUPLICATE = 1
    PARKED = 2


class Lease(NamedTuple):
    """The fenced right to act for a reader, with the checkpoint to act from."""

    reader: str
    shard: int
    token: int
    mark: Mark
    high: int
    restarts: int


class Retention(msgspec.Struct, frozen=True):
    """How long a service keeps what, in seconds; None is for ever.

    Attributes:
        outbox: what is published.
        inbox: what is remembered of events and commands that were handled.
        dead: dead events that nothing waits behind.
        audit: what is written down about its commands.
        operations: what is written down about operators; of services that share tables, the longest counts.
    """

    outbox: float
    inbox: float
    dead: float | None = None
    audit: float | None = None
    operations: float | None = None


class Dropped(NamedTuple):
    """An event that was dead for so long that it was given up."""

    subscription_id: int
    subscription: str
    event_id: str
    event_key: str


class Failure(NamedTuple):
    """Why an attempt failed, printable and bounded."""

    error_type: str
    error_message: str
    traceback: str
    fingerprint: str


class Parking(NamedTuple):
    """An event on its way into `deliveries`.

    Attributes:
        lane: the lane's digest; the event's own key when it has no partition key.
        state: state of the lane if this event is the first of it.
        delay: seconds until the lane is due, if this event is the first of it.
        attempts: how often it was tried; 0 when it only waits behind others.
        reason: `failed`, `rejected`, `behind`, `waiting for code`, `undecodable`, `slow` or `careful`.
        history: JSON list of the last ten attempts.
    """

    event_key: str
    lane: str
    key: str | None
    event_id: str
    source: str
    name: str
    version: int | None
    topic: str
    time: datetime | str | None
    sequence: int | None
    headers: bytes
    data: bytes
    reason: str
    state: str = "retrying"
    delay: float = 0.0
    attempts: int = 0
    history: str = "[]"
    failure: Failure | None = None


#: What a worker's name ends with in `lanes.owner` while it runs nothing but that lane.
ALONE = ":alone"


class Claimed(NamedTuple):
    """A lane that this worker holds the lease of.

    Attributes:
        attempts: the number of the attempt that the claim began.
        interrupted: whether the lease before ran out: its worker ended, or was paused, in the middle of the attempt.
        before: who had that lease.
    """

    subscription_id: int
    lane: str
    key: str | None
    token: int
    attempts: int
    depth: int
    interrupted: bool = False
    before: str | None = None

    @property
    def was_alone(self) -> bool:
        """Whether nothing else ran in the process that was interrupted."""
        return self.before is not None and self.before.endswith(ALONE)


class Claim(NamedTuple):
    """How many permits of a limit a process holds, and how many it wants, those included."""

    held: int
    wanted: int


class Verdict(NamedTuple):
    """What was decided on a limit: what a process claims of its permits now, and until how many seconds from now its bucket is paid for.

    None leaves the one or the other as it is.
    """

    mine: Claim | None
    ahead: float | None


class Delivery(NamedTuple):
    """A parked event, read back."""

    event_key: str
    event_id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime | str | None
    sequence: int | None
    headers: bytes
    data: bytes
    reason: str
    attempts: int
    history: str


class Registered(NamedTuple):
    """A subscription as the store knows it."""

    id: int
    service: str
    group: str
    name: str
    events: tuple[str, ...]
    state: str
