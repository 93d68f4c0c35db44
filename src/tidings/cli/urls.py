"""Database URLs as people write them: with a driver or without, with a password that nobody else must see."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidings.cli.command import Misused, Unreachable

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["engine_for", "masked", "require_file", "url_of"]

# By database: driver, its module, our extra, and whether it has an asynchronous and a synchronous form.
_DRIVERS: dict[str, tuple[tuple[str, str, str, bool, bool], ...]] = {
    "postgresql": (("asyncpg", "asyncpg", "postgresql", True, False), ("psycopg", "psycopg", "psycopg", True, True)),
    "sqlite": (("aiosqlite", "aiosqlite", "sqlite", True, False), ("pysqlite", "sqlite3", "sqlalchemy", False, True)),
}

#: Seconds to wait for a connection, or for SQLite's lock.
_PATIENCE = 10
#: What a driver is told unless the URL says it: to be patient; and to keep no prepared statements, which the address may not stand, being
#: that of a pooling proxy, and which a command has no use for.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "asyncpg": {"timeout": _PATIENCE, "statement_cache_size": 0, "prepared_statement_cache_size": 0},
    "psycopg": {"connect_timeout": _PATIENCE, "prepare_threshold": None},
    "aiosqlite": {"timeout": _PATIENCE},
    "pysqlite": {"timeout": _PATIENCE},
}

_SECRET = ("pass", "secret", "token", "key")


def url_of(given: str, *, asynchronous: bool = False) -> URL:
    """Return a URL with a driver that is installed.

    Args:
        given: `postgresql://…`, `sqlite:///file`, or with a driver: `postgresql+asyncpg://…`.
        asynchronous: the driver must have an asynchronous form.

    Raises:
        Misused: not a URL, another database, or no driver for it.
    """
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise Misused("a store needs SQLAlchemy: pip install 'tidings[sqlite]' or 'tidings[postgresql]'") from None
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        # What was given is not repeated: it may hold a password.
        raise Misused("the store's URL cannot be understood: write postgresql://user@host/database or sqlite:///file") from None
    database, _, wanted = url.drivername.partition("+")
    database = {"postgres": "postgresql"}.get(database, database)
    drivers = _DRIVERS.get(database)
    if drivers is None:
        raise Misused(f"there is no store for {database!r}: use PostgreSQL or SQLite")
    if database == "sqlite" and url.database in (None, "", ":memory:"):
        raise Misused("an in-memory SQLite database is gone when the command ends: write sqlite:///file")
    if not asynchronous and database == "sqlite" and not wanted:
        wanted = "pysqlite"
    for driver, module, extra, has_async, _ in drivers:
        if driver == wanted and (has_async or not asynchronous):
            if find_spec(module) is None:
                raise Misused(f"the driver {driver} is not installed: pip install 'tidings[{extra}]'")
            return _adapted(url, database, driver)
    # A driver that is not ours (psycopg2 …) leads to the same database as one that is.
    for driver, module, _, has_async, _ in drivers:
        if (has_async or not asynchronous) and find_spec(module) is not None:
            return _adapted(url, database, driver)
    raise Misused(f"no driver for {database} is installed: pip install 'tidings[{drivers[0][2]}]'")


def engine_for(url: URL, *, asynchronous: bool = False, **options: Any) -> Engine | AsyncEngine:
    """Return an engine that does not wait for ever; asynchronous where the driver has no other form, or if asked for."""
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import create_async_engine

    driver = url.get_driver_name()
    arguments = {name: value for name, value in _ARGUMENTS[driver].items() if name not in url.query}
    synchronous = next(sync for name, _, _, _, sync in _DRIVERS[url.get_backend_name()] if name == driver)
    if asynchronous or not synchronous:
        return create_async_engine(url, connect_args=arguments, **options)
    return create_engine(url, connect_args=arguments, **options)


def require_file(url: URL) -> None:
    """Refuse a SQLite file that does not exist: connecting would make an empty one.

    Raises:
        Unreachable: there is no such file.
    """
    name = url.database
    if url.get_backend_name() == "sqlite" and name and not name.startswith("file:") and not Path(name).exists():
        raise Unreachable(f"there is no file {name}: 'tidings db upgrade' makes it, with its tables")


def masked(url: URL) -> str:
    """Return the URL without its password and other secrets."""
    query = {name: "hidden" if any(word in name.lower() for word in _SECRET) else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _adapted(url: URL, database: str, driver: str) -> URL:
    query = dict(url.query)
    if driver == "asyncpg" and "sslmode" in query:
        # libpq's word for what asyncpg calls ssl; the values are the same.
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername=f"{database}+{driver}", query=query)
