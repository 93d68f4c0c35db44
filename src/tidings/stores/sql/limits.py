"""Permits and token buckets that all processes share. Times are the database's, as those of leases are (invariant 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection

from tidings.stores.base import Claim, Verdict
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Limits", "Usage"]

#: How long a transaction may have a limit's row and say nothing, as PostgreSQL reads it. It takes a few milliseconds.
_MOST_IDLE = "3s"


class Usage(NamedTuple):
    """What one process has of a limit; without an owner, a limit of which nobody has permits now.

    Attributes:
        scope: the limit's name.
        ahead: seconds from now until when its rate is used up; 0 when it is not.
        host, pid: where the owner runs, if it is alive.
        held, wanted: permits that it has, and how many it wants, those included.
    """

    scope: str
    ahead: float
    owner: str | None
    host: str | None
    pid: int | None
    held: int
    wanted: int


class Limits:
    """One row for each limit is its lock and its bucket; permits belong to a process as long as it renews them."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self.dialect = dialect
        pg = dialect.name == "postgresql"
        typed = dialect.cast
        scope = f"scope = {typed('$1', 'text')}"
        ahead = (
            "extract(epoch from spent_until - clock_timestamp())::float8" if pg else "(julianday(spent_until) - julianday('now')) * 86400.0"
        )
        self.add = Sql(f"insert into {names.limits} (scope) values ($1) on conflict do nothing")
        # Whoever asks has the row's lock until the transaction ends: what it reads of permits is what all others have. The server ends the
        # session of one that is paused in the middle: all others would wait until it goes on.
        hurry = f", set_config('idle_in_transaction_session_timeout', '{_MOST_IDLE}', true)"
        self.lock = Sql(
            f"select {dialect.now}{'::text' if pg else ''}, {ahead}{hurry if pg else ''} from {names.limits} "
            f"where {scope}{' for update' if pg else ''}"
        )
        later = "$2::text::timestamptz + $3::float8 * interval '1 second'" if pg else "strftime('%Y-%m-%dT%H:%M:%fZ', $2, $3 || ' seconds')"
        self.spend = Sql(f"update {names.limits} set spent_until = {later} where {scope}")
        self.others = Sql(f"""
            select held, wanted from {names.permits} where {scope} and owner <> {typed("$2", "text")} and lease_until >= {dialect.now}
        """)
        self.expire = Sql(f"delete from {names.permits} where {scope} and lease_until < {dialect.now}")
        self.keep = Sql(f"""
            insert into {names.permits} (scope, owner, held, wanted, lease_until)
            values ($1, $2, {typed("$3", "int")}, {typed("$4", "int")}, {dialect.after("$5")})
            on conflict (scope, owner) do update set held = excluded.held, wanted = excluded.wanted, lease_until = excluded.lease_until
        """)
        worker = "w.id::text" if pg else "w.id"
        self.usage_ = Sql(f"""
            select l.scope, {ahead.replace("spent_until", "l.spent_until")}, p.owner, w.host, w.pid, p.held, p.wanted
            from {names.limits} l
            left join {names.permits} p on p.scope = l.scope and p.lease_until >= {dialect.now}
            left join {names.workers} w on {worker} = p.owner
            order by l.scope, p.owner limit 500
        """)
        self.drop = Sql(f"delete from {names.permits} where {scope} and owner = {typed('$2', 'text')}")

    def usage(self, connection: Connection) -> list[Usage]:
        """Return who uses what; at most 500 lines."""
        return [
            Usage(row[0], max(float(row[1] or 0.0), 0.0), row[2], row[3], row[4], row[5] or 0, row[6] or 0)
            for row in run(connection, Command(self.usage_, ()))
        ]

    def ask(
        self, connection: Connection, scope: str, owner: str, ttl: float, decide: Callable[[float | None, list[Claim]], Verdict]
    ) -> None:
        """Let a decision be made on what is there, and write it down; permits are the owner's for `ttl` seconds. Needs a transaction.

        Args:
            decide: is told until how many seconds from now the bucket is paid for (None: it is new), and what other processes claim.
        """
        rows = run(connection, Command(self.lock, (scope,)))
        if not rows:
            run(connection, Command(self.add, (scope,)))
            rows = run(connection, Command(self.lock, (scope,)))
        now, ahead = rows[0][:2]
        verdict = decide(ahead, [Claim(*row) for row in run(connection, Command(self.others, (scope, owner)))])
        if verdict.mine is not None and verdict.mine.wanted + verdict.mine.held > 0:
            run(connection, Command(self.keep, (scope, owner, *verdict.mine, ttl)))
        elif verdict.mine is not None:
            run(connection, Command(self.drop, (scope, owner)))
            run(connection, Command(self.expire, (scope,)))
        if verdict.ahead is not None:
            run(connection, Command(self.spend, (scope, now, verdict.ahead)))
