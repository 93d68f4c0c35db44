"""What a running service asks of its store to judge itself, and to tell others: its readers, their backlog, blocked keys and breakers."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import Backlog, Queries, Reader, Subscription
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Observed", "Observer"]


class Observed(NamedTuple):
    """One look at the tables, from the side of one service.

    Attributes:
        now: the database's time.
        replica: whether the server is in recovery.
        readers: of the log and of brokers, by their names; those that are not retired.
        leases: how often the lease of each of them was taken since it exists.
        subscriptions: those that are not retired, with their lanes.
        backlogs: of the readers of the log; none of those that were not asked for.
    """

    now: datetime
    replica: bool
    readers: dict[str, Reader]
    leases: dict[str, int]
    subscriptions: list[Subscription]
    backlogs: dict[str, Backlog]

    def held_back(self, group: str) -> bool:
        """Whether somebody, or a breaker, has stopped a group on purpose: that it stands still says nothing."""
        return any(item.group == group and (item.state == "paused" or item.breaker in ("open", "half-open")) for item in self.subscriptions)


class Observer:
    """The queries, each bounded; `look` is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._queries = Queries(names, dialect)
        self.leases_ = Sql(f"""
            select reader, lease_token from {names.checkpoints}
            where service = {dialect.cast("$1", "text")} and kind in ('log', 'queue', 'stream') and state <> 'retired'
        """)

    def look(self, connection: Connection, service: str, still: float = 0.0) -> Observed:
        """Look once.

        Args:
            still: backlogs are counted of readers only that have not moved for so many seconds.
        """
        queries = self._queries
        readers = {
            reader.reader: reader
            for reader in queries.readers(connection)
            if reader.service == service and reader.kind in ("log", "queue", "stream") and reader.state != "retired"
        }
        leases = {row[0]: int(row[1]) for row in run(connection, Command(self.leases_, (service,)))}
        # After the readers: what has moved since is not taken for old.
        now, replica = queries.clock(connection)
        subscriptions = [item for item in queries.subscriptions(connection) if item.service == service and item.state != "retired"]
        backlogs = {
            name: queries.backlog(connection, reader)
            for name, reader in readers.items()
            if reader.kind == "log" and (reader.moved_at is None or (now - reader.moved_at).total_seconds() >= still)
        }
        return Observed(now, replica, readers, leases, subscriptions, backlogs)
