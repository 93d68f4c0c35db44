"""The store as a model: inbox, lanes, deliveries and one reader's lease in dictionaries, with the methods that the fences call.

Several transactions may be open at a time, as on PostgreSQL: an inbox row that one of them has inserted makes the next one wait
(`Blocked`). Everything else that a transaction changes, it changes in the moment in which it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tidings.stores.base import Batch, Claimed, Delivery, Failure, Lease, Mark, Parking, Standing
from tidings.stores.sql.dialect import SQLITE

__all__ = ["READER", "Blocked", "Lane", "MemoryStore", "Parked", "Transaction"]

READER = "shop/shop@log"
#: When something that does not happen by itself is due: the machine moves time for one row at a time.
FAR = 1_000_000.0


class Blocked(Exception):
    """The statement waits for a row of another transaction."""


class Transaction:
    """One transaction: the inbox rows that nobody else sees yet, and how to undo the rest."""

    def __init__(self) -> None:
        self.inserted: list[tuple[int, str]] = []
        self.undo: list[Any] = []


@dataclass(slots=True)
class Lane:
    """A row of `lanes`. Times are `FAR`, or 0 for what is over."""

    key: str | None
    state: str
    depth: int
    attempts: int
    due: float
    until: float | None = None
    token: int = 0
    owner: str | None = None


@dataclass(slots=True)
class Parked:
    """A row of `deliveries`."""

    item: Parking
    number: int
    lane: str
    attempts: int
    reason: str
    history: str


@dataclass(slots=True)
class Checkpoint:
    """The reader's row."""

    position: int = 0
    token: int = 0
    until: float | None = None
    owner: str | None = None
    high: int = 0
    restarts: int = 0


@dataclass(slots=True)
class MemoryStore:
    """All tables, and the methods of `store.inbox`, `store.lanes`, `store.leases` and `store.repair` on them.

    Attributes:
        writes: how many transactions that changed something were committed.
    """

    dialect = SQLITE
    rows: list[Any] = field(default_factory=list)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    done: dict[tuple[int, str], int] = field(default_factory=dict)
    pending: dict[tuple[int, str], Transaction] = field(default_factory=dict)
    table: dict[tuple[int, str], Lane] = field(default_factory=dict)
    parked: dict[tuple[int, str], Parked] = field(default_factory=dict)
    writes: int = 0
    tokens: int = 0
    numbers: int = 0

    @property
    def inbox(self) -> _Inbox:
        return _Inbox(self)

    @property
    def lanes(self) -> _Lanes:
        return _Lanes(self)

    @property
    def leases(self) -> _Leases:
        return _Leases(self)

    @property
    def log(self) -> _Log:
        return _Log(self)

    @property
    def repair(self) -> _Repair:
        return _Repair(self)

    def commit(self, transaction: Transaction) -> None:
        self.writes += bool(transaction.inserted or transaction.undo)
        for row in transaction.inserted:
            self.done[row] = 0
            del self.pending[row]
        transaction.inserted.clear()
        transaction.undo.clear()

    def rollback(self, transaction: Transaction) -> None:
        for undo in reversed(transaction.undo):
            undo()
        for row in transaction.inserted:
            del self.pending[row]
        transaction.inserted.clear()
        transaction.undo.clear()

    def deliveries(self, subscription: int, lane: str) -> list[Parked]:
        """Return what is in a lane, in order."""
        found = [row for (sub, _), row in self.parked.items() if sub == subscription and row.lane == lane]
        return sorted(found, key=lambda row: row.number)

    def token(self) -> int:
        self.tokens += 1
        return self.tokens


class _Part:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def keep(self, transaction: Transaction, table: dict[Any, Any], key: Any) -> None:
        """Note how to put a row back as it is now."""
        if key in table:
            old = table[key]
            copy = {name: getattr(old, name) for name in old.__slots__} if hasattr(old, "__slots__") else None

            def restore() -> None:
                table[key] = old
                for name, value in (copy or {}).items():
                    setattr(old, name, value)

            transaction.undo.append(restore)
        else:
            transaction.undo.append(lambda: table.pop(key, None))


