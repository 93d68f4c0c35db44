"""Retiring what no code has any more: a group, or all of a service. Its checkpoints then hold nothing back from the purge."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.errors import StillRunning
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Retire"]


class Retire:
    """One statement for the readers, one for their subscriptions; they belong into one transaction."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        group = dialect.cast("$2", "text")
        mine = f"service = {dialect.cast('$1', 'text')} and ({group} is null or group_name = {group})"
        sources = "kind in ('log', 'queue', 'stream')"
        self.reading = Sql(f"select owner from {names.checkpoints} where {mine} and {sources} and lease_until > {dialect.now} limit 1")
        # The token is raised with it: a worker that still reads for the group is fenced at once (invariant 7).
        self.reader = Sql(f"""
            update {names.checkpoints} set state = 'retired', lease_token = lease_token + 1, lease_until = null, owner = null
            where {mine} and {sources} and state <> 'retired' returning reader
        """)
        self.subscriptions = Sql(f"update {names.subscriptions} set state = 'retired' where {mine} returning id")

    def group(self, connection: Connection, service: str, group: str) -> bool:
        """Retire a group with its subscriptions; False when there is none. Needs a transaction.

        Raises:
            StillRunning: a worker reads for it.
        """
        if run(connection, Command(self.reading, (service, group))):
            raise StillRunning(f"a worker reads for group {group!r} right now: take its subscriptions out of the code first, and deploy")
        found = run(connection, Command(self.reader, (service, group)))
        run(connection, Command(self.subscriptions, (service, group)))
        return bool(found)

    def service(self, connection: Connection, service: str) -> None:
        """Retire all groups and subscriptions of a service. Needs a transaction."""
        run(connection, Command(self.reader, (service, None)))
        run(connection, Command(self.subscriptions, (service, None)))
