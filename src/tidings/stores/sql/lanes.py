"""Statements on one lane whose lease is held. They are the same on every database; each carries the lease token (invariant 7)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from tidings.stores.base import Claimed, Failure
from tidings.stores.sql.attempts import Leaving
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["LaneStatements"]


class LaneStatements:
    """Finish, fail, hand back, renew. `False` says that the lease is lost: the caller must keep nothing."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        uuid = "uuid" if dialect.name == "postgresql" else "text"

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        mine = f"lane = {typed('$2', uuid)} and subscription_id = {typed('$1', 'int')} and lease_token = {typed('$3', 'bigint')}"
        columns = "event_key, event_id, source, name, version, topic, key, time, sequence, headers, data, reason, attempts, history"
        if dialect.name == "postgresql":
            columns = columns.replace("event_key", "event_key::text", 1).replace("history", "history::text")
        self.load_ = Sql(f"""
            select {columns} from {names.deliveries}
            where lane = {typed("$2", uuid)} and subscription_id = {typed("$1", "int")} order by number limit {typed("$3", "int")}
        """)
        # The head is done; the next one starts its first attempt under the same lease.
        self.advance = Sql(f"""
            update {names.lanes} set depth = depth - {typed("$4", "int")}, attempts = 1, due_at = {dialect.now}, lease_until = {dialect.after("$5")}
            where {mine} returning depth
        """)
        self.remove = Leaving(
            names, dialect, f"{dialect.among('event_key', '$2', 'uuid')} and subscription_id = {typed('$1', 'int')}"
        )  # fmt: skip
        self.clear_ = Sql(f"""
            delete from {names.lanes}
            where {dialect.among("lane", "$2", uuid)} and subscription_id = {typed("$1", "int")} and depth = 0
        """)
        self.close_ = Sql(f"delete from {names.lanes} where {mine} and depth = 0")
        # Once: a worker that is cancelled just after it has let a lane be dead must not hand it back to be tried again.
        self.release_ = Sql(f"""
            update {names.lanes} set state = {typed("$4", "text")}, attempts = {typed("$5", "int")}, due_at = {dialect.after("$6")},
              lease_until = null, owner = null
            where {mine} and lease_until is not null returning depth
        """)
        self.describe = Sql(f"""
            update {names.deliveries}
            set reason = {typed("$3", "text")}, attempts = {typed("$4", "int")}, history = {typed("$5", "json")}, error_type = {typed("$6", "text")},
              error_message = {typed("$7", "text")}, traceback = {typed("$8", "text")}, fingerprint = {typed("$9", "text")}, failed_at = {dialect.now}
            where event_key = {typed("$2", uuid)} and subscription_id = {typed("$1", "int")}
        """)
        # The head leaves for a dead lane of its own, named after the event; the others go on.
        self.shorten = Sql(f"""
            update {names.lanes} set depth = depth - 1, attempts = 0, due_at = {dialect.now}, lease_until = null, owner = null
            where {mine} returning depth
        """)
        blocked_at = "" if dialect.name == "postgresql" else ", blocked_at"
        clock = "" if dialect.name == "postgresql" else f", {dialect.now}"
        self.set_aside = Sql(f"""
            insert into {names.lanes} (lane, subscription_id, key, state, depth, attempts, due_at{blocked_at})
            values ({typed("$2", uuid)}, {typed("$1", "int")}, {typed("$3", "text")}, 'dead', 1, {typed("$4", "int")}, {dialect.now}{clock})
        """)
        self.move = Sql(f"""
            update {names.deliveries} set lane = {typed("$2", uuid)}
            where event_key = {typed("$2", uuid)} and subscription_id = {typed("$1", "int")}
        """)
        self.count_ = Sql(f"""
            select count(*) from {names.deliveries} where lane = {typed("$2", uuid)} and subscription_id = {typed("$1", "int")}
        """)
        self.lock_depth = Sql(f"update {names.lanes} set depth = depth where {mine} returning depth")
        self.set_depth = Sql(f"""
            update {names.lanes} set depth = {typed("$4", "int")}, attempts = 0, due_at = {dialect.now}, lease_until = null, owner = null
            where {mine}
        """)
        # As it was before the claim: the lease has run out, in the middle of an attempt of that worker.
        self.restore_ = Sql(f"""
            update {names.lanes} set attempts = attempts - 1, lease_until = {dialect.now}, owner = {typed("$4", "text")} where {mine}
        """)
        self.name_ = Sql(f"update {names.lanes} set owner = {typed('$4', 'text')} where {mine} returning depth")
        # Renewing may come after giving up: a lane that was given up must stay free.
        self.renew_ = Sql(f"""
            update {names.lanes} set lease_until = {dialect.after("$4")} where {mine} and lease_until is not null returning depth
        """)
        self.due_in = Sql(f"""
            select min({
            "extract(epoch from due_at - clock_timestamp())"
            if dialect.name == "postgresql"
            else "(julianday(due_at) - julianday('now')) * 86400.0"
        })
            from {names.lanes} where state = 'retrying' and {dialect.among("subscription_id", "$1", "int")}
              and (lease_until is null or lease_until < {dialect.now})
        """)
        self.due_of_ = Sql(f"""
            select distinct subscription_id from {names.lanes} where state = 'retrying' and {dialect.among("subscription_id", "$1", "int")}
              and due_at <= {dialect.now} and (lease_until is null or lease_until < {dialect.now}) order by subscription_id
        """)
        self.parked_ = Sql(f"""
            select subscription_id, sum(depth) from {names.lanes} where {dialect.among("subscription_id", "$1", "int")} group by subscription_id
        """)
        self.of_ = Sql(
            f"select {'lane::text' if dialect.name == 'postgresql' else 'lane'} from {names.lanes} where subscription_id = {typed('$1', 'int')}"
        )
        self.active = Sql(f"select id from {names.subscriptions} where {dialect.among('id', '$1', 'int')} and state = 'active'")
        self.clock_ = Sql(f"select {dialect.now}")
        self.dialect = dialect

    def clock(self, connection: Connection) -> datetime:
        """Return the database's time: what expires, expires by it."""
        ((now,),) = run(connection, Command(self.clock_, ()))
        time = as_datetime(now)
        assert time is not None
        return time

    def clear(self, connection: Connection, subscription_id: int, lanes: list[str]) -> None:
        """Remove lanes that this transaction has made for events that were parked already, in lanes of their own: a lane has a head."""
        if lanes:
            run(connection, Command(self.clear_, (subscription_id, self.dialect.items(lanes))))

    def finish(self, connection: Connection, lane: Claimed, event_keys: list[str], ttl: float) -> bool:
        """Take the first events off their lane, in the transaction that holds their effects, and keep the lease for the next."""
        mine = (lane.subscription_id, lane.lane, lane.token)
        if not run(connection, Command(self.advance, (*mine, len(event_keys), ttl))):
            return False
        removed = self.remove(connection, lane.subscription_id, self.dialect.items(event_keys))
        if len(removed) != len(event_keys):
            return False
        run(connection, Command(self.close_, mine))
        return True

    def release(self, connection: Connection, lane: Claimed, *, state: str, attempts: int, delay: float) -> bool:
        """Give the lease up and say when the lane is due again."""
        return bool(run(connection, Command(self.release_, (lane.subscription_id, lane.lane, lane.token, state, attempts, delay))))

    def restore(self, connection: Connection, lane: Claimed) -> None:
        """Give back the lease of a lane that was interrupted before, and is still to be taken for interrupted; nothing was tried."""
        run(connection, Command(self.restore_, (lane.subscription_id, lane.lane, lane.token, lane.before)))

    def name(self, connection: Connection, lane: Claimed, owner: str) -> bool:
        """Say anew who has the lease."""
        return bool(run(connection, Command(self.name_, (lane.subscription_id, lane.lane, lane.token, owner))))

    def detach(self, connection: Connection, lane: Claimed, event_key: str, attempts: int) -> bool:
        """Set the head of a lane aside as dead and let the others go on; give the lease up."""
        mine = (lane.subscription_id, lane.lane, lane.token)
        if not run(connection, Command(self.shorten, mine)):
            return False
        run(connection, Command(self.set_aside, (lane.subscription_id, event_key, lane.key, attempts)))
        run(connection, Command(self.move, (lane.subscription_id, event_key)))
        run(connection, Command(self.close_, mine))
        return True

    def recount(self, connection: Connection, lane: Claimed) -> None:
        """Give up a lane in which nothing was found: remove it, or put its depth right if something was parked meanwhile.

        Somebody may have deleted its deliveries by hand. The lane's row lock keeps parking out from before the count: whoever parks takes
        it first. Needs a transaction.
        """
        mine = (lane.subscription_id, lane.lane, lane.token)
        if run(connection, Command(self.lock_depth, mine)):
            ((depth,),) = run(connection, Command(self.count_, mine[:2]))
            run(connection, Command(self.set_depth, (*mine, depth)))
            run(connection, Command(self.close_, mine))

    def explain(
        self, connection: Connection, lane: Claimed, event_key: str, reason: str, attempts: int, history: str, failure: Failure
    ) -> None:
        """Write down the last failure of a lane's head."""
        run(connection, Command(self.describe, (lane.subscription_id, event_key, reason, attempts, history, *failure)))

    def renew(self, connection: Connection, lane: Claimed, ttl: float) -> bool:
        """Hold the lease for `ttl` more seconds."""
        return bool(run(connection, Command(self.renew_, (lane.subscription_id, lane.lane, lane.token, ttl))))

    def parked(self, connection: Connection, subscriptions: list[int]) -> dict[int, int]:
        """Return how many events each of these subscriptions has parked; none are left out."""
        return {row[0]: int(row[1]) for row in run(connection, Command(self.parked_, (self.dialect.items(subscriptions),)))}

    def of(self, connection: Connection, subscription_id: int) -> set[str]:
        """Return the lanes of a subscription that something is parked in, as `ids.lane_of` writes them."""
        return {str(row[0]).replace("-", "") for row in run(connection, Command(self.of_, (subscription_id,)))}

    def unpaused(self, connection: Connection, subscriptions: list[int]) -> list[int]:
        """Return those of these subscriptions that are neither paused nor retired."""
        return [row[0] for row in run(connection, Command(self.active, (self.dialect.items(subscriptions),)))]

    def due_of(self, connection: Connection, subscriptions: Sequence[int]) -> list[int]:
        """Return those of these subscriptions that have a lane which is due."""
        return [row[0] for row in run(connection, Command(self.due_of_, (self.dialect.items(subscriptions),)))]

    def next_due(self, connection: Connection, subscriptions: list[int]) -> float | None:
        """Return in how many seconds the next lane of these subscriptions is due; None when none is waiting."""
        ((seconds,),) = run(connection, Command(self.due_in, (self.dialect.items(subscriptions),)))
        return None if seconds is None else float(seconds)