class _Inbox(_Part):
    def open(self, transaction: Transaction, subscription: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        return self.insert(transaction, subscription, keys, {lane for lane in lanes if (subscription, lane) in self.store.table}, lanes)

    def insert(
        self, transaction: Transaction, subscription: int, keys: Sequence[str], blocked: set[str], lanes: Sequence[str]
    ) -> dict[int, int]:
        """Insert what may run. `blocked` was seen when the statement began; since then it may have waited."""
        others: dict[int, int] = {}
        fresh = []
        for index, (key, lane) in enumerate(zip(keys, lanes, strict=True)):
            row = (subscription, key)
            if lane in blocked:
                others[index] = Standing.DUPLICATE if row in self.store.done else Standing.PARKED
            elif row in self.store.done:
                others[index] = Standing.DUPLICATE
            elif self.store.pending.get(row, transaction) is not transaction:
                raise Blocked
            else:
                fresh.append(row)
        for row in fresh:
            self.store.pending[row] = transaction
            transaction.inserted.append(row)
        return others

    def standing(self, transaction: Transaction, subscription: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        found: dict[int, int] = {}
        for index, (key, lane) in enumerate(zip(keys, lanes, strict=True)):
            if (subscription, key) in self.store.done:
                found[index] = Standing.DUPLICATE
            elif (subscription, lane) in self.store.table:
                found[index] = Standing.PARKED
        return found

    def kept(self, transaction: Transaction, subscription: int, keys: Sequence[str]) -> int:
        return sum((subscription, key) in transaction.inserted for key in keys)

    def prove(self, transaction: Transaction, subscription: int, keys: Sequence[str], reader: str, shard: int, token: int) -> int:
        return self.kept(transaction, subscription, keys) if token == self.store.checkpoint.token else 0

    def present(self, transaction: Transaction, subscription: int, keys: Sequence[str]) -> int:
        return sum((subscription, key) in self.store.done or (subscription, key) in transaction.inserted for key in keys)

    def handled(self, transaction: Transaction, subscription: int, keys: Sequence[str]) -> int:
        return sum(self.store.done.get((subscription, key), 3) != 3 or (subscription, key) in transaction.inserted for key in keys)

    def revive(self, transaction: Transaction, subscription: int, keys: Sequence[str]) -> None:
        for row in [(subscription, key) for key in keys if self.store.done.get((subscription, key)) == 3]:
            if row in self.store.pending:
                raise Blocked
            self.keep(transaction, self.store.done, row)
            del self.store.done[row]

    def record(self, transaction: Transaction, subscription: int, keys: Sequence[str], outcome: int) -> None:
        for key in keys:
            row = (subscription, key)
            if row in self.store.done or row in transaction.inserted:
                continue
            if row in self.store.pending:
                raise Blocked
            self.keep(transaction, self.store.done, row)
            self.store.done[row] = outcome


class _Leases(_Part):
    def acquire(self, transaction: Transaction, reader: str, owner: str, ttl: float) -> Lease | None:
        row = self.store.checkpoint
        if row.until == FAR and row.owner != owner:
            return None
        row.token, row.until, row.owner, row.restarts = row.token + 1, FAR, owner, row.restarts + 1
        return Lease(reader, 0, row.token, Mark(None, None, row.position), row.high, row.restarts)

    def renew(self, transaction: Transaction, lease: Lease, ttl: float) -> bool:
        if not self.holds(transaction, lease):
            return False
        self.store.checkpoint.until = FAR
        return True

    def release(self, transaction: Transaction, lease: Lease, restarts: int = 0) -> None:
        row = self.store.checkpoint
        if self.holds(transaction, lease):
            row.until = row.owner = None
            row.restarts = restarts

    def holds(self, transaction: Transaction, lease: Lease) -> bool:
        return lease.token == self.store.checkpoint.token

    def move(self, transaction: Transaction, lease: Lease, mark: Mark, high: int, *, same_window: bool) -> bool:
        if not self.holds(transaction, lease):
            return False
        self.store.checkpoint.position = mark.position
        self.store.checkpoint.high = max(self.store.checkpoint.high, high)
        self.store.checkpoint.restarts = 0
        return True


class _Log(_Part):
    def read(self, transaction: Transaction, mark: Mark, limit: int) -> Batch:
        rows = [row for row in self.store.rows if row[0] > mark.position][:limit]
        marks = [Mark(None, None, row[0]) for row in rows]
        return Batch(rows, marks, marks[-1] if marks else mark, "2026-01-01T00:00:00Z", more=len(rows) == limit)


class _Lanes(_Part):
    def park(
        self, transaction: Transaction, subscription: int, items: Sequence[Parking], *, ttl: float = 0.0, owner: str | None = None
    ) -> list[Claimed]:
        store = self.store
        first: dict[str, Parking] = {}
        for item in items:
            first.setdefault(item.lane, item)
        claimed: list[Claimed] = []
        for item in first.values():
            token = store.token() if owner is not None else 0
            if (subscription, item.lane) not in store.table:
                self.keep(transaction, store.table, (subscription, item.lane))
                due = FAR if item.delay else 0.0
                until = FAR if owner is not None else None
                store.table[subscription, item.lane] = Lane(item.key, item.state, 0, item.attempts, due, until, token, owner)
                if owner is not None:
                    claimed.append(Claimed(subscription, item.lane, item.key, token, item.attempts, 0))
        for item in items:
            if (subscription, item.event_key) not in store.parked:
                self.keep(transaction, store.parked, (subscription, item.event_key))
                self.keep(transaction, store.table, (subscription, item.lane))
                store.numbers += 1
                store.parked[subscription, item.event_key] = Parked(
                    item, store.numbers, item.lane, item.attempts, item.reason, item.history
                )
                store.table[subscription, item.lane].depth += 1
        for lane in first:
            # A lane has a head: none is made for what is parked in another one.
            if store.table[subscription, lane].depth == 0:
                del store.table[subscription, lane]
                claimed = [each for each in claimed if each.lane != lane]
        return claimed

    def due(self, subscriptions: Sequence[int]) -> list[tuple[int, str]]:
        """Return the lanes that a claim may take."""
        return [
            place
            for place, row in self.store.table.items()
            if place[0] in subscriptions and row.state == "retrying" and row.due < FAR and row.until != FAR
        ]

    def take(self, transaction: Transaction, place: tuple[int, str], owner: str) -> Claimed:
        """Claim one lane that is due."""
        self.keep(transaction, self.store.table, place)
        row = self.store.table[place]
        row.token, row.until, row.owner = self.store.token(), FAR, owner
        row.attempts += 1
        return Claimed(place[0], place[1], row.key, row.token, row.attempts, row.depth)

    def load(self, transaction: Transaction, claimed: Claimed, limit: int) -> list[Delivery]:
        found = []
        for row in self.store.deliveries(claimed.subscription_id, claimed.lane)[:limit]:
            item = row.item
            found.append(
                Delivery(
                    item.event_key, item.event_id, item.source, item.name, item.version, item.topic, item.key, item.time, item.sequence,
                    item.headers, item.data, row.reason, row.attempts, row.history,
                )
            )  # fmt: skip
        return found

    def _mine(self, transaction: Transaction, lane: Claimed) -> Lane | None:
        place = (lane.subscription_id, lane.lane)
        row = self.store.table.get(place)
        if row is None or row.token != lane.token:
            return None
        self.keep(transaction, self.store.table, place)
        return row

    def finish(self, transaction: Transaction, lane: Claimed, keys: list[str], ttl: float) -> bool:
        row = self._mine(transaction, lane)
        if row is None:
            return False
        row.depth, row.attempts, row.due, row.until = row.depth - len(keys), 1, 0.0, FAR
        for key in keys:
            if (lane.subscription_id, key) not in self.store.parked:
                return False
            self.keep(transaction, self.store.parked, (lane.subscription_id, key))
            del self.store.parked[lane.subscription_id, key]
        self._close(lane, row)
        return True

    def _close(self, lane: Claimed, row: Lane) -> None:
        if row.depth == 0:
            del self.store.table[lane.subscription_id, lane.lane]

    def release(self, transaction: Transaction, lane: Claimed, *, state: str, attempts: int, delay: float) -> bool:
        row = self._mine(transaction, lane)
        if row is None:
            return False
        row.state, row.attempts, row.due, row.until, row.owner = state, attempts, FAR if delay else 0.0, None, None
        return True

    def detach(self, transaction: Transaction, lane: Claimed, event_key: str, attempts: int) -> bool:
        row = self._mine(transaction, lane)
        if row is None:
            return False
        store, aside = self.store, (lane.subscription_id, event_key)
        row.depth, row.attempts, row.due, row.until, row.owner = row.depth - 1, 0, 0.0, None, None
        assert aside not in store.table
        self.keep(transaction, store.table, aside)
        self.keep(transaction, store.parked, aside)
        store.table[aside] = Lane(lane.key, "dead", 1, attempts, 0.0)
        store.parked[aside].lane = event_key
        self._close(lane, row)
        return True

    def recount(self, transaction: Transaction, lane: Claimed) -> None:
        row = self._mine(transaction, lane)
        if row is not None:
            row.depth = len(self.store.deliveries(lane.subscription_id, lane.lane))
            self._close(lane, row)

    def explain(
        self, transaction: Transaction, lane: Claimed, event_key: str, reason: str, attempts: int, history: str, failure: Failure
    ) -> None:
        self.keep(transaction, self.store.parked, (lane.subscription_id, event_key))
        row = self.store.parked[lane.subscription_id, event_key]
        row.reason, row.attempts, row.history = reason, attempts, history

    def renew(self, transaction: Transaction, lane: Claimed, ttl: float) -> bool:
        row = self._mine(transaction, lane)
        if row is None or row.until is None:
            return False
        row.until = FAR
        return True


class _Repair(_Part):
    def redrive(self, transaction: Transaction, place: tuple[int, str]) -> None:
        """Let one dead lane be tried again from its head."""
        row = self.store.table[place]
        self.keep(transaction, self.store.table, place)
        row.state, row.attempts, row.due, row.until, row.owner = "retrying", 0, 0.0, None, None

    def discard(self, transaction: Transaction, place: tuple[int, str], *, whole: bool) -> list[str]:
        """Give up the head of a dead lane, or all of it; return which events."""
        row = self.store.table[place]
        self.keep(transaction, self.store.table, place)
        gone = self.store.deliveries(*place)[: None if whole else 1]
        for parked in gone:
            key = (place[0], parked.item.event_key)
            self.keep(transaction, self.store.parked, key)
            del self.store.parked[key]
            if key not in self.store.done:
                self.keep(transaction, self.store.done, key)
                self.store.done[key] = 2
        row.depth -= len(gone)
        row.state, row.attempts, row.due, row.until, row.owner = "retrying", 0, 0.0, None, None
        if row.depth <= 0:
            del self.store.table[place]
        return [parked.item.event_key for parked in gone]
