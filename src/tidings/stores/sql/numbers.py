"""Short numbers of workers, so that each row of the inbox can say who handled the event."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.stores.base import Lease
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["HIGHEST", "WorkerNumbers"]

#: What a `smallint` holds, which costs a row of the inbox nothing.
HIGHEST = 32_767


class WorkerNumbers:
    """Numbers go round, and one that is taken is left out: who has stopped keeps his as long as the inbox may name him."""

    def __init__(self, names: Names, dialect: Dialect, lock_class: int) -> None:
        pg = dialect.name == "postgresql"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        numbers = names.worker_numbers
        # Slots are 0 to 2047; -1 is the registry's lock, -2 is ours.
        self.alone = Sql(f"select pg_advisory_xact_lock({lock_class}, -2)") if pg else None
        last = f"(select number from {numbers} order by started_at desc, number desc limit 1)"
        self.draw_ = Sql(f"""
            insert into {numbers} (number, worker, service, host, pid{"" if pg else ", started_at"})
            select n, {typed("$1", "uuid")}, {typed("$2", "text")}, {typed("$3", "text")}, {typed("$4", "int")}{"" if pg else f", {dialect.now}"}
            from (select 1 as n union select number + 1 from {numbers} where number < {HIGHEST}) c
            where not exists (select 1 from {numbers} t where t.number = c.n)
            order by n <= coalesce({last}, 0), n limit 1
            returning number
        """)
        held = (
            f"exists (select 1 from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')} "
            f"and lease_token = {typed('$3', 'bigint')})"
        )
        self.gone_ = Sql(f"""
            update {numbers} set gone_at = {dialect.now}
            where gone_at is null and {held} and not exists (select 1 from {names.workers} w where w.id = {numbers}.worker)
        """)
        self.back_ = Sql(f"""
            update {numbers} set gone_at = null
            where gone_at is not null and {held} and exists (select 1 from {names.workers} w where w.id = {numbers}.worker)
        """)
        self.purge_ = Sql(f"""
            delete from {numbers} where number in (
              select number from {numbers} where gone_at < {dialect.after("-1 * $4")} and {held} order by gone_at limit {typed("$5", "int")})
            returning number
        """)

    def draw(self, connection: Connection, worker: str, service: str, host: str, pid: int) -> int | None:
        """Give a worker its number; None when all of them are taken. Needs a transaction."""
        if self.alone is not None:
            run(connection, Command(self.alone, ()))
        rows = run(connection, Command(self.draw_, (worker, service, host, pid)))
        return int(rows[0][0]) if rows else None

    def purge(self, connection: Connection, lease: Lease, retention: float, limit: int) -> int:
        """Delete the numbers of workers that have been gone for this time, at most `limit`; return how many. Needs a transaction."""
        held = (lease.reader, lease.shard, lease.token)
        run(connection, Command(self.gone_, held))
        # One that could not reach the store for a day was forgotten, and has come back.
        run(connection, Command(self.back_, held))
        return len(run(connection, Command(self.purge_, (*held, retention, limit))))
