"""Publishing on aiosqlite: what `sqlite3` does, in the thread that the connection lives in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tidings.errors import NoTransaction
from tidings.publish.buffer import Rows
from tidings.publish.link import Link
from tidings.publish.publisher import Identity
from tidings.publish.sqlite3 import SqliteLink

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["AiosqliteLink"]


class AiosqliteLink(Link):
    """A link to an `aiosqlite.Connection`.

    Its `_execute` runs a function in its thread: one hop for what takes two or three with its public methods.
    """

    asynchronous = True

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        try:
            self._link = SqliteLink(connection._conn)
        except ValueError as error:
            raise NoTransaction("the aiosqlite connection is not open: publish on an open one") from error

    async def identity(self) -> Identity | None:
        identity: Identity | None = await self.connection._execute(self._link.identity)
        return identity

    async def begin(self) -> bool:
        if self._link.in_transaction():
            return False
        try:
            began: bool = await self.connection._execute(self._link.begin)
        except asyncio.CancelledError:
            # The thread takes the write lock all the same.
            await self.connection._execute(self._link.rollback)
            raise
        return began

    def in_transaction(self) -> bool:
        return self._link.in_transaction()

    async def run(self, command: Command) -> Rows:
        rows: Rows = await self.connection._execute(self._link.run, command)
        return rows

    async def commit(self) -> None:
        await self.connection._execute(self._link.commit)

    async def rollback(self) -> None:
        await self.connection._execute(self._link.rollback)
