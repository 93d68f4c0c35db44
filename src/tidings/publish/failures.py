"""What a driver's error means for a publisher, whatever driver it is."""

from __future__ import annotations

from tidings.errors import NoTransaction, SchemaError, TidingsError

__all__ = ["explained", "sqlstate"]

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED_TABLE = "42P01"
_UNDEFINED_COLUMN = "42703"
_UNDEFINED_OBJECT = frozenset({_UNDEFINED_TABLE, _UNDEFINED_COLUMN, "3F000"})
_FAILED_TRANSACTION = "25P02"
_SQLITE = ("no such table", "no such column", "has no column named")


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's error code, from asyncpg, psycopg or SQLAlchemy's wrapper of either."""
    for each in (error, getattr(error, "orig", None)):
        code = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if isinstance(code, str):
            return code
    return None


def explained(error: BaseException) -> TidingsError | None:
    """Return the error of ours that says what to do about a driver's error, or None when the driver has said it all."""
    code = sqlstate(error)
    text = str(getattr(error, "orig", None) or error)
    if code in _UNDEFINED_OBJECT or (code is None and any(words in text for words in _SQLITE)):
        return SchemaError(f"the store's tables are missing or too old in this database ({_first_line(text)}): run `tidings db upgrade`")
    if code == _FAILED_TRANSACTION:
        return NoTransaction("the transaction failed earlier and can only be rolled back: an error inside it was swallowed")
    return None


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
