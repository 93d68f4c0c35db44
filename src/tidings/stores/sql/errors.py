"""What an error of the database means for an attempt: run again, wait for the store, or a failure of the handler."""

from __future__ import annotations

import re
from typing import Any, Literal

from sqlalchemy import exc

__all__ = ["UNAVAILABLE", "is_unreachable", "kind_of", "may_not_write", "said_by", "sqlstate_of"]

#: What statements of ours, and getting a connection for them, raise when the database cannot be used now. SQLAlchemy's own TimeoutError says
#: that no pooled connection came free.
UNAVAILABLE = (exc.DBAPIError, exc.TimeoutError, OSError)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONFLICTS = {"40001", "40P01", "55P03"}
_OUTAGES = {"57P01", "57P02", "57P03", "53300", "25006", "25P03"}
# Lost, stopping or full, or it does not let us in: invalid authorization, no such database.
_SHUT = ("08", "28", "3D000", "53300", "57P01", "57P02", "57P03")
# https://www.sqlite.org/rescode.html: SQLITE_BUSY, SQLITE_IOERR, SQLITE_CANTOPEN
_SQLITE_SHUT = {5, 10, 14}
# insufficient_privilege, read_only_sql_transaction; SQLITE_READONLY
_WRITE_PROTECTED = {"42501", "25006"}
_SQLITE_READONLY = 8
_SQLITE_BUSY = ("database is locked", "database table is locked", "database schema is locked")


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's or SQLAlchemy's error, or None."""
    for candidate in (error, getattr(error, "orig", None), error.__cause__, getattr(getattr(error, "orig", None), "__cause__", None)):
        state = getattr(candidate, "sqlstate", None)
        if isinstance(state, str):
            return state
    return None


def kind_of(error: BaseException) -> Literal["conflict", "outage", "aborted"] | None:
    """Classify an error.

    `conflict` (deadlock, serialization failure, SQLite busy) runs again at once and uncounted; `outage` (connection lost, server stopping)
    waits for the store; `aborted` says that the transaction was broken before; None is the handler's own failure.
    """
    state = sqlstate_of(error)
    if state is not None:
        if state in _CONFLICTS:
            return "conflict"
        if state in _OUTAGES or state.startswith("08"):
            return "outage"
        return "aborted" if state == "25P02" else None
    if getattr(error, "connection_invalidated", False):
        return "outage"
    orig: Any = getattr(error, "orig", None) or error
    name = type(orig).__name__
    text = str(orig)
    if type(orig).__module__.startswith(("sqlite3", "aiosqlite")) or name == "OperationalError":
        if any(text.startswith(busy) for busy in _SQLITE_BUSY):
            return "conflict"
        # psycopg: an OperationalError without SQLSTATE is a broken connection.
        return "outage" if type(orig).__module__.startswith("psycopg") else None
    if name in ("ConnectionDoesNotExistError", "InterfaceError") and ("closed" in text or "connection" in text):
        return "outage"
    return None


def is_unreachable(error: BaseException) -> bool:
    """Whether a query of ours, or getting a connection for it, failed because there is no database to be had.

    What a database answers, such as that there is no such table, is none of this.
    """
    # SQLAlchemy does not wrap what asyncpg raises while it connects.
    if isinstance(error, OSError | exc.TimeoutError) or getattr(error, "connection_invalidated", False):
        return True
    state = sqlstate_of(error)
    if state is not None:
        return state.startswith(_SHUT)
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_SHUT
    return kind_of(error) == "outage"


def may_not_write(error: BaseException) -> bool:
    """Whether the database does not let us change anything: its role may not, or it is read-only."""
    state = sqlstate_of(error)
    if state is not None:
        return state in _WRITE_PROTECTED
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == _SQLITE_READONLY


def said_by(error: BaseException) -> str:
    """Return what a driver's or SQLAlchemy's error says, in one line."""
    text = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    # SQLAlchemy's adapters put the class of the driver's error before its message.
    text = re.sub(r"^<class '[^']*'>: ", "", text)
    return text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
