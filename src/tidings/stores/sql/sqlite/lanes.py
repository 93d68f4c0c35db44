"""Lanes and deliveries on SQLite: parking, claiming, finishing; all under the one write lock of BEGIN IMMEDIATE."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tidings.stores.base import Claimed, Delivery, Parking
from tidings.stores.sql.dialect import SQLITE
from tidings.stores.sql.driver import run
from tidings.stores.sql.lanes import LaneStatements
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Lanes"]


class Lanes(LaneStatements):
    """Park, claim and load are SQLite's own; the statements on one lane are those of every dialect."""

    def __init__(self, names: Names) -> None:
        super().__init__(names, SQLITE)
        self.lock = Sql(f"""
            insert into {names.lanes} (lane, subscription_id, key, state, attempts, due_at, blocked_at, lease_token, lease_until, owner)
            values ($2, $1, $3, $4, $5, {SQLITE.after("$6")}, {SQLITE.now}, $7,
                    case when $9 is not null then {SQLITE.after("$8")} end, $9)
            on conflict (lane, subscription_id) do nothing returning lane
        """)
        self.park_ = Sql(f"""
            insert into {names.deliveries} (subscription_id, event_key, lane, event_id, source, name, version, topic, key, time, sequence,
              headers, data, reason, attempts, history, error_type, error_message, traceback, fingerprint, failed_at, parked_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                    case when $17 is not null then {SQLITE.now} end, {SQLITE.now})
            on conflict (event_key, subscription_id) do nothing returning number
        """)
        self.deepen = Sql(f"update {names.lanes} set depth = depth + $3 where lane = $2 and subscription_id = $1")
        self.due = Sql(f"""
            select subscription_id, lane, key, attempts + 1, depth, lease_until is not null, owner from {names.lanes}
            where state = 'retrying' and due_at <= {SQLITE.now} and (lease_until is null or lease_until < {SQLITE.now})
              and {SQLITE.among("subscription_id", "$1", "int")}
            order by due_at limit $2
        """)
        self.draw = Sql(f"update {names.meta} set token = token + $1 returning token")
        self.take = Sql(f"""
            update {names.lanes} set lease_token = $3, lease_until = {SQLITE.after("$4")}, owner = $5, attempts = attempts + 1
            where lane = $2 and subscription_id = $1
        """)

    def park(
        self, connection: Connection, subscription_id: int, items: Sequence[Parking], *, ttl: float = 0.0, owner: str | None = None
    ) -> list[Claimed]:
        """Append events to their lanes, in order; events that are parked already stay as they are. Needs a transaction.

        Args:
            ttl, owner: with an owner, lanes that are new are leased to it for that many seconds, and returned.
        """
        first: dict[str, Parking] = {}
        added: dict[str, int] = {}
        new: list[Claimed] = []
        for item in items:
            first.setdefault(item.lane, item)
        for item in first.values():
            token = 0 if owner is None else run(connection, Command(self.draw, (1,)))[0][0]
            values: tuple[object, ...] = (subscription_id, item.lane, item.key, item.state, item.attempts, item.delay, token, ttl, owner)
            if run(connection, Command(self.lock, values)):
                new.append(Claimed(subscription_id, item.lane, item.key, token, item.attempts, 0))
        for item in items:
            values = (
                subscription_id, item.event_key, item.lane, item.event_id, item.source, item.name, item.version, item.topic, item.key,
                item.time, item.sequence, item.headers, item.data, item.reason, item.attempts, item.history,
                *(item.failure or (None, None, None, None)),
            )  # fmt: skip
            if run(connection, Command(self.park_, values)):
                added[item.lane] = added.get(item.lane, 0) + 1
        for lane, count in added.items():
            run(connection, Command(self.deepen, (subscription_id, lane, count)))
        self.clear(connection, subscription_id, [lane.lane for lane in new if lane.lane not in added])
        return [lane for lane in new if owner is not None and lane.lane in added]

    def claim(self, connection: Connection, subscriptions: Sequence[int], limit: int, ttl: float, owner: str) -> list[Claimed]:
        """Take the leases of lanes that are due, at most `limit`, for `ttl` seconds; counts the attempt. Needs a transaction."""
        due = run(connection, Command(self.due, (SQLITE.items(subscriptions), limit)))
        if not due:
            return []
        ((last,),) = run(connection, Command(self.draw, (len(due),)))
        claimed = []
        for token, (subscription_id, lane, key, attempts, depth, interrupted, before) in enumerate(due, last - len(due) + 1):
            run(connection, Command(self.take, (subscription_id, lane, token, ttl, owner)))
            claimed.append(Claimed(subscription_id, lane, key, token, attempts, depth, bool(interrupted), before))
        return claimed

    def load(self, connection: Connection, claimed: Claimed, limit: int) -> list[Delivery]:
        """Return the first deliveries of a lane, in order."""
        return [Delivery(*row) for row in run(connection, Command(self.load_, (claimed.subscription_id, claimed.lane, limit)))]
