"""The rollups that charts are drawn from: what happened, in buckets that become coarser with age.

A bucket is ten seconds wide for an hour, then a minute for a day, then an hour for thirty days; then it is deleted. A bucket is named by its
beginning, and its width follows from nothing but its age: whoever reads groups by the width that it wants to show. So a subscription has a
few ten thousand rows at most, however many events there are.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from sqlalchemy import Connection

from tidings.stores.base import Lease
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["DAYS_KEPT", "FINE", "MINUTES", "Stats", "Width", "buckets"]

#: Seconds for which buckets of ten seconds, and of a minute, are kept; days for which those of an hour are.
FINE, MINUTES = 3600.0, 86400.0
DAYS_KEPT = 30
_FINEST = timedelta(seconds=10)

Width = Literal["minute", "hour"]


def buckets(begin: datetime, end: datetime) -> list[datetime]:
    """Return the beginnings of all buckets between two times, the second one included; of coarser ones that are there, they bear the name, too.

    What reads the table asks for them by name: of an interval whose bounds are parameters a planner expects a third of the table.
    """
    first = begin.replace(second=begin.second // 10 * 10, microsecond=0)
    count = int((end - first) / _FINEST)
    return [bucket for bucket in (first + index * _FINEST for index in range(count + 1)) if bucket >= begin]


class _Roll(NamedTuple):
    """The statements that make buckets coarser: on SQLite the second one deletes what the first has added up."""

    first: Sql
    second: Sql | None


class Stats:
    """Counts by bucket, service, subject and measure."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._pg = pg = dialect.name == "postgresql"
        table = names.plain("stats")
        added = f"on conflict (bucket, service, subject, measure) do update set value = {table}.value + excluded.value"
        columns = f"{names.stats} (bucket, service, subject, measure, value)"
        # Sorted, so that two workers cannot deadlock.
        if pg:
            self.count_ = Sql(f"""
                insert into {columns}
                select to_timestamp(floor(extract(epoch from clock_timestamp()) / 10) * 10), $1::text, x.subject, x.measure, x.value
                from unnest($2::text[], $3::text[], $4::bigint[]) x (subject, measure, value)
                order by x.subject, x.measure
                {added}
            """)
        else:
            self.count_ = Sql(f"""
                insert into {columns}
                select substr(strftime('%Y-%m-%dT%H:%M:%S', 'now'), 1, 18) || '0.000Z', $1,
                       json_extract(x.value, '$[0]'), json_extract(x.value, '$[1]'), json_extract(x.value, '$[2]')
                from json_each($2) x where true
                {added}
            """)
        self._rolls = {"minute": self._roll(names, dialect, "minute", added), "hour": self._roll(names, dialect, "hour", added)}
        held = _held(names, dialect)
        self.forget_ = Sql(f"delete from {names.stats} where bucket < {dialect.after(f'-{DAYS_KEPT * 86400}')} and {held}")

    def _roll(self, names: Names, dialect: Dialect, width: Width, added: str) -> _Roll:
        held = _held(names, dialect)
        columns = f"{names.stats} (bucket, service, subject, measure, value)"
        if self._pg:
            # The cut is where a coarse bucket begins, so that no bucket is added up in parts. What is deleted and what is written are never the
            # same row: a coarse bucket bears the name of its first fine one, which stays.
            return _Roll(
                Sql(f"""
                    with gone as (
                      delete from {names.stats}
                      where bucket < date_trunc('{width}', {dialect.after("-1 * $4")}, 'UTC') and bucket >= {dialect.after("-1 * $5")}
                        and bucket <> date_trunc('{width}', bucket, 'UTC') and {held}
                      returning *)
                    insert into {columns}
                    select date_trunc('{width}', g.bucket, 'UTC'), g.service, g.subject, g.measure, sum(g.value)::bigint from gone g
                    group by 1, 2, 3, 4 order by 1, 2, 3, 4
                    {added}
                """),
                None,
            )
        begins = "substr(bucket, 1, 16) || ':00.000Z'" if width == "minute" else "substr(bucket, 1, 13) || ':00:00.000Z'"
        cut = "%Y-%m-%dT%H:%M:00.000Z" if width == "minute" else "%Y-%m-%dT%H:00:00.000Z"
        which = f"bucket < strftime('{cut}', 'now', (-1 * $4) || ' seconds') and bucket >= {dialect.after('-1 * $5')} and bucket <> {begins} and {held}"
        return _Roll(
            Sql(f"""
                insert into {columns}
                select {begins}, service, subject, measure, sum(value) from {names.stats} where {which} group by 1, 2, 3, 4
                {added}
            """),
            Sql(f"delete from {names.stats} where {which}"),
        )

    def count(self, connection: Connection, service: str, counts: dict[tuple[str, str], int]) -> None:
        """Add to the counts of these ten seconds: `{(subject, measure): n}`."""
        rows = [(subject, measure, value) for (subject, measure), value in sorted(counts.items()) if value]
        if not rows:
            return
        if self._pg:
            subjects, measures, values = (list(column) for column in zip(*rows, strict=True))
            run(connection, Command(self.count_, (service, subjects, measures, values)))
        else:
            run(connection, Command(self.count_, (service, json.dumps(rows))))

    def roll(self, connection: Connection, lease: Lease, width: Width, seconds: float, since: float) -> None:
        """Make buckets coarser that are older than so many seconds and younger than `since`. Needs a transaction."""
        first, second = self._rolls[width]
        arguments = (lease.reader, lease.shard, lease.token, seconds, since)
        run(connection, Command(first, arguments))
        if second is not None:
            run(connection, Command(second, arguments))

    def forget(self, connection: Connection, lease: Lease) -> None:
        """Delete what is older than `DAYS_KEPT`."""
        run(connection, Command(self.forget_, (lease.reader, lease.shard, lease.token)))


def _held(names: Names, dialect: Dialect) -> str:
    typed = dialect.cast
    return (
        f"exists (select 1 from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')} "
        f"and lease_token = {typed('$3', 'bigint')})"
    )
