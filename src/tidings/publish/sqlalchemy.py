"""Publishing on SQLAlchemy connections, synchronous and asynchronous; their savepoints take their events with them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from tidings.errors import NoTransaction
from tidings.publish.buffer import Receipt, Rows
from tidings.publish.link import Link
from tidings.publish.publisher import Identity
from tidings.publish.sqlalchemy_state import on_commit, open_savepoints, rolled_back_savepoints
from tidings.stores.sql.driver import is_autocommit, run

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["AsyncSqlalchemyLink", "SqlalchemyLink"]

T = TypeVar("T")


class SqlalchemyLink(Link):
    """A link to a `sqlalchemy.Connection`."""

    asynchronous = False

    def __init__(self, connection: Connection) -> None:
        self.connection = self.bind = connection
        self._transaction: Any = None

    def identity(self) -> Identity | None:
        return None

    def begin(self) -> bool:
        if self.connection.closed:
            raise NoTransaction("the SQLAlchemy connection is closed: publish on an open one")
        self._transaction = self.connection.get_transaction()
        began = self._transaction is None
        if began:
            self._transaction = self.connection.begin()
        elif not self._transaction.is_active:
            raise NoTransaction("the SQLAlchemy connection's transaction has failed or ended: roll it back before publishing in a new one")
        if is_autocommit(self.connection):
            if began:
                self.rollback()
            raise NoTransaction(
                "the SQLAlchemy connection is in AUTOCOMMIT mode, where every statement commits by itself: events need a transaction"
            )
        return began

    def in_transaction(self) -> bool:
        transaction = self.connection.get_transaction()
        return transaction is not None and transaction is self._transaction and transaction.is_active

    def run(self, command: Command) -> Rows:
        return run(self.connection, command)

    def commit(self) -> None:
        self._transaction.commit()

    def rollback(self) -> None:
        transaction = self.connection.get_transaction()
        if transaction is not None and transaction is self._transaction:
            transaction.rollback()

    def savepoints(self) -> tuple[str, ...]:
        return open_savepoints(self.connection)

    def rolled_back(self) -> Collection[str]:
        return rolled_back_savepoints(self.connection)

    def await_commit(self, receipt: Receipt) -> None:
        receipt.savepoints = self.savepoints()
        on_commit(self.connection, receipt)


class AsyncSqlalchemyLink(Link):
    """A link to an `AsyncConnection`."""

    asynchronous = True

    def __init__(self, connection: AsyncConnection) -> None:
        if connection.sync_connection is None:
            raise NoTransaction("the AsyncConnection is not connected yet: publish inside `async with engine.connect() as connection:`")
        self.connection = self.bind = connection.sync_connection
        self._owner = connection
        self._link = SqlalchemyLink(connection.sync_connection)

    async def _call(self, function: Callable[[], T]) -> T:
        return await self._owner.run_sync(lambda _: function())

    async def identity(self) -> Identity | None:
        return None

    async def begin(self) -> bool:
        return await self._call(self._link.begin)

    def in_transaction(self) -> bool:
        return self._link.in_transaction()

    async def run(self, command: Command) -> Rows:
        return await self._call(lambda: self._link.run(command))

    async def commit(self) -> None:
        await self._call(self._link.commit)

    async def rollback(self) -> None:
        await self._call(self._link.rollback)

    def savepoints(self) -> tuple[str, ...]:
        return self._link.savepoints()

    def rolled_back(self) -> Collection[str]:
        return self._link.rolled_back()

    def await_commit(self, receipt: Receipt) -> None:
        self._link.await_commit(receipt)
