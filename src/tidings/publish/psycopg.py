"""Publishing on psycopg 3, synchronous and asynchronous."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from tidings.errors import NoTransaction
from tidings.publish.buffer import Rows
from tidings.publish.link import Link
from tidings.publish.publisher import Identity

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["AsyncPsycopgLink", "PsycopgLink"]


class PsycopgLink(Link):
    """A link to a psycopg `Connection`."""

    asynchronous = False

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        self._transaction: Any = None

    def identity(self) -> Identity | None:
        return _identity(self.connection)

    def begin(self) -> bool:
        if not _must_begin(self.connection):
            return False
        # Also with autocommit=True, and it keeps the caller from committing in the middle of the block.
        transaction = self.connection.transaction()
        transaction.__enter__()
        self._transaction = transaction
        return True

    def in_transaction(self) -> bool:
        return _status(self.connection) not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def run(self, command: Command) -> Rows:
        # A cursor of our own: the connection's cursor class or row factory may be any.
        with Cursor(self.connection, row_factory=tuple_row) as cursor:
            cursor.execute(command.sql.format.encode(), command.sql.ordered(command.arguments))
            return cursor.fetchall() if cursor.description is not None else []

    def commit(self) -> None:
        self._transaction.__exit__(None, None, None)

    def rollback(self) -> None:
        if not self.connection.closed:
            failure = _LeftByException()
            self._transaction.__exit__(type(failure), failure, None)


class AsyncPsycopgLink(Link):
    """A link to a psycopg `AsyncConnection`."""

    asynchronous = True

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self.connection = connection
        self._transaction: Any = None

    async def identity(self) -> Identity | None:
        return _identity(self.connection)

    async def begin(self) -> bool:
        if not _must_begin(self.connection):
            return False
        transaction = self.connection.transaction()
        await transaction.__aenter__()
        self._transaction = transaction
        return True

    def in_transaction(self) -> bool:
        return _status(self.connection) not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    async def run(self, command: Command) -> Rows:
        async with AsyncCursor(self.connection, row_factory=tuple_row) as cursor:
            await cursor.execute(command.sql.format.encode(), command.sql.ordered(command.arguments))
            return await cursor.fetchall() if cursor.description is not None else []

    async def commit(self) -> None:
        await self._transaction.__aexit__(None, None, None)

    async def rollback(self) -> None:
        if not self.connection.closed:
            failure = _LeftByException()
            await self._transaction.__aexit__(type(failure), failure, None)


class _LeftByException(Exception):
    """Given to psycopg's transaction block, which then rolls back."""


def _status(connection: Any) -> TransactionStatus:
    status: TransactionStatus = connection.info.transaction_status
    return status


def _must_begin(connection: Any) -> bool:
    status = _status(connection)
    if status is TransactionStatus.IDLE:
        return True
    if status is TransactionStatus.INERROR:
        raise NoTransaction("the psycopg connection's transaction has failed: roll it back before publishing in a new one")
    if status is TransactionStatus.UNKNOWN:
        raise NoTransaction("the psycopg connection is closed or lost: publish on an open one")
    return False


def _identity(connection: Any) -> Identity | None:
    host = "" if connection.closed else connection.info.host
    if not host or host.startswith(("/", "@")):
        return None  # a Unix socket
    return ("postgresql", host, str(connection.info.port), connection.info.dbname)
