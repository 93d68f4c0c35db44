"""Retiring a group that no code has any more: its checkpoint then holds nothing back from the purge."""

from __future__ import annotations

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Retire"]


class Retire:
    """One statement for the reader, one for its subscriptions; they belong into one transaction."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        mine = f"service = {dialect.cast('$1', 'text')} and group_name = {dialect.cast('$2', 'text')}"
        # The token is raised with it: a worker that still reads for the group is fenced at once (invariant 7).
        self.reader = Sql(f"""
            update {names.checkpoints} set state = 'retired', lease_token = lease_token + 1, lease_until = null, owner = null
            where {mine} and kind in ('log', 'queue', 'stream') returning reader
        """)
        self.subscriptions = Sql(f"update {names.subscriptions} set state = 'retired' where {mine} returning id")

    def group(self, connection: Connection, service: str, group: str) -> bool:
        """Retire a group with its subscriptions; False when there is none. Needs a transaction."""
        found = run(connection, Command(self.reader, (service, group)))
        run(connection, Command(self.subscriptions, (service, group)))
        return bool(found)
