"""Publishing on the standard library's sqlite3."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

from tidings.publish.buffer import Rows
from tidings.publish.link import Link
from tidings.publish.publisher import Identity

if TYPE_CHECKING:
    from tidings.stores.sql.statement import Command

__all__ = ["SqliteLink"]

# The write lock is taken at once: a transaction that has read could not wait for it later (SQLITE_BUSY whatever the timeout).
_BEGIN = "begin immediate"

# The file of the main database; empty for one in memory.
_MAIN_FILE = "select file from pragma_database_list where name = 'main'"


class SqliteLink(Link):
    """A link to a `sqlite3.Connection`, in each of its transaction modes.

    BEGIN and COMMIT are written out, because `connection.commit()` does nothing with `autocommit=True`, and `isolation_level` says only
    what the module begins by itself. With `autocommit=False` there always is a transaction, which is the caller's to commit.
    """

    asynchronous = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def identity(self) -> Identity | None:
        ((file,),) = self._fetch(_MAIN_FILE)
        path = file.decode() if isinstance(file, bytes) else file
        return ("sqlite", os.path.realpath(path)) if path else None

    def begin(self) -> bool:
        if self.in_transaction():
            return False
        self.connection.execute(_BEGIN).close()
        return True

    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def run(self, command: Command) -> Rows:
        sql, arguments, many = command
        if many:
            self.connection.executemany(sql.qmark, [sql.ordered(row) for row in arguments]).close()
            return []
        return self._fetch(sql.qmark, sql.ordered(arguments))

    def commit(self) -> None:
        self.connection.execute("commit").close()

    def rollback(self) -> None:
        if self.in_transaction():
            self.connection.execute("rollback").close()

    def _fetch(self, sql: str, parameters: tuple[object, ...] = ()) -> Rows:
        cursor = self.connection.cursor()
        try:
            cursor.row_factory = None  # the connection's may be any
            return cursor.execute(sql, parameters).fetchall()
        finally:
            cursor.close()
