"""Reading the log on PostgreSQL by snapshot difference, as PgQ has batched since 2007.

A reader keeps the snapshot that it has read up to (`previous`). Its next window is what a newer snapshot sees and that one did not, whatever
the commit order, rollbacks, or transactions left open for hours. A small window is read whole by the poll that opens it; a large one is fixed
(`current`) and paged by primary key. See https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from tidings.errors import ReplicaError
from tidings.stores.base import Batch, Mark
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Log"]

_COLUMNS = "position, id, source, name, version, topic, key, headers::text, data::text, time"


class Log:
    """Polls and pages. Invariant 2: nothing is inferred from xids, gaps or the sequence; `pg_visible_in_snapshot` alone decides.

    `tx >= late and tx <= late order by tx, position` is an equality that only the index (tx, position) can serve in that order: with
    `=` and `order by position` the planner may walk the whole primary key for each late xid. A scalar subselect around a snapshot
    makes it an InitPlan, parsed once instead of once a row.
    """

    def __init__(self, names: Names) -> None:
        row = f"o.{_COLUMNS.replace(', ', ', o.')}"
        # Parameters: $1 xmax and $2 xip of `previous`, both taken from its text by the client; $3 the limit.
        # Opens the window between `previous` and now, and is the whole window when it has at most `limit` rows.
        self.poll = Sql(f"""
            with s as materialized (select pg_current_snapshot() as snap)
            select s.snap::text, pg_is_in_recovery(), clock_timestamp(), w.*
            from s left join lateral (
              select {_COLUMNS} from (
                (select o.* from {names.outbox} o
                 where o.tx >= $1::text::xid8 and o.tx < pg_snapshot_xmax(s.snap) and pg_visible_in_snapshot(o.tx, s.snap)
                 order by o.tx, o.position limit $3::int + 1)
                union all
                (select o.* from unnest($2::text[]::xid8[]) l(tx)
                   cross join lateral (
                     select o.* from {names.outbox} o where o.tx >= l.tx and o.tx <= l.tx order by o.tx, o.position limit $3::int + 1) o
                 where pg_visible_in_snapshot(l.tx, s.snap))
              ) u order by position limit $3::int + 1) w on true
            order by w.position
        """)
        # Where a large window starts; $1 and $2 as above, $3 `current`. count(*) keeps the planner from making min() a walk of the key.
        self.floor = Sql(f"""
            select coalesce(min(u.position), 0) - 1, count(*) from (
              select o.position from {names.outbox} o where o.tx >= $1::text::xid8 and o.tx < pg_snapshot_xmax((select $3::text::pg_snapshot))
              union all
              select o.position from unnest($2::text[]::xid8[]) l(tx)
                cross join lateral (
                  select o.position from {names.outbox} o where o.tx >= l.tx and o.tx <= l.tx order by o.tx, o.position) o
              where pg_visible_in_snapshot(l.tx, (select $3::text::pg_snapshot))) u
        """)
        # Pages through a fixed window: $1 position, $2 `previous`, $3 `current`, $4 the limit. Not one condition on tx that an index
        # could serve, so that only the primary key can be used, whatever the statistics say. Says in every row whether the server is in
        # recovery, and gives one row of nulls when there is none.
        self.page = Sql(f"""
            with s as materialized (select pg_is_in_recovery() as replica)
            select w.*, s.replica from s left join lateral (
              select {row} from {names.outbox} o
              where o.position > $1::bigint
                and not pg_visible_in_snapshot(o.tx, (select $2::text::pg_snapshot))
                and pg_visible_in_snapshot(o.tx, (select $3::text::pg_snapshot))
              order by o.position limit $4::int) w on true
            order by w.position
        """)

    def read(self, connection: Connection, mark: Mark, limit: int) -> Batch:
        """Read on from a mark, at most `limit` rows, on an autocommit connection.

        Raises:
            ReplicaError: the server is in recovery, where snapshots hide the transactions that still run; nothing was used.
        """
        if mark.current is not None:
            return self._page(connection, mark, limit, None)
        assert mark.previous is not None
        _, xmax, late = mark.previous.split(":")
        xip = late.split(",") if late else []
        rows = run(connection, Command(self.poll, (xmax, xip, limit)))
        snapshot, replica, clock = rows[0][:3]
        if replica:
            raise ReplicaError("the database server is in recovery (a replica); give SQLStore the primary's address")
        if rows[0][3] is None:
            return Batch([], [], Mark(snapshot, None, 0), clock)
        if len(rows) <= limit:
            found = [row[3:] for row in rows]
            marks = [Mark(mark.previous, snapshot, row[0]) for row in found]
            end = marks[-1] = Mark(snapshot, None, 0)
            return Batch(found, marks, end, clock)
        ((floor, _),) = run(connection, Command(self.floor, (xmax, xip, snapshot)))
        return self._page(connection, Mark(mark.previous, snapshot, floor), limit, clock)

    def _page(self, connection: Connection, mark: Mark, limit: int, clock: Any) -> Batch:
        rows: list[Any] = run(connection, Command(self.page, (mark.position, mark.previous, mark.current, limit)))
        if rows[0][-1]:
            raise ReplicaError("the database server is in recovery (a replica); give SQLStore the primary's address")
        if rows[0][0] is None:
            rows = []
        marks = [Mark(mark.previous, mark.current, row[0]) for row in rows]
        if len(rows) == limit:
            return Batch(rows, marks, marks[-1], clock, more=True)
        end = Mark(mark.current, None, 0)
        if rows:
            marks[-1] = end
        return Batch(rows, marks, end, clock, more=True)
