"""Reading a part of the log again, by position, up to where it was when the replay began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["History"]


class History:
    """Positions order a key for good once its transactions have ended (key locks), so a fixed interval is read by primary key alone.

    The end of the interval is taken below every position whose transaction may still run: `high` of the replay's checkpoint.
    """

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self.dialect = dialect
        pg = dialect.name == "postgresql"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        # What a running transaction has inserted is not visible, and is not part of the interval: the live reader delivers it.
        clock = "" if pg else f", {dialect.now}"
        moved_at = "" if pg else ", moved_at"
        self.begin_ = Sql(f"""
            insert into {names.checkpoints} (reader, shard, service, group_name, kind, high{moved_at})
            values ($1, 0, $2, $3, 'replay', (select coalesce(max(position), 0) from {names.outbox}){clock})
            on conflict do nothing
        """)
        self.end_of = Sql(f"select high from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = 0")
        self.delete = Sql(f"delete from {names.checkpoints} where reader = {typed('$1', 'text')} and kind = 'replay'")
        columns = "position, id, source, name, version, topic, key, headers, data, time"
        if pg:
            columns = columns.replace("headers, data", "headers::text, data::text")
        self.page_ = Sql(f"""
            select {columns} from {names.outbox}
            where position > {typed("$1", "bigint")} and position <= {typed("$2", "bigint")} and {dialect.among("name", "$3", "text")}
              and ({typed("$4", "timestamptz")} is null or time >= {typed("$4", "timestamptz")})
              and ({typed("$5", "timestamptz")} is null or time < {typed("$5", "timestamptz")})
              and ({typed("$6", "text")} is null or key = {typed("$6", "text")})
            order by position limit {typed("$7", "int")}
        """)
        self.forget_ = Sql(f"""
            delete from {names.inbox} where event_key = {typed("$2", "uuid" if pg else "text")} and subscription_id = {typed("$1", "int")}
        """)

    def begin(self, connection: Connection, reader: str, service: str, group: str) -> int:
        """Make the replay's checkpoint if it is new; return the last position that it will reach."""
        run(connection, Command(self.begin_, (reader, service, group)))
        ((end,),) = run(connection, Command(self.end_of, (reader,)))
        return int(end)

    def page(
        self, connection: Connection, position: int, end: int, names: Sequence[str], interval: tuple[datetime | None, datetime | None, str | None],
        limit: int,
    ) -> list[Any]:  # fmt: skip
        """Return the next rows of the interval; see `stores.base.Batch` for their columns."""
        since, until, key = interval
        arguments = (position, end, self.dialect.items(names), self._time(since), self._time(until), key, limit)
        return run(connection, Command(self.page_, arguments))

    def end(self, connection: Connection, reader: str) -> None:
        """Forget a replay that is over."""
        run(connection, Command(self.delete, (reader,)))

    def forget(self, connection: Connection, subscription_id: int, event_key: str) -> None:
        """Take an event out of the inbox."""
        run(connection, Command(self.forget_, (subscription_id, event_key)))

    def _time(self, value: datetime | None) -> datetime | str | None:
        if value is None or self.dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
