"""What proves that a handler transaction is whole and still ours: under a reader's lease, or under a lane's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import Connection

from tidings.consume.deadline import Deadline
from tidings.consume.guard import ENDED
from tidings.consume.received import Received
from tidings.errors import LeaseLost, TransactionEnded
from tidings.stores.base import Claimed, Lease, Parking
from tidings.stores.sql.store import SQLStore

__all__ = ["NO_LANE", "PROMOTED_LEASE", "Handed", "LaneFence"]

#: Seconds that the lease of a promoted event's lane lasts; renewed while it runs.
PROMOTED_LEASE = 30.0
#: A lane that no key has: a delivery's own lane must not be taken for one that blocks it.
NO_LANE = "0" * 32


class Handed:
    """Events that a reader handed to a worker: fenced by the reader's lease, until they take so long that they get lanes of their own.

    Attributes:
        promoted: the lanes that they have then, by digest, leased by this worker; None before.
        since: when the worker took them, on the local clock.
        over: event keys of what was settled one by one, and needs no lane any more.
        withheld: what did not get its turn, because the breaker opened; it goes back to where it was taken from.
        together: what bounds the calls of a transaction that several events share and may stop sharing; None while there is no such transaction.
    """

    def __init__(self, store: SQLStore, lease: Lease, items: Sequence[Received], since: float, *, ordered: bool) -> None:
        self._store = store
        self._lease = lease
        self._ordered = ordered
        self.items = items
        self.since = since
        self.promoted: dict[str, Claimed] | None = None
        self.over: set[str] = set()
        self.withheld: list[Received] = []
        self.together: Deadline | None = None
        self._turns: Sequence[Received] = ()
        self._turn = 0
        self._parked: frozenset[str] = frozenset()
        self.closing = False
        self._changing = asyncio.Lock()
        self._writing = 0

    def lane(self, event: Received) -> str:
        """Return the lane in which the event would be parked."""
        return event.lane if self._ordered else event.event_key

    def left(self) -> list[Received]:
        """Return what is not over, in order."""
        return [event for event in self.items if event.event_key not in self.over]

    def withhold(self, events: Sequence[Received], parked: Sequence[Parking]) -> list[Parking]:
        """Note what did not get its turn; return what of `parked` still has to be parked: not what comes after it in a lane (invariant 5)."""
        keys = {event.event_key for event in events}
        waiting = {item.event_key for item in parked}
        held: set[str] = set()
        self.withheld = []
        for event in self.items:
            lane = self.lane(event)
            if event.event_key in keys or (lane in held and event.event_key in waiting):
                held.add(lane)
                self.withheld.append(event)
                waiting.discard(event.event_key)
        return [item for item in parked if item.event_key in waiting]

    def take_turns(self, events: Sequence[Received]) -> None:
        """Note that these run one by one, in this order."""
        self._turns, self._turn = events, 0

    def turn(self, number: int) -> None:
        """Note which of them runs now."""
        self._turn = number + 1

    def untouched(self) -> list[Received]:
        """Return what has not had its turn, and waits for nothing that has: others may run it."""
        later = self._turns[self._turn :] if self._turn else ()
        keys = {event.event_key for event in later}
        lanes = {self.lane(event) for event in self.left() if event.event_key not in keys}
        return [event for event in later if event.event_key not in self.over and self.lane(event) not in lanes]

    def promote(self, claimed: Sequence[Claimed], events: Sequence[Received]) -> None:
        """Note that these events have lanes of their own now: these are ours."""
        self._parked = frozenset(event.event_key for event in events)
        self.promoted = {lane.lane.replace("-", ""): lane for lane in claimed}

    def is_promoted(self) -> bool:
        """Whether the events have lanes of their own by now."""
        return self.promoted is not None

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Keep the events from being promoted while it is written down that some of them are over; wait until they are, if that has begun."""
        async with self._changing:
            self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

    @asynccontextmanager
    async def promoting(self) -> AsyncIterator[bool]:
        """Keep the events from being settled while they get their lanes; gives False when nothing of them runs any more."""
        if self.closing or self._writing or self._changing.locked():
            yield False
            return
        async with self._changing:
            yield not self.closing

    async def begin(self) -> None:
        """Handlers are about to run: the events may be promoted until these have ended."""
        self.closing = False

    async def settle(self) -> None:
        """Nothing runs: until the next `begin`, the events are either promoted or not, and what became of them can be written down."""
        if not self.settled():
            async with self._changing:
                self.closing = True

    def settled(self) -> bool:
        """Do what `settle` does, if nobody has to be waited for; return whether that is so."""
        if self._changing.locked():
            return False
        self.closing = True
        return True

    def open(self, connection: Connection, subscription_id: int, events: Sequence[Received]) -> dict[int, int]:
        """Insert the inbox rows; return the `Standing` of events that do not run."""
        keys = [event.event_key for event in events]
        promoted = self.promoted or {}
        lanes = [NO_LANE if (lane := self.lane(event)) in promoted else lane for event in events]
        return self._store.inbox.open(connection, subscription_id, keys, lanes)

    def opening_script(self, subscription_id: int, event: Received) -> str | None:
        """Return what `open` does for one event as a script to go with BEGIN."""
        return None if self.promoted is not None else self._store.inbox.opening(subscription_id, event.event_key, self.lane(event))

    def closing_script(self, subscription_id: int, ran: Sequence[Received]) -> str | None:
        """Return what `close` does as a script to go with COMMIT."""
        if self.promoted is not None or not ran:
            return None
        lease = self._lease
        return self._store.inbox.proving(subscription_id, [event.event_key for event in ran], lease.reader, lease.shard, lease.token)

    def not_closed(self, error: BaseException) -> None:
        """Raise what `close` would have raised, if this is what a script of `closing_script` has failed over."""
        unproved = self._store.inbox.unproved(error)
        if unproved == "lease":
            raise LeaseLost(f"another worker reads for {self._lease.reader!r} now") from error
        if unproved == "rows":
            raise TransactionEnded(ENDED) from error

    def close(self, connection: Connection, subscription_id: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
        """Prove that the inbox rows of what ran are there, under the reader's lease or that of the lanes."""
        keys = [event.event_key for event in ran]
        if self.promoted is not None:
            if keys and self._store.inbox.kept(connection, subscription_id, keys) != len(keys):
                raise TransactionEnded(ENDED)
            # Only what ran: what found its key blocked when this transaction was opened waits in its lane for its turn.
            self.finish(connection, ran)
            return
        lease = self._lease
        if not keys or self._store.inbox.prove(connection, subscription_id, keys, lease.reader, lease.shard, lease.token) == len(keys):
            return
        if not self._store.leases.holds(connection, lease):
            raise LeaseLost(f"another worker reads for {self._lease.reader!r} now")
        raise TransactionEnded(ENDED)

    def finish(self, connection: Connection, events: Sequence[Received]) -> None:
        """Take handled events off the lanes that they were promoted to; what was over before is in none."""
        assert self.promoted is not None
        of_lane: dict[str, list[str]] = {}
        for event in events:
            if event.event_key not in self._parked:
                continue
            of_lane.setdefault(self.lane(event), []).append(event.event_key)
        for lane, keys in sorted(of_lane.items()):
            claimed = self.promoted.get(lane)
            if claimed is None or not self._store.lanes.finish(connection, claimed, keys, PROMOTED_LEASE):
                raise LeaseLost("another worker has the lane of a slow event now")


class LaneFence:
    """For deliveries of a lane that this worker has claimed: they leave the lane in the transaction that holds their effects."""

    def __init__(self, store: SQLStore, lane: Claimed, ttl: float) -> None:
        self._store = store
        self._lane = lane
        self._ttl = ttl

    async def begin(self) -> None:
        """A lane's lease is all there is."""

    async def settle(self) -> None:
        """A lane's lease is all there is."""

    def open(self, connection: Connection, subscription_id: int, events: Sequence[Received]) -> dict[int, int]:
        """Insert the inbox rows; return the `Standing` of events that do not run."""
        keys = [event.event_key for event in events]
        self._store.inbox.revive(connection, subscription_id, keys)
        return self._store.inbox.open(connection, subscription_id, keys, [NO_LANE] * len(keys))

    def opening_script(self, subscription_id: int, event: Received) -> None:
        """Return None: more than one statement is needed."""

    def closing_script(self, subscription_id: int, ran: Sequence[Received]) -> None:
        """Return None: more than one statement is needed."""

    def not_closed(self, error: BaseException) -> None:
        """Nothing is closed by a script."""

    def close(self, connection: Connection, subscription_id: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
        """Prove that the inbox rows of what ran are there, and take all of the events off the lane."""
        keys = [event.event_key for event in ran]
        if keys and self._store.inbox.kept(connection, subscription_id, keys) != len(keys):
            raise TransactionEnded(ENDED)
        if not self._store.lanes.finish(connection, self._lane, [event.event_key for event in events], self._ttl):
            raise LeaseLost(f"another worker has the lane of key {self._lane.key!r} now")
