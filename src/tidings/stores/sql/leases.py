"""Leases and checkpoints of readers and of leased tasks. Leases use the database clock, and every write carries the token (invariant 7)."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.stores.base import Lease, Mark
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Leases"]


class Leases:
    """Acquire, renew, release; move the checkpoint. Each is one statement."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        windows = dialect.name == "postgresql"
        self.windows = windows
        reader = f"reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')}"
        mine = f"{reader} and lease_token = {typed('$3', 'bigint')}"
        mark = "previous::text, current::text, position, place" if windows else "null, null, position, place"
        # `restarts` counts acquisitions without progress; the first move of the checkpoint clears it. A worker may take over from itself.
        self.acquire_ = Sql(f"""
            update {names.checkpoints}
            set owner = {typed("$3", "text")}, lease_token = lease_token + 1, lease_until = {dialect.after("$4")}, restarts = restarts + 1
            where {reader} and state = 'active'
              and (lease_until is null or lease_until < {dialect.now} or owner = {typed("$3", "text")})
            returning lease_token, {mark}, high, restarts
        """)
        self.renew_ = Sql(
            f"update {names.checkpoints} set lease_until = {dialect.after('$4')} where {mine} and state = 'active' returning shard"
        )
        self.release_ = Sql(
            f"update {names.checkpoints} set lease_until = null, owner = null, restarts = {typed('$4', 'int')} where {mine}"
        )
        # Nobody takes the lease before the transaction that asks ends. One that goes no further, because its process was paused, is ended by
        # the server: otherwise the lease would be held by who cannot renew it.
        bounded = "set_config('idle_in_transaction_session_timeout', '5s', true)"
        self.held = Sql(f"select {bounded if windows else 1} from {names.checkpoints} where {mine}{' for share' if windows else ''}")
        highest = "greatest" if windows else "max"
        self.move_place = Sql(f"""
            update {names.checkpoints} set place = {typed("$4", "text")}, restarts = 0, moved_at = {dialect.now} where {mine} returning shard
        """)
        moved = f"high = {highest}(high, {typed('$5', 'bigint')}), restarts = 0, moved_at = {dialect.now} where {mine} returning shard"
        self.move_position = Sql(f"update {names.checkpoints} set position = {typed('$4', 'bigint')}, {moved}")
        self.move_window = Sql(f"""
            update {names.checkpoints}
            set position = $4::bigint, previous = $6::text::pg_snapshot, current = $7::text::pg_snapshot, {moved}
        """)

    def acquire(self, connection: Connection, reader: str, owner: str, ttl: float, shard: int = 0) -> Lease | None:
        """Take the lease for `ttl` seconds if nobody else holds it; return it with the checkpoint, or None."""
        rows = run(connection, Command(self.acquire_, (reader, shard, owner, ttl)))
        if not rows:
            return None
        token, previous, current, position, place, high, restarts = rows[0]
        return Lease(reader, shard, token, Mark(previous, current, position, place), high, restarts)

    def renew(self, connection: Connection, lease: Lease, ttl: float) -> bool:
        """Hold the lease for `ttl` more seconds; False when it is lost."""
        return bool(run(connection, Command(self.renew_, (lease.reader, lease.shard, lease.token, ttl))))

    def release(self, connection: Connection, lease: Lease, restarts: int = 0) -> None:
        """Give the lease up, if it is still held."""
        run(connection, Command(self.release_, (lease.reader, lease.shard, lease.token, restarts)))

    def holds(self, connection: Connection, lease: Lease) -> bool:
        """Return whether the lease is still ours, and stays ours until the transaction ends: the last statement of a fenced transaction."""
        return bool(run(connection, Command(self.held, (lease.reader, lease.shard, lease.token))))

    def move(self, connection: Connection, lease: Lease, mark: Mark, high: int, *, same_window: bool) -> bool:
        """Move the checkpoint; False when the lease is lost. Inside one window only the position is written."""
        if mark.place is not None:
            return bool(run(connection, Command(self.move_place, (lease.reader, lease.shard, lease.token, mark.place))))
        arguments: tuple[object, ...] = (lease.reader, lease.shard, lease.token, mark.position, high)
        if same_window or not self.windows:
            return bool(run(connection, Command(self.move_position, arguments)))
        return bool(run(connection, Command(self.move_window, (*arguments, mark.previous, mark.current))))
