"""Who has done what to the store: one row for each action of an operator, written in the transaction of what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tidings.stores.base import Lease
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Audit", "Entry"]


class Entry(NamedTuple):
    """One action.

    Attributes:
        time: when it began; `changed_at` when its count or outcome last changed.
        target: what it was meant for, the filter as it was given.
        changed: how many keys, events or subscriptions it has changed so far.
        outcome: `running` between the transactions of a long one, then `done`, `failed: ...` or `cancelled`; it stays `running` if its process is killed.
    """

    number: int
    time: datetime | None
    changed_at: datetime | None
    actor: str
    action: str
    target: dict[str, Any]
    changed: int
    outcome: str


class Audit:
    """The statements on one set of tables. Each method is a function of a synchronous connection."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        typed = dialect.cast
        clock = f"{dialect.now}, {dialect.now}"
        self.add_ = Sql(f"""
            insert into {names.audit} (time, changed_at, actor, action, target, count, outcome)
            values ({clock}, {typed("$1", "text")}, {typed("$2", "text")}, {typed("$3", "json")}, {typed("$4", "bigint")}, {typed("$5", "text")})
            returning number
        """)
        self.change_ = Sql(f"""
            update {names.audit} set count = count + {typed("$2", "bigint")}, outcome = {typed("$3", "text")}, changed_at = {dialect.now}
            where number = {typed("$1", "bigint")}
        """)
        held = (
            f"exists (select 1 from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')} "
            f"and lease_token = {typed('$3', 'bigint')})"
        )
        # Numbers and times rise together, nearly: the first one that is young enough ends the search.
        cutoff = dialect.after("-1 * $4")
        young = f"coalesce((select number from {names.audit} where changed_at >= {cutoff} order by number limit 1), {2**62})"
        self.purge_ = Sql(f"""
            delete from {names.audit} where number in (
              select number from {names.audit} where number < {young} and changed_at < {cutoff} and {held}
              order by number limit {typed("$5", "int")})
            returning number
        """)
        target = "target::text" if dialect.name == "postgresql" else "target"
        columns = f"number, time, changed_at, actor, action, {target}, count, outcome"
        self.list_ = Sql(f"""
            select {columns} from {names.audit} where number < {typed("$1", "bigint")} order by number desc limit {typed("$2", "int")}
        """)
        self.one_ = Sql(f"select {columns} from {names.audit} where number = {typed('$1', 'bigint')}")

    def add(self, connection: Connection, actor: str, action: str, target: Mapping[str, Any], count: int = 0, outcome: str = "done") -> int:
        """Write an action down; return its number."""
        given = json.dumps({name: value for name, value in target.items() if value is not None}, default=str)
        ((number,),) = run(connection, Command(self.add_, (actor, action, given, count, outcome)))
        return int(number)

    def change(self, connection: Connection, number: int, more: int, outcome: str) -> None:
        """Add to the count of an action that goes on, and say how it stands."""
        run(connection, Command(self.change_, (number, more, outcome)))

    def purge(self, connection: Connection, lease: Lease, retention: float, limit: int) -> int:
        """Delete actions that ended more than so many seconds ago, at most `limit`; return how many."""
        return len(run(connection, Command(self.purge_, (lease.reader, lease.shard, lease.token, retention, limit))))

    def list(self, connection: Connection, limit: int, before: int | None = None) -> list[Entry]:
        """Return actions, newest first, those before a number."""
        return [_entry(row) for row in run(connection, Command(self.list_, (2**62 if before is None else before, limit)))]

    def one(self, connection: Connection, number: int) -> Entry | None:
        """Return an action, if there is one of this number."""
        return next((_entry(row) for row in run(connection, Command(self.one_, (number,)))), None)


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(row[0], as_datetime(row[1]), as_datetime(row[2]), row[3], row[4], json.loads(row[5]), int(row[6]), row[7])
