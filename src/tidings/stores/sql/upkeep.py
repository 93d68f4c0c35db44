"""Leased and periodic work: moving scheduled events into the log, purging, heartbeats."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from tidings.stores.base import Dropped, Lease, Retention
from tidings.stores.sql.attempts import Leaving
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import SHARED
from tidings.stores.sql.statement import Command, Sql

__all__ = ["ALERTS", "PURGER", "Upkeep"]

#: The lease of whoever purges; its checkpoint also keeps the retentions of every service.
PURGER = "task:purger"

#: What the leases begin with under which alerts are told, each with the name of its service behind it.
ALERTS = "task:alerts:"


class Upkeep:
    """Each statement that only one worker may run carries the task's lease token."""

    def __init__(self, names: Names, dialect: Dialect, lock_class: int) -> None:
        self.dialect = dialect
        pg = dialect.name == "postgresql"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        held = (
            f"exists (select 1 from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = {typed('$2', 'smallint')} "
            f"and lease_token = {typed('$3', 'bigint')})"
        )
        columns = "id, source, name, version, topic, key, slot, headers, data"
        if pg:
            # The order of delayed events is where they are moved, under their keys' locks (invariant 5).
            stamp = "to_char(d.due_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
            self.due = None
            self.move_ = Sql(f"""
                with d as materialized (
                  delete from {names.scheduled} where id in (
                    select id from {names.scheduled} where due_at <= clock_timestamp() and {held}
                    order by due_at, id limit $4::int for update skip locked)
                  returning *),
                l as materialized (
                  select pg_advisory_xact_lock({lock_class}, s) from (select distinct slot::int as s from d where keyed order by 1) k)
                insert into {names.outbox} ({columns})
                select d.id, d.source, d.name, d.version, d.topic, d.key, d.slot,
                       (d.headers::jsonb || jsonb_build_object('scheduledfor', {stamp}))::json, d.data
                from (select count(*) from l) x, d order by d.due_at, d.id
                returning position
            """)
        else:
            # The clock is read once: a row that falls due between two statements must not be deleted without having been moved.
            self.due = Sql(f"select id from {names.scheduled} where due_at <= {dialect.now} and {held} order by due_at, id limit $4")
            self.move_ = Sql(f"""
                insert into {names.outbox} ({columns}, time)
                select id, source, name, version, topic, key, slot, json_set(headers, '$.scheduledfor', due_at), data, {dialect.now}
                from {names.scheduled} where id in (select value from json_each($1)) order by due_at, id
            """)
            self.moved = Sql(f"delete from {names.scheduled} where id in (select value from json_each($1))")
        self.next_due = Sql(
            f"select extract(epoch from min(due_at) - clock_timestamp()) from {names.scheduled}"
            if pg
            else f"select (julianday(min(due_at)) - julianday('now')) * 86400.0 from {names.scheduled}"
        )
        needed = "not pg_visible_in_snapshot(o.tx, c.previous)" if pg else "c.position < o.position"
        # Invariant 2: a row goes when it is old *and* read by every log reader that is not retired; never by position or time alone.
        self.purge_log_ = Sql(f"""
            delete from {names.outbox} where position in (
              select o.position from {names.outbox} o
              where o.time < {dialect.after("-1 * $4")} and {held}
                and not exists (select 1 from {names.checkpoints} c where c.kind = 'log' and c.state <> 'retired' and {needed})
              order by o.position limit {typed("$5", "int")})
            returning position
        """)
        self.purged = Sql(
            f"update {names.meta} set purged_to = {'greatest' if pg else 'max'}(coalesce(purged_to, 0), {typed('$1', 'bigint')})"
        )
        rows = "ctid" if pg else "(event_key, subscription_id)"
        chosen = "ctid" if pg else "event_key, subscription_id"
        shared = f"(select id from {names.subscriptions} where group_name like '%{SHARED}')"
        # What environments share stays as long as the log may have the event: one that was away reads on from where it was.
        logged = f"(select time from {names.outbox} order by position limit 1)"
        self.purge_inbox_ = Sql(f"""
            delete from {names.inbox} where {rows} in (
              select {chosen} from {names.inbox}
              where handled_at < {dialect.after("-1 * $4")} and {held}
                and (subscription_id not in {shared} or handled_at < coalesce({logged}, {dialect.now}))
                and (subscription_id in (select id from {names.subscriptions} where {dialect.among("service", "$6", "text")})) <> {typed("$7", "bool")}
              limit {typed("$5", "int")})
            returning subscription_id
        """)
        # Only lanes that hold nothing but their dead event: what waits behind one must not start to run because time has passed.
        self.old_dead = Sql(f"""
            select {"l.lane::text" if pg else "l.lane"}, l.subscription_id, s.group_name || '/' || s.name, d.event_id,
                   {"d.event_key::text" if pg else "d.event_key"}
            from {names.lanes} l
            join {names.deliveries} d on d.lane = l.lane and d.subscription_id = l.subscription_id
            join {names.subscriptions} s on s.id = l.subscription_id
            where l.state = 'dead' and l.depth = 1 and d.failed_at < {dialect.after("-1 * $4")} and {held} and s.service = {typed("$6", "text")}
            limit {typed("$5", "int")}
        """)
        lane = f"lane = {typed('$1', 'uuid' if pg else 'text')} and subscription_id = {typed('$2', 'int')}"
        self.drop_lane = Sql(f"delete from {names.lanes} where {lane} and state = 'dead' and depth = 1 returning depth")
        self.drop_deliveries = Leaving(names, dialect, lane)
        purged = "ctid" if pg else "(event_key, subscription_id)"
        self.purge_attempts_ = Sql(f"""
            delete from {names.attempts} where {purged} in (
              select {"ctid" if pg else "event_key, subscription_id"} from {names.attempts}
              where ended_at < {dialect.after("-1 * $4")} and {held}
                and (subscription_id in (select id from {names.subscriptions} where {dialect.among("service", "$6", "text")})) <> {typed("$7", "bool")}
              limit {typed("$5", "int")})
            returning subscription_id
        """)
        place = "(coalesce(place, '{}')::jsonb || $2::text::jsonb)::text" if pg else "json_patch(coalesce(place, '{}'), $2)"
        self.retain_ = Sql(f"update {names.checkpoints} set place = {place} where reader = {typed('$1', 'text')} and shard = 0")
        self.retentions_ = Sql(f"select place from {names.checkpoints} where reader = {typed('$1', 'text')} and shard = 0")
        self.beat_ = Sql(f"""
            insert into {names.workers} (id, service, environment, roles, host, pid, version, brokers{"" if pg else ", started_at, seen_at"})
            values ({typed("$1", "uuid")}, $2, $3, $4, $5, {typed("$6", "int")}, $7, {typed("$8", "json")}
                    {"" if pg else f", {dialect.now}, {dialect.now}"})
            on conflict (id) do update set seen_at = {dialect.now}, brokers = excluded.brokers
        """)
        self.environments_ = Sql(f"""
            select distinct environment from {names.workers}
            where service = {typed("$1", "text")} and seen_at > {dialect.after("-1 * $2")} and environment is not null
              and roles like '%consume%'
        """)
        self.leave_ = Sql(f"delete from {names.workers} where id = {typed('$1', 'uuid')}")
        self.forget_ = Sql(f"delete from {names.workers} where seen_at < {dialect.after('-1 * $1')}")
        self.lock_class = lock_class

    def move_due(self, connection: Connection, lease: Lease, limit: int) -> int:
        """Move scheduled events that are due into the log; return how many. Needs a transaction on SQLite."""
        arguments = (lease.reader, lease.shard, lease.token, limit)
        if self.due is None:
            return len(run(connection, Command(self.move_, arguments)))
        ids = [row[0] for row in run(connection, Command(self.due, arguments))]
        if ids:
            run(connection, Command(self.move_, (json.dumps(ids),)))
            run(connection, Command(self.moved, (json.dumps(ids),)))
        return len(ids)

    def due_in(self, connection: Connection) -> float | None:
        """Return in how many seconds the next scheduled event is due, or None."""
        ((seconds,),) = run(connection, Command(self.next_due, ()))
        return None if seconds is None else float(seconds)

    def purge_log(self, connection: Connection, lease: Lease, retention: float, limit: int) -> int:
        """Delete old log rows that no reader needs, at most `limit`; return how many. Needs a transaction."""
        rows = run(connection, Command(self.purge_log_, (lease.reader, lease.shard, lease.token, retention, limit)))
        if rows:
            run(connection, Command(self.purged, (max(row[0] for row in rows),)))
        return len(rows)

    def retain(self, connection: Connection, reader: str, service: str, retention: Retention) -> None:
        """Write down how long a service keeps what, for whoever purges."""
        run(connection, Command(self.retain_, (reader, msgspec.json.encode({service: retention}).decode())))

    def retentions(self, connection: Connection, reader: str) -> dict[str, Retention]:
        """Return how long each service keeps what."""
        rows = run(connection, Command(self.retentions_, (reader,)))
        return msgspec.json.decode(rows[0][0], type=dict[str, Retention]) if rows and rows[0][0] else {}

    def purge_inbox(
        self, connection: Connection, lease: Lease, retention: float, limit: int, services: Sequence[str] = (), others: bool = True
    ) -> int:
        """Delete old inbox rows, at most `limit`; return how many.

        Args:
            services: whose rows; or, with `others`, whose rows not.
        """
        arguments = (lease.reader, lease.shard, lease.token, retention, limit, self.dialect.items(services), others)
        return len(run(connection, Command(self.purge_inbox_, arguments)))

    def purge_attempts(
        self, connection: Connection, lease: Lease, retention: float, limit: int, services: Sequence[str] = (), others: bool = True
    ) -> int:
        """Delete what was tried of events that have been over for so long, at most `limit` of them; return how many. As `purge_inbox`."""
        arguments = (lease.reader, lease.shard, lease.token, retention, limit, self.dialect.items(services), others)
        return len(run(connection, Command(self.purge_attempts_, arguments)))

    def drop_dead(self, connection: Connection, lease: Lease, service: str, retention: float, limit: int) -> list[Dropped]:
        """Delete events of a service that have been dead for long and that nothing waits behind, at most `limit`. Needs a transaction."""
        arguments = (lease.reader, lease.shard, lease.token, retention, limit, service)
        gone: list[Dropped] = []
        for lane, *row in run(connection, Command(self.old_dead, arguments)):
            dropped = Dropped(*row)
            if run(connection, Command(self.drop_lane, (lane, dropped.subscription_id))):
                self.drop_deliveries(connection, lane, dropped.subscription_id)
                gone.append(dropped)
        return gone

    def beat(
        self, connection: Connection, worker: str, service: str, environment: str | None, roles: str, host: str, pid: int, version: str,
        brokers: str = "[]",
    ) -> None:  # fmt: skip
        """Say that this worker is alive, and how it stands with the brokers; `brokers` is JSON as `stores.sql.brokers` reads it."""
        run(connection, Command(self.beat_, (worker, service, environment, roles, host, pid, version, brokers)))

    def environments(self, connection: Connection, service: str, seconds: float) -> frozenset[str]:
        """Return the environments of a service whose handlers run somewhere: a worker was seen within so many seconds."""
        return frozenset(row[0] for row in run(connection, Command(self.environments_, (service, seconds))))

    def leave(self, connection: Connection, worker: str) -> None:
        """Say that this worker stops, and forget workers that were not seen for a day."""
        run(connection, Command(self.leave_, (worker,)))
        run(connection, Command(self.forget_, (86400.0,)))
