"""What a `publishing` block needs of a connection, and which module knows how to give it for which kind of connection."""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from tidings.publish.buffer import Receipt, Rows
from tidings.publish.publisher import Identity

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["Link", "Maybe", "link_to"]

T = TypeVar("T")

#: A value from a synchronous driver, an awaitable of it from an asynchronous one.
Maybe: TypeAlias = T | Awaitable[T]


class Link(Protocol):
    """A connection, as a block sees it. What may talk to the database returns a value or, if the link is `asynchronous`, an awaitable.

    Attributes:
        asynchronous: whether the driver is.
        connection: the driver's own connection object, the same for every wrapper around it.
        bind: the SQLAlchemy connection, if it is one.
    """

    asynchronous: bool
    connection: Any
    bind: Any = None

    def identity(self) -> Maybe[Identity | None]:
        """Return which database this is, or None when the driver cannot say for sure."""
        ...

    def begin(self) -> Maybe[bool]:
        """Join the running transaction, or begin one; return whether it began one.

        Raises:
            NoTransaction: the transaction has failed, or the connection is closed or in a mode without transactions.
        """
        ...

    def in_transaction(self) -> bool:
        """Return whether there still is a transaction, as far as the driver knows without asking the server."""
        ...

    def run(self, command: Command) -> Maybe[Rows]:
        """Run a command; raises what the driver raises."""
        ...

    def commit(self) -> Maybe[None]:
        """Commit the transaction that `begin` began."""
        ...

    def rollback(self) -> Maybe[None]:
        """Roll back the transaction that `begin` began, whatever the caller has made of it."""
        ...

    def savepoints(self) -> tuple[str, ...]:
        """Return the open savepoints that the connection knows of; drivers do not tell."""
        return ()

    def rolled_back(self) -> Collection[str]:
        """Return those of them that were rolled back."""
        return ()

    def await_commit(self, receipt: Receipt) -> None:
        """Confirm a receipt once the caller commits, if the connection can tell; else readers find the events at their next poll."""
        return


# By where the class is defined, so that no driver is imported that the caller has not imported already.
_LINKS = {
    ("asyncpg.connection", "Connection"): ("tidings.publish.asyncpg", "AsyncpgLink"),
    ("asyncpg.pool", "PoolConnectionProxy"): ("tidings.publish.asyncpg", "AsyncpgLink"),
    ("psycopg", "Connection"): ("tidings.publish.psycopg", "PsycopgLink"),
    ("psycopg", "AsyncConnection"): ("tidings.publish.psycopg", "AsyncPsycopgLink"),
    ("sqlite3", "Connection"): ("tidings.publish.sqlite3", "SqliteLink"),
    ("aiosqlite.core", "Connection"): ("tidings.publish.aiosqlite", "AiosqliteLink"),
    ("sqlalchemy.engine.base", "Connection"): ("tidings.publish.sqlalchemy", "SqlalchemyLink"),
    ("sqlalchemy.ext.asyncio.engine", "AsyncConnection"): ("tidings.publish.sqlalchemy", "AsyncSqlalchemyLink"),
}

_SUPPORTED = "asyncpg, psycopg, sqlite3, aiosqlite or SQLAlchemy"

_HINTS = {
    ("sqlalchemy.orm.session", "Session"): "publish on it directly: service.publish(session, event)",
    ("sqlalchemy.orm.scoping", "scoped_session"): "publish on it directly: service.publish(session, event)",
    ("sqlalchemy.ext.asyncio.session", "AsyncSession"): "publish on it directly: service.publish(session, event)",
    ("sqlalchemy.ext.asyncio.scoping", "async_scoped_session"): "publish on it directly: service.publish(session, event)",
    ("sqlalchemy.engine.base", "Engine"): "give one of its connections: `with engine.connect() as connection:`",
    ("sqlalchemy.ext.asyncio.engine", "AsyncEngine"): "give one of its connections: `async with engine.connect() as connection:`",
    ("asyncpg.pool", "Pool"): "give one of its connections: `async with pool.acquire() as connection:`",
    ("psycopg_pool.pool", "ConnectionPool"): "give one of its connections: `with pool.connection() as connection:`",
    ("psycopg_pool.pool_async", "AsyncConnectionPool"): "give one of its connections: `async with pool.connection() as connection:`",
    ("psycopg", "Cursor"): "give its connection: cursor.connection",
    ("psycopg", "AsyncCursor"): "give its connection: cursor.connection",
    ("sqlite3", "Cursor"): "give its connection: cursor.connection",
}


def link_to(connection: object) -> Link:
    """Return the link to a connection.

    Raises:
        TypeError: no module here knows it; says what is supported, and what to do about a near miss.
    """
    for base in type(connection).__mro__:
        place = _LINKS.get((base.__module__, base.__qualname__))
        if place is not None:
            module, name = place
            link: Link = getattr(import_module(module), name)(connection)
            return link
    hints = (_HINTS.get((base.__module__, base.__qualname__)) for base in type(connection).__mro__)
    hint = next((hint for hint in hints if hint), f"it knows connections of {_SUPPORTED}")
    raise TypeError(f"service.publishing cannot publish on a {type(connection).__module__}.{type(connection).__qualname__}; {hint}")
