"""Lanes and deliveries on PostgreSQL: parking, claiming, finishing.

A lane's row is lock, lease, due time and depth counter of one blocked key. The counter lives in the locked row: under READ COMMITTED a
statement that waited for the row sees the new count, where `not exists (select from deliveries)` would see the old snapshot, remove the
lane and strand what was just parked. Under REPEATABLE READ the statement fails and is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tidings.stores.base import Claimed, Delivery, Parking
from tidings.stores.sql.dialect import POSTGRESQL
from tidings.stores.sql.driver import run
from tidings.stores.sql.lanes import LaneStatements
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Lanes"]


class Lanes(LaneStatements):
    """Park, claim and load are PostgreSQL's own; the statements on one lane are those of every dialect."""

    def __init__(self, names: Names) -> None:
        super().__init__(names, POSTGRESQL)
        # Takes every lane's row lock, in the order of lanes so that two workers cannot deadlock; makes the rows that are missing: those
        # have an xmax of 0.
        self.lock = Sql(f"""
            insert into {names.lanes} as l (lane, subscription_id, key, state, attempts, due_at, lease_token, lease_until, owner)
            select u.lane, $1::int, u.key, u.state, u.attempts, clock_timestamp() + u.delay * interval '1 second',
                   case when $8::text is null then 0 else nextval('{names("token")}') end,
                   case when $8::text is not null then clock_timestamp() + $7::float8 * interval '1 second' end, $8::text
            from unnest($2::uuid[], $3::text[], $4::text[], $5::int[], $6::float8[]) u(lane, key, state, attempts, delay)
            order by u.lane
            on conflict (lane, subscription_id) do update set state = l.state
            returning l.subscription_id, l.lane::text, l.key, l.lease_token, l.attempts, l.depth, l.xmax = 0
        """)
        self.park_ = Sql(f"""
            with i as (
              insert into {names.deliveries} (subscription_id, event_key, lane, event_id, source, name, version, topic, key, time, sequence,
                headers, data, reason, attempts, history, error_type, error_message, traceback, fingerprint, failed_at)
              select $1::int, u.event_key, u.lane, u.event_id, u.source, u.name, u.version, u.topic, u.key, u.time, u.sequence,
                u.headers, u.data, u.reason, u.attempts, u.history::json, u.error_type, u.error_message, u.traceback, u.fingerprint,
                case when u.error_type is not null then clock_timestamp() end
              from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[], $9::text[], $10::timestamptz[],
                          $11::bigint[], $12::bytea[], $13::bytea[], $14::text[], $15::int[], $16::text[], $17::text[], $18::text[],
                          $19::text[], $20::text[])
                with ordinality u(event_key, lane, event_id, source, name, version, topic, key, time, sequence, headers, data, reason,
                                  attempts, history, error_type, error_message, traceback, fingerprint, ord)
              order by u.ord on conflict do nothing returning lane)
            update {names.lanes} l set depth = l.depth + c.n
            from (select lane, count(*)::int as n from i group by lane) c where l.lane = c.lane and l.subscription_id = $1::int
            returning l.lane::text
        """)
        self.claim_ = Sql(f"""
            with due as materialized (
              select l.lane, l.subscription_id, l.lease_until is not null as interrupted, l.owner as before from {names.lanes} l
              where l.state = 'retrying' and l.due_at <= clock_timestamp()
                and (l.lease_until is null or l.lease_until < clock_timestamp()) and l.subscription_id = any($1::int[])
              order by l.due_at limit $2::int for update skip locked)
            update {names.lanes} l
            set lease_token = nextval('{names("token")}'), lease_until = clock_timestamp() + $3::float8 * interval '1 second', owner = $4::text,
                attempts = l.attempts + 1
            from due where l.lane = due.lane and l.subscription_id = due.subscription_id
            returning l.subscription_id, l.lane::text, l.key, l.lease_token, l.attempts, l.depth, due.interrupted, due.before
        """)

    def park(
        self, connection: Connection, subscription_id: int, items: Sequence[Parking], *, ttl: float = 0.0, owner: str | None = None
    ) -> list[Claimed]:
        """Append events to their lanes, in order; events that are parked already stay as they are. Needs a transaction.

        Args:
            ttl, owner: with an owner, lanes that are new are leased to it for that many seconds, and returned.
        """
        first: dict[str, Parking] = {}
        for item in items:
            first.setdefault(item.lane, item)
        heads = list(first.values())
        columns = [[item.lane for item in heads], [item.key for item in heads], [item.state for item in heads]]
        attempts, delays = [item.attempts for item in heads], [item.delay for item in heads]
        locked = run(connection, Command(self.lock, (subscription_id, *columns, attempts, delays, ttl, owner)))
        rows = [
            (
                item.event_key, item.lane, item.event_id, item.source, item.name, item.version, item.topic, item.key, item.time, item.sequence,
                item.headers, item.data, item.reason, item.attempts, item.history, *(item.failure or (None, None, None, None)),
            )
            for item in items
        ]  # fmt: skip
        parked = Command(self.park_, (subscription_id, *(list(column) for column in zip(*rows, strict=True))))
        filled = {row[0] for row in run(connection, parked)}
        new = [row for row in locked if row[6]]
        self.clear(connection, subscription_id, [row[1] for row in new if row[1] not in filled])
        return [Claimed(*row[:6]) for row in new if owner is not None and row[1] in filled]

    def claim(self, connection: Connection, subscriptions: Sequence[int], limit: int, ttl: float, owner: str) -> list[Claimed]:
        """Take the leases of lanes that are due, at most `limit`, for `ttl` seconds; counts the attempt. One statement, autocommit."""
        return [Claimed(*row) for row in run(connection, Command(self.claim_, (list(subscriptions), limit, ttl, owner)))]

    def load(self, connection: Connection, claimed: Claimed, limit: int) -> list[Delivery]:
        """Return the first deliveries of a lane, in order."""
        return [Delivery(*row) for row in run(connection, Command(self.load_, (claimed.subscription_id, claimed.lane, limit)))]
