"""Reading the log on SQLite: one writer at a time, so the order of positions is the order of commits, and position is enough."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.stores.base import Batch, Mark
from tidings.stores.sql.dialect import SQLITE
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Log"]


class Log:
    """Reads by position. AUTOINCREMENT never gives a number out twice, so nothing appears below a position that was read."""

    def __init__(self, names: Names) -> None:
        self.page = Sql(f"""
            select position, id, source, name, version, topic, key, headers, data, time
            from {names.outbox} where position > $1 order by position limit $2
        """)
        self.clock = Sql(f"select {SQLITE.now}")

    def read(self, connection: Connection, mark: Mark, limit: int) -> Batch:
        """Read on from a mark, at most `limit` rows."""
        rows = run(connection, Command(self.page, (mark.position, limit)))
        ((clock,),) = run(connection, Command(self.clock, ()))
        marks = [Mark(None, None, row[0]) for row in rows]
        return Batch(rows, marks, marks[-1] if marks else mark, clock, more=len(rows) == limit)
