"""How the machine reaches its tables: only the model, or a real database with the model beside it, which has to give the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, Engine

from tests.model.memory import FAR, READER, MemoryStore, Transaction
from tidings.stores.base import Batch, Claimed
from tidings.stores.sql.repair import Heads
from tidings.stores.sql.store import SQLStore

__all__ = ["Modelled", "Tables", "Twin"]


class Tables(Protocol):
    """What the world needs of a store. Fences take `store`, whose methods take a transaction of `begin`.

    Attributes:
        concurrent: whether several transactions may be open at a time.
    """

    store: Any
    model: MemoryStore
    concurrent: bool

    def begin(self) -> Any: ...

    def commit(self, transaction: Any) -> None: ...

    def rollback(self, transaction: Any) -> None: ...

    def claim(self, transaction: Any, subscriptions: Sequence[int], owner: str) -> list[Claimed]: ...

    def publish(self, row: tuple[Any, ...]) -> None: ...

    def effect(self, transaction: Any, subscription: int, event_key: str) -> None: ...

    def reader_runs_out(self) -> None: ...

    def lane_runs_out(self, place: tuple[int, str]) -> None: ...

    def lane_comes_due(self, place: tuple[int, str]) -> None: ...

    def redrive(self, place: tuple[int, str]) -> None: ...

    def discard(self, place: tuple[int, str], *, whole: bool) -> list[str]: ...

    def compare(self, effects: Sequence[tuple[int, str]]) -> None: ...

    def close(self) -> None: ...


class Modelled:
    """The model alone."""

    concurrent = True

    def __init__(self) -> None:
        self.store = self.model = MemoryStore()

    def begin(self) -> Transaction:
        return Transaction()

    def commit(self, transaction: Transaction) -> None:
        self.model.commit(transaction)

    def rollback(self, transaction: Transaction) -> None:
        self.model.rollback(transaction)

    def claim(self, transaction: Transaction, subscriptions: Sequence[int], owner: str) -> list[Claimed]:
        due = self.model.lanes.due(subscriptions)
        return [self.model.lanes.take(transaction, due[0], owner)] if due else []

    def publish(self, row: tuple[Any, ...]) -> None:
        self.model.rows.append(row)

    def effect(self, transaction: Transaction, subscription: int, event_key: str) -> None:
        """The world remembers effects itself."""

    def reader_runs_out(self) -> None:
        self.model.checkpoint.until = 0.0

    def lane_runs_out(self, place: tuple[int, str]) -> None:
        self.model.table[place].until = 0.0

    def lane_comes_due(self, place: tuple[int, str]) -> None:
        self.model.table[place].due = 0.0

    def redrive(self, place: tuple[int, str]) -> None:
        transaction = Transaction()
        self.model.repair.redrive(transaction, place)
        self.model.commit(transaction)

    def discard(self, place: tuple[int, str], *, whole: bool) -> list[str]:
        transaction = Transaction()
        gone = self.model.repair.discard(transaction, place, whole=whole)
        self.model.commit(transaction)
        return gone

    def compare(self, effects: Sequence[tuple[int, str]]) -> None:
        """There is nothing to compare with."""

    def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class Both:
    """A transaction of the database, and its twin in the model."""

    sql: Connection
    model: Transaction


class _Part:
    """`store.inbox`, `store.lanes` or `store.leases`: calls both, and wants one answer."""

    def __init__(self, sql: Any, model: Any) -> None:
        self._sql = sql
        self._model = model

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(transaction: Both, *arguments: Any, **keywords: Any) -> Any:
            real = getattr(self._sql, name)(transaction.sql, *arguments, **keywords)
            expected = getattr(self._model, name)(transaction.model, *arguments, **keywords)
            assert _plain(real) == _plain(expected), f"{name}{arguments[1:]}: the database says {real}, the model {expected}"
            return real

        return call


class _TwinStore:
    def __init__(self, sql: SQLStore, model: MemoryStore) -> None:
        self.dialect = sql.dialect
        self.inbox = _Part(sql.inbox, model.inbox)
        self.lanes = _Part(sql.lanes, model.lanes)
        self.leases = _Part(sql.leases, model.leases)
        self.log = _Part(sql.log, model.log)


class Twin:
    """The statements themselves, on a connection for every transaction; the model follows them."""

    concurrent = False

    def __init__(self, engine: Engine, store: SQLStore) -> None:
        self.sql = store
        self.engine = engine
        self.model = MemoryStore()
        self.store = _TwinStore(store, self.model)
        self._open: list[Both] = []

    def begin(self) -> Both:
        connection = self.engine.connect()
        connection.begin()
        both = Both(connection, Transaction())
        self._open.append(both)
        return both

    def commit(self, transaction: Both) -> None:
        transaction.sql.commit()
        transaction.sql.close()
        self.model.commit(transaction.model)
        self._open.remove(transaction)

    def rollback(self, transaction: Both) -> None:
        transaction.sql.rollback()
        transaction.sql.close()
        self.model.rollback(transaction.model)
        self._open.remove(transaction)

    def close(self) -> None:
        for transaction in list(self._open):
            self.rollback(transaction)

    def claim(self, transaction: Both, subscriptions: Sequence[int], owner: str) -> list[Claimed]:
        due = self.model.lanes.due(subscriptions)
        claimed = self.sql.lanes.claim(transaction.sql, subscriptions, 1, FAR, owner)
        assert len(claimed) == min(1, len(due)), f"{claimed} was claimed, and {due} are due"
        for lane in claimed:
            place = (lane.subscription_id, lane.lane.replace("-", ""))
            assert place in due, f"{lane} is not due"
            expected = self.model.lanes.take(transaction.model, place, owner)
            assert _plain(lane) == _plain(expected)
        return claimed

    def publish(self, row: tuple[Any, ...]) -> None:
        self.model.rows.append(row)
        self._run(
            "insert into tidings_outbox (position, id, source, name, version, topic, key, headers, data, time) "
            "values (:0, :1, :2, :3, :4, :5, :6, :7, :8, :9)",
            {str(place): value for place, value in enumerate(row)},
        )

    def effect(self, transaction: Both, subscription: int, event_key: str) -> None:
        transaction.sql.exec_driver_sql("insert into effects (subscription_id, event_key) values (?, ?)", (subscription, event_key))

    def reader_runs_out(self) -> None:
        self.model.checkpoint.until = 0.0
        self._run("update tidings_checkpoints set lease_until = '2020-01-01T00:00:00.000Z' where reader = :reader", {"reader": READER})

    def lane_runs_out(self, place: tuple[int, str]) -> None:
        self.model.table[place].until = 0.0
        self._change(place, "lease_until = '2020-01-01T00:00:00.000Z'")

    def lane_comes_due(self, place: tuple[int, str]) -> None:
        self.model.table[place].due = 0.0
        self._change(place, "due_at = '2020-01-01T00:00:00.000Z'")

    def _change(self, place: tuple[int, str], what: str) -> None:
        subscription, lane = place
        self._run(f"update tidings_lanes set {what} where subscription_id = :subscription and lane = :lane",
                  {"subscription": subscription, "lane": lane})  # fmt: skip

    def redrive(self, place: tuple[int, str]) -> None:
        heads = self._head(place)
        both = self.begin()
        assert self.sql.repair.redrive(both.sql, heads) == 1
        self.model.repair.redrive(both.model, place)
        self.commit(both)

    def discard(self, place: tuple[int, str], *, whole: bool) -> list[str]:
        heads = self._head(place)
        both = self.begin()
        expected = self.model.repair.discard(both.model, place, whole=whole)
        # One lane is one round: what waited behind the head is no longer dead.
        assert self.sql.repair.discard(both.sql, heads, whole=whole).events == len(expected)
        self.commit(both)
        return expected

    def _head(self, place: tuple[int, str]) -> Heads:
        (number,) = self._rows("select min(number) from tidings_deliveries where subscription_id = ? and lane = ?", place)[0]
        return Heads(number=number)

    def _run(self, sql: str, parameters: dict[str, Any]) -> None:
        from sqlalchemy import text

        with self.engine.begin() as connection:
            connection.execute(text(sql), parameters)

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql, tuple(parameters))]

    def compare(self, effects: Sequence[tuple[int, str]]) -> None:
        """Compare what is committed, table by table."""
        if self._open:
            # The model has no second version of a lane that a transaction is changing now; it will be compared when that has ended.
            return
        model = self.model
        now = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
        lanes = self._rows(
            f"select subscription_id, lane, key, state, depth, attempts, due_at > {now}, lease_until is not null, lease_until > {now}, owner "
            "from tidings_lanes order by 1, 2"
        )
        expected = [
            (*place, row.key, row.state, row.depth, row.attempts, int(row.due == FAR), int(row.until is not None),
             None if row.until is None else int(row.until == FAR), row.owner)
            for place, row in sorted(model.table.items())
        ]  # fmt: skip
        assert lanes == expected
        deliveries = self._rows("select subscription_id, lane, event_key, reason, attempts from tidings_deliveries order by number")
        rows = sorted(model.parked.items(), key=lambda item: item[1].number)
        assert deliveries == [(sub, row.lane, key, row.reason, row.attempts) for (sub, key), row in rows]
        inbox = self._rows("select subscription_id, event_key, outcome from tidings_inbox order by 1, 2")
        assert inbox == [(*place, outcome) for place, outcome in sorted(model.done.items())]
        (checkpoint,) = self._rows("select position, high, lease_token, owner from tidings_checkpoints where kind = 'log'")
        row = model.checkpoint
        assert checkpoint == (row.position, row.high, row.token, row.owner)
        assert self._rows("select subscription_id, event_key from effects order by id") == list(effects)


def _plain(value: Any) -> Any:
    """Return an answer in the form in which both give it."""
    if isinstance(value, Claimed):
        # Who had it before is nothing that the model knows.
        return Claimed(*value[:6])._replace(lane=value.lane.replace("-", ""))
    if isinstance(value, Batch):
        return value._replace(clock=None)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
