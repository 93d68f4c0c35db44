"""Publishing on asyncpg: a connection, or a pool's proxy for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidings.errors import NoTransaction
from tidings.publish.buffer import Rows
from tidings.publish.link import Link
from tidings.publish.publisher import Identity

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["AsyncpgLink"]


class AsyncpgLink(Link):
    """A link to an asyncpg connection. asyncpg has no type stubs: everything of it is `Any`."""

    asynchronous = True

    def __init__(self, connection: Any) -> None:
        # The proxy of a pool is another object at each acquisition, and leads nowhere once it has been released.
        self.connection = getattr(connection, "_con", connection)
        self._transaction: Any = None

    async def identity(self) -> Identity | None:
        address = getattr(self.connection, "_addr", None)
        database = getattr(getattr(self.connection, "_params", None), "database", None)
        if not isinstance(address, tuple) or not isinstance(database, str):
            return None  # a Unix socket
        return ("postgresql", str(address[0]), str(address[1]), database)

    async def begin(self) -> bool:
        if self.connection is None or self.connection.is_closed():
            raise NoTransaction("the asyncpg connection is closed or was given back to its pool: publish while it is yours")
        if self.connection.is_in_transaction():
            return False
        transaction = self.connection.transaction()
        await transaction.start()
        self._transaction = transaction
        return True

    def in_transaction(self) -> bool:
        return bool(self.connection.is_in_transaction())

    async def run(self, command: Command) -> Rows:
        if command.many:
            await self.connection.executemany(command.sql.numbered, command.arguments)
            return []
        rows: Rows = await self.connection.fetch(command.sql.numbered, *command.arguments)
        return rows

    async def commit(self) -> None:
        await self._transaction.commit()

    async def rollback(self) -> None:
        # Also when the caller has ended it: asyncpg would otherwise take the next transaction for a savepoint of this one.
        if not self.connection.is_closed():
            await self._transaction.rollback()
