"""What the reader of a group tells everybody about its subscriptions' circuit breakers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from tidings.stores.base import Lease
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Breakers", "Told"]


class Told(NamedTuple):
    """What was told last of a subscription's breaker, and by which worker; `age` is the time in seconds since it opened."""

    state: str | None
    age: float
    reason: str
    owner: str | None


class Breakers:
    """Only who reads for the group may tell (invariant 7); what it told holds as long as it has the lease."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self.dialect = dialect
        typed = dialect.cast
        self.tell_ = Sql(f"""
            update {names.subscriptions}
            set breaker = {typed("$2", "text")}, breaker_reason = {typed("$4", "text")}, breaker_owner = {typed("$5", "text")},
              breaker_since = case when {typed("$2", "text")} is not null then {dialect.after("-1 * $3")} end
            where id = {typed("$1", "int")} and exists (
              select 1 from {names.checkpoints} where reader = {typed("$6", "text")} and shard = {typed("$7", "smallint")}
              and lease_token = {typed("$8", "bigint")})
        """)
        age = (
            "extract(epoch from clock_timestamp() - breaker_since)::float8"
            if dialect.name == "postgresql"
            else "(julianday('now') - julianday(breaker_since)) * 86400.0"
        )
        self.told_ = Sql(f"""
            select id, breaker, {age}, breaker_reason, breaker_owner from {names.subscriptions} where {dialect.among("id", "$1", "int")}
        """)

    def tell(self, connection: Connection, lease: Lease, subscription_id: int, told: Told) -> None:
        """Write down what a subscription's breaker is like, if the lease is still ours; None is closed."""
        arguments = (subscription_id, told.state, told.age, told.reason or None, told.owner, lease.reader, lease.shard, lease.token)
        run(connection, Command(self.tell_, arguments))

    def told(self, connection: Connection, subscriptions: Sequence[int]) -> dict[int, Told]:
        """Return what was told last, by whomever."""
        rows = run(connection, Command(self.told_, (self.dialect.items(subscriptions),)))
        return {row[0]: Told(row[1], float(row[2] or 0.0), row[3] or "", row[4]) for row in rows}
