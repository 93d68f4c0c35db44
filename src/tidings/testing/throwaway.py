"""A SQLite file for one test: copied from one that has the tables, and gone afterwards."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tidings.errors import MissingExtra
from tidings.stores.sql import migrate
from tidings.stores.sql.names import Names
from tidings.stores.sqlite import configure

__all__ = ["make_async_engine", "make_engine", "make_file"]


def make_file(path: Path) -> None:
    """Make a SQLite file that has the store's tables."""
    path.write_bytes(_with_tables())


def make_engine(path: Path) -> Engine:
    """Return a synchronous engine for a file; it holds no connection that is not in use."""
    return _fit(create_engine(f"sqlite:///{path}", poolclass=NullPool))


def make_async_engine(path: Path, **options: Any) -> AsyncEngine:
    """Return an asynchronous engine for a file.

    Raises:
        MissingExtra: there is no asynchronous driver.
    """
    try:
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", **options)
    except ModuleNotFoundError as error:
        raise MissingExtra("the throw-away database of a test", "testing") from error
    _fit(engine.sync_engine)
    return engine


@cache
def _with_tables() -> bytes:
    """Return the content of a file with the store's tables; made once in a process."""
    with tempfile.TemporaryDirectory(prefix="tidings-") as directory:
        path = Path(directory) / "template.sqlite"
        engine = make_engine(path)
        names = Names(None, "tidings_")

        def upgrade(connection: Connection) -> None:
            migrate.upgrade(connection, names, 0)

        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        return path.read_bytes()


def _fit(engine: Engine) -> Engine:
    configure(engine)

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        # Nothing of a test has to survive a power cut.
        cursor = connection.cursor()
        cursor.execute("pragma synchronous = off")
        cursor.close()

    return engine
