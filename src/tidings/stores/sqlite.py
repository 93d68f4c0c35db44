"""Settings that make SQLite fit for several writers."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.errors import ConfigurationError
from tidings.stores.sql.connections import IMMEDIATE
from tidings.stores.sql.errors import kind_of

__all__ = ["configure"]

#: sqlite3.LEGACY_TRANSACTION_CONTROL, which came with Python 3.12: `isolation_level` says what begins a transaction.
_LEGACY = -1


def configure(engine: Engine | AsyncEngine, busy_timeout: float = 10.0) -> None:
    """Make every connection of a SQLite engine use write-ahead logging, wait for locks, and begin transactions with BEGIN IMMEDIATE.

    Call it once, before the engine's first connection. A deferred transaction that has read and then writes gets "database is locked" at
    once, whatever the timeout says; an immediate one waits for its turn (https://www.sqlite.org/lang_transaction.html).

    Args:
        busy_timeout: how many seconds a transaction waits for its turn.

    Raises:
        ConfigurationError: the engine is not for SQLite.
    """
    target = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    if target.dialect.name != "sqlite":
        raise ConfigurationError(f"tidings.stores.sqlite.configure is for SQLite, not {target.dialect.name!r}")

    @event.listens_for(target, "connect")
    def connect(connection: Any, record: Any) -> None:
        record.info[IMMEDIATE] = True
        # The driver's own BEGIN comes too late and is deferred; ours is sent below.
        if getattr(connection, "autocommit", _LEGACY) != _LEGACY:
            # As `connect_args` wanted it, there would always be a transaction, or commit() would do nothing. True first: it ends the
            # transaction that False has begun (https://docs.python.org/3/library/sqlite3.html#sqlite3.Connection.autocommit).
            connection.autocommit = True
            connection.autocommit = _LEGACY
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"pragma busy_timeout = {int(busy_timeout * 1000)}")
        try:
            cursor.execute("pragma journal_mode = wal")
        except Exception as error:
            # The switch does not wait for a lock. The file remembers it: whoever comes first makes it for all.
            if kind_of(error) != "conflict":
                raise
        finally:
            cursor.close()

    @event.listens_for(target, "invalidate")
    def invalidate(connection: Any, record: object, error: BaseException | None) -> None:
        # A task was cancelled in the middle of a statement. SQLAlchemy closes the connection, but SQLite keeps one with an unfinished
        # statement open behind the scenes, and with it the write lock (https://www.sqlite.org/c3ref/close.html); a rollback ends both.
        queue = getattr(getattr(connection, "driver_connection", None), "_tx", None)
        if queue is not None:  # aiosqlite: what is queued runs in the connection's thread, before it is closed
            queue.put_nowait((None, lambda: _roll_back(connection.driver_connection._connection)))

    @event.listens_for(target, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("begin immediate")


def _roll_back(connection: sqlite3.Connection | None) -> None:
    if connection is None:
        return
    if not connection.in_transaction:
        # A statement by itself, outside a transaction, is ended by a rollback only if there is one to roll back.
        connection.execute("begin")
    connection.rollback()
