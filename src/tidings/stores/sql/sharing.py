"""Reading for a group side by side, where a broker divides the messages: nobody is kept out, and everybody can see who is there."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.stores.base import Lease, Mark
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Sharing"]


class Sharing:
    """One row for the group, and one for each reader.

    All readers share the token of the group's row: it is raised when the group's subscriptions change, and says then that everybody has to look
    again (invariant 6). The row of a reader outlives only one that has crashed.

    Each statement stands for itself, in autocommit: a process that is paused between two of them must not hold the group's row, for which whoever
    starts would have to wait.
    """

    def __init__(self, names: Names, dialect: Dialect) -> None:
        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        text = typed("$1", "text")
        alive = f"owner = {typed('$2', 'text')}, lease_until = {dialect.after('$3')}"
        mine = f"reader = {text} || '#' || {typed('$2', 'text')} and shard = 0"
        columns = "reader, shard, service, group_name, kind, owner, lease_until" + ("" if dialect.name == "postgresql" else ", moved_at")
        clock = "" if dialect.name == "postgresql" else f", {dialect.now}"
        # Who wrote last, and when, tells that somebody is there.
        self.touch = Sql(
            f"update {names.checkpoints} set {alive} where reader = {text} and shard = 0 and state = 'active' returning lease_token"
        )
        self.enter = Sql(f"""
            insert into {names.checkpoints} ({columns})
            select reader || '#' || {typed("$2", "text")}, 0, service, group_name, 'session', {typed("$2", "text")}, {dialect.after("$3")}{clock}
            from {names.checkpoints} where reader = {text} and shard = 0
            on conflict (reader, shard) do update set lease_until = excluded.lease_until
        """)
        crashed = f"kind = 'session' and substr(reader, 1, length({text}) + 1) = {text} || '#' and lease_until < {dialect.now}"
        self.crashed = Sql(f"select count(*) from {names.checkpoints} where {crashed}")
        self.remain = Sql(f"update {names.checkpoints} set lease_until = {dialect.after('$3')} where {mine}")
        self.forgive_ = Sql(f"delete from {names.checkpoints} where {crashed}")
        self.go = Sql(f"delete from {names.checkpoints} where {mine}")
        self.gone = Sql(
            f"update {names.checkpoints} set owner = null, lease_until = null where reader = {text} and shard = 0 and owner = {typed('$2', 'text')}"
        )

    def join(self, connection: Connection, reader: str, worker: str, ttl: float) -> Lease | None:
        """Read for a group beside others; None when the group is retired. Its `restarts` are how many readers have crashed lately, and this one."""
        rows = run(connection, Command(self.touch, (reader, worker, ttl)))
        if not rows:
            return None
        run(connection, Command(self.enter, (reader, worker, ttl)))
        ((crashed,),) = run(connection, Command(self.crashed, (reader,)))
        return Lease(reader, 0, rows[0][0], Mark(None, None, 0), 0, int(crashed) + 1)

    def stay(self, connection: Connection, lease: Lease, worker: str, ttl: float) -> bool:
        """Say that this worker still reads; False when the token has been raised, or the group is retired."""
        rows = run(connection, Command(self.touch, (lease.reader, worker, ttl)))
        run(connection, Command(self.remain, (lease.reader, worker, ttl)))
        return bool(rows) and rows[0][0] == lease.token

    def forgive(self, connection: Connection, lease: Lease) -> None:
        """Forget who has crashed: what they can have had in memory is finished."""
        run(connection, Command(self.forgive_, (lease.reader,)))

    def leave(self, connection: Connection, lease: Lease, worker: str) -> None:
        """Say that this worker has ended in good order; others may go on."""
        run(connection, Command(self.go, (lease.reader, worker)))
        run(connection, Command(self.gone, (lease.reader, worker)))
