"""Executed commands: what an idempotency key stands for, and who has done what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection

from tidings.errors import StoreError
from tidings.stores.base import Lease
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["AuditRow", "Commands", "Known"]


class Known(NamedTuple):
    """What an idempotency key stands for: the command's class, what it was made of, and what came out, as JSON."""

    command: str
    fingerprint: str
    result: str | None


class AuditRow(NamedTuple):
    """One execution of a command.

    Attributes:
        command: the name of its class.
        actor: who asked for it, if anybody said so.
        data: its fields as JSON, without what is secret.
        outcome: `succeeded`, `rejected` (not valid, or an `Err`), `failed` (an exception), `rolled back` (it had succeeded inside another that
            did not), or `repeated` (its idempotency key was known).
        milliseconds: how long it took.
    """

    id: str
    service: str
    command: str
    actor: str | None
    idempotency_key: str | None
    data: str
    outcome: str
    error_type: str | None
    error_message: str | None
    started_at: datetime
    milliseconds: int


class Commands:
    """Statements on `command_keys` and `commands`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        pg = dialect.name == "postgresql"
        typed = dialect.cast
        now = "" if pg else f", {dialect.now}"
        # Whoever comes second with a key waits here until the first has committed or rolled back.
        self.claim_ = Sql(f"""
            insert into {names.command_keys} (service, key, command, fingerprint{"" if pg else ", created_at"})
            values ($1, $2, $3, $4{now}) on conflict do nothing returning key
        """)
        which = f"service = {typed('$1', 'text')} and key = {typed('$2', 'text')}"
        self.known_ = Sql(f"select command, fingerprint, result{'::text' if pg else ''} from {names.command_keys} where {which}")
        self.keep_ = Sql(f"update {names.command_keys} set result = {'$3::text::json' if pg else '$3'} where {which}")
        held = (
            f"exists (select 1 from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')} "
            f"and lease_token = {typed('$3', 'bigint')})"
        )
        rows, chosen = ("ctid", "ctid") if pg else ("(service, key)", "service, key")
        self.purge_keys_ = Sql(f"""
            delete from {names.command_keys} where {rows} in (
              select {chosen} from {names.command_keys} where created_at < {dialect.after("-1 * $4")} and {held}
                and ({dialect.among("service", "$6", "text")}) <> {typed("$7", "bool")}
              limit {typed("$5", "int")})
            returning key
        """)
        self.purge_audit_ = Sql(f"""
            delete from {names.commands} where id in (
              select id from {names.commands}
              where service = {typed("$6", "text")} and started_at < {dialect.after("-1 * $4")} and {held} limit {typed("$5", "int")})
            returning id
        """)
        self.audit_ = Sql(f"""
            insert into {names.commands}
              (id, service, command, actor, idempotency_key, data, outcome, error_type, error_message, started_at, milliseconds)
            values ({typed("$1", "uuid")}, $2, $3, $4, $5, {"$6::text::json" if pg else "$6"}, $7, $8, $9,
                    {typed("$10", "timestamptz")}, {typed("$11", "int")})
        """)
        data = "data::text" if pg else "data"
        identity = "id::text" if pg else "id"

        def given(parameter: str, kind: str, condition: str) -> str:
            return f"({typed(parameter, kind)} is null or {condition} {typed(parameter, kind)})"

        self.audited_ = Sql(f"""
            select {identity}, service, command, actor, idempotency_key, {data}, outcome, error_type, error_message, started_at, milliseconds
            from {names.commands}
            where service = {typed("$1", "text")} and {given("$2", "text", "command =")} and {given("$3", "text", "actor =")}
              and {given("$4", "text", "outcome =")} and {given("$5", "timestamptz", "started_at >=")}
              and {given("$6", "timestamptz", "started_at <")}
            order by started_at desc, id desc limit {typed("$7", "int")}
        """)
        self.dialect = dialect

    def claim(self, connection: Connection, service: str, key: str, command: str, fingerprint: str) -> Known | None:
        """Take an idempotency key; return what it stands for if somebody has taken it before. Waits for a transaction that is taking it.

        Raises:
            StoreError: it was taken by a transaction that this one cannot see.
        """
        if run(connection, Command(self.claim_, (service, key, command, fingerprint))):
            return None
        rows = run(connection, Command(self.known_, (service, key)))
        if not rows:
            raise StoreError(
                f"the idempotency key {key!r} was taken by a transaction that this one cannot see: use READ COMMITTED, or try the whole again"
            )
        return Known(*rows[0])

    def keep(self, connection: Connection, service: str, key: str, result: str) -> None:
        """Keep what a command has come to under its key."""
        run(connection, Command(self.keep_, (service, key, result)))

    def purge_keys(
        self, connection: Connection, lease: Lease, retention: float, limit: int, services: Sequence[str] = (), others: bool = True
    ) -> int:
        """Forget keys that are older than so many seconds, at most `limit`; return how many.

        Args:
            services: whose keys; or, with `others`, whose keys not.
        """
        arguments = (lease.reader, lease.shard, lease.token, retention, limit, self.dialect.items(services), others)
        return len(run(connection, Command(self.purge_keys_, arguments)))

    def purge_audit(self, connection: Connection, lease: Lease, service: str, retention: float, limit: int) -> int:
        """Delete executions of a service's commands that began more than so many seconds ago, at most `limit`; return how many."""
        arguments = (lease.reader, lease.shard, lease.token, retention, limit, service)
        return len(run(connection, Command(self.purge_audit_, arguments)))

    def audit(self, connection: Connection, row: AuditRow) -> None:
        """Write down one execution."""
        run(connection, Command(self.audit_, (*row[:9], self._time(row.started_at), row.milliseconds)))

    def audited(
        self,
        connection: Connection,
        service: str,
        command: str | None,
        actor: str | None,
        outcome: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
    ) -> Sequence[AuditRow]:
        """Return executions, the newest first."""
        arguments = (service, command, actor, outcome, self._time(since), self._time(until), limit)
        rows = run(connection, Command(self.audited_, arguments))
        return [AuditRow._make((*row[:9], as_datetime(row[9]), row[10])) for row in rows]

    def _time(self, value: datetime | None) -> datetime | str | None:
        if value is None or self.dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
