"""The inbox on PostgreSQL: which events a subscription has handled. Insert first, prove last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection

from tidings.publish.failures import sqlstate
from tidings.stores.base import Standing
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.postgresql.literals import array, text
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Inbox"]

#: What an error says that stops the COMMIT behind a proof, and its code: "invalid text representation".
_NO_LEASE, _NOT_WHOLE = "tidings: no lease", "tidings: not whole"
_NO_NUMBER = "22P02"

# A handler may have committed by itself: then the rows are there, and no longer this transaction's.
_OURS = "i.xmin = pg_current_xact_id_if_assigned()::xid"


class Inbox:
    """Invariant 4.

    The inbox row goes in before the handler runs, so that a second worker with the same event waits there; the proof at the end fails in an
    aborted transaction, counts too few after a rollback, and nothing without the lease. Drivers report none of these at COMMIT.

    `event_key` comes first in the key and in conditions: a subscription that no ANALYZE has seen is estimated at one row, and the
    planner would take it alone as the index condition.
    """

    def __init__(self, names: Names) -> None:
        #: The number of the worker that handles events here, by subscription; where there is none, nobody is written down.
        self.workers: dict[int, int] = {}
        self._names = names
        # Only exceptions come back: the place (from 1) of each event that does not run, and why. Rows are looked for by `any` and never by a
        # join: a plan that was made while the inbox was young, and is kept with the statement, would read all of it for each join.
        known = f"select i.event_key from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int"
        blocked = f"select l.lane from {names.lanes} l where l.lane = any($3::text::uuid[]) and l.subscription_id = $1::int"
        self.open_ = Sql(f"""
            with todo as materialized (select u.k, u.l, u.ord from unnest($2::text::uuid[], $3::text::uuid[]) with ordinality u(k, l, ord)),
                 parked as materialized (
                   select t.ord, t.k from todo t where case when t.l in ({blocked}) then t.k not in ({known}) else false end),
                 fresh as (
                   insert into {names.inbox} (event_key, subscription_id, worker)
                   select t.k, $1::int, $4::smallint from todo t where t.ord not in (select p.ord from parked p) order by t.k
                   on conflict do nothing returning event_key)
            select p.ord, {Standing.PARKED} from parked p
            union all
            select t.ord, {Standing.DUPLICATE} from todo t
            where t.ord not in (select p.ord from parked p) and t.k not in (select f.event_key from fresh f)
        """)
        self.look = Sql(f"""
            with known as materialized ({known}), blocked as materialized ({blocked})
            select u.ord, case when u.k in (select event_key from known) then {Standing.DUPLICATE} else {Standing.PARKED} end
            from unnest($2::text::uuid[], $3::text::uuid[]) with ordinality u(k, l, ord)
            where u.k in (select event_key from known) or u.l in (select lane from blocked)
        """)
        self.prove_ = Sql(f"""
            select count(*) from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int and {_OURS}
              and exists (select 1 from {names.checkpoints} c where c.reader = $3::text and c.shard = $4::smallint and c.lease_token = $5::bigint)
        """)
        self.count = Sql(f"select count(*) from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int")
        self.count_ours = Sql(f"""
            select count(*) from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int and {_OURS}
        """)
        self.handled_ = Sql(
            f"select count(*) from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int and outcome <> 3"
        )
        self.revive_ = Sql(
            f"delete from {names.inbox} i where i.event_key = any($2::text::uuid[]) and i.subscription_id = $1::int and outcome = 3"
        )
        self.record_ = Sql(f"""
            insert into {names.inbox} (event_key, subscription_id, outcome, worker)
            select u.k, $1::int, $3::smallint, $4::smallint from unnest($2::text::uuid[]) u(k) order by u.k on conflict do nothing
        """)

    def open(self, connection: Connection, subscription_id: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        """Insert the inbox rows of what may run; return the `Standing` of the others by index. Keys must be distinct."""
        rows = run(connection, Command(self.open_, (subscription_id, array(keys), array(lanes), self.workers.get(subscription_id))))
        return {row[0] - 1: row[1] for row in rows}

    def opening(self, subscription_id: int, key: str, lane: str) -> str:
        """Return what `open` does for one event as a script to go with BEGIN, and the server's answer if the event runs.

        After any other answer nothing was inserted, and `open` says why.
        """
        worker = self.workers.get(subscription_id)
        blocked = f"select from {self._names.lanes} l where l.lane = {text(lane)}::uuid and l.subscription_id = {subscription_id:d}"
        return f"""
            insert into {self._names.inbox} (event_key, subscription_id, worker)
            select {text(key)}::uuid, {subscription_id:d}, {"null" if worker is None else f"{worker:d}"}::smallint
            where not exists ({blocked}) on conflict do nothing
        """

    def proving(self, subscription_id: int, keys: Sequence[str], reader: str, shard: int, token: int) -> str:
        """Return what `prove` does as a script to go with COMMIT: unless all of the rows are there, it fails, and nothing is committed.

        A number is made of a text that is none, because plain SQL has no other way to raise an error. The lease comes first: without it nobody
        asks what became of the rows.
        """
        names = self._names
        lease = f"c.reader = {text(reader)} and c.shard = {shard:d} and c.lease_token = {token:d}"
        rows = f"i.event_key = any({text(array(keys))}::uuid[]) and i.subscription_id = {subscription_id:d} and {_OURS}"
        return f"""
            select (case when not exists (select 1 from {names.checkpoints} c where {lease}) then '{_NO_LEASE}'
                         when (select count(*) from {names.inbox} i where {rows}) <> {len(keys):d} then '{_NOT_WHOLE}' else '0' end)::int
        """

    def unproved(self, error: BaseException) -> Literal["lease", "rows"] | None:
        """Return what a script of `proving` has failed over; None for any other error."""
        if sqlstate(error) != _NO_NUMBER:
            return None
        said = str(error)
        return "lease" if _NO_LEASE in said else "rows" if _NOT_WHOLE in said else None

    def standing(self, connection: Connection, subscription_id: int, keys: Sequence[str], lanes: Sequence[str]) -> dict[int, int]:
        """Return the `Standing` of those that may not run by index, and insert nothing."""
        rows = run(connection, Command(self.look, (subscription_id, array(keys), array(lanes))))
        return {row[0] - 1: row[1] for row in rows}

    def prove(self, connection: Connection, subscription_id: int, keys: Sequence[str], reader: str, shard: int, token: int) -> int:
        """Return how many of the inbox rows that this transaction inserted are still there under the lease of the reader."""
        ((count,),) = run(connection, Command(self.prove_, (subscription_id, array(keys), reader, shard, token)))
        return int(count)

    def kept(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the inbox rows that this transaction inserted are still there."""
        ((count,),) = run(connection, Command(self.count_ours, (subscription_id, array(keys))))
        return int(count)

    def present(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the inbox rows are there, whoever holds which lease."""
        ((count,),) = run(connection, Command(self.count, (subscription_id, array(keys))))
        return int(count)

    def record(self, connection: Connection, subscription_id: int, keys: Sequence[str], outcome: int) -> None:
        """Insert inbox rows with an outcome, where there are none yet."""
        run(connection, Command(self.record_, (subscription_id, array(keys), outcome, self.workers.get(subscription_id))))

    def handled(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> int:
        """Return how many of the events are over; those that were set aside dead are not."""
        ((count,),) = run(connection, Command(self.handled_, (subscription_id, array(keys))))
        return int(count)

    def revive(self, connection: Connection, subscription_id: int, keys: Sequence[str]) -> None:
        """Take out what was set aside dead, in the transaction that runs it again: until that commits, nobody else may."""
        run(connection, Command(self.revive_, (subscription_id, array(keys))))
