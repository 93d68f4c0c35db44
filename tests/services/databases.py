"""A fresh database for every test, on each kind of server."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg
import sqlalchemy as sa
from psycopg import sql

from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

Kind = Literal["sqlite", "postgresql"]

# Like `create database`, but ten times as fast: everything that a test can leave behind goes, and `public` is as it was.
_LEFTOVER_SCHEMAS = "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema'"
_LEFTOVER_PREPARED = "select gid from pg_prepared_xacts where database = current_database()"
_DISCONNECT = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type in ('client backend', 'walsender')
"""


@dataclass(frozen=True)
class Database:
    """An empty database of one test.

    Attributes:
        kind: `sqlite` or `postgresql`.
        url: For an async SQLAlchemy engine.
        sync_url: For a sync SQLAlchemy engine.
        dsn: For the driver itself: a libpq URL, or the path of the SQLite file.
    """

    kind: Kind
    url: str
    sync_url: str
    dsn: str

    @classmethod
    def sqlite(cls, path: Path) -> Database:
        """Describe a SQLite file, which need not exist yet."""
        return cls("sqlite", f"sqlite+aiosqlite:///{path}", f"sqlite:///{path}", str(path))

    @classmethod
    def postgresql(cls, dsn: str) -> Database:
        """Describe a database on a PostgreSQL server."""
        rest = dsn.partition("://")[2]
        return cls("postgresql", f"postgresql+asyncpg://{rest}", f"postgresql+psycopg://{rest}", dsn)


class SQLiteDatabases:
    """Files with our tables in them: copies of one, which is cheaper than making the tables.

    Args:
        directory: Where that one is made.
    """

    def __init__(self, directory: Path) -> None:
        self._template = directory / "template.sqlite"

    def upgraded(self, path: Path) -> Database:
        """Make a file with our tables in it."""
        if not self._template.exists():
            self._make()
        shutil.copyfile(self._template, path)
        return Database.sqlite(path)

    def _make(self) -> None:
        engine = sa.create_engine(Database.sqlite(self._template).sync_url)
        configure(engine)
        store = SQLStore(engine)
        asyncio.run(store.upgrade())
        store.close()
        # The last connection leaves everything in the file, and nothing in the log beside it.
        engine.dispose()


class PostgreSQLDatabases:
    """Databases on one server, reused from test to test after everything in them has been removed.

    Args:
        url: A libpq URL of a superuser.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # The process id keeps sessions on one server apart.
        self._prefix = f"tidings_test_{os.getpid()}_"
        self._made = 0
        self._idle: list[str] = []

    @contextmanager
    def fresh(self) -> Iterator[Database]:
        """Give an empty database that nobody else uses until the block is left."""
        name = self._idle.pop() if self._idle else self._create()
        try:
            yield Database.postgresql(self._dsn(name))
        finally:
            if self._empty(name):
                self._idle.append(name)
            else:
                self._drop(name)

    def close(self) -> None:
        """Drop every database that was made."""
        for name in self._idle:
            self._drop(name)
        self._idle.clear()

    def _dsn(self, name: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def _create(self) -> str:
        self._made += 1
        name = f"{self._prefix}{self._made}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        return name

    def _drop(self, name: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _empty(self, name: str) -> bool:
        """Remove everything; return False when the database is gone or cannot be emptied."""
        with suppress(psycopg.Error), psycopg.connect(self._dsn(name), autocommit=True) as connection:
            deadline = time.monotonic() + 10
            while connection.execute(_DISCONNECT).fetchone() != (0,):
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            for (gid,) in connection.execute(_LEFTOVER_PREPARED).fetchall():
                connection.execute(sql.SQL("rollback prepared {}").format(gid))
            connection.execute("set client_min_messages = warning")
            for (schema,) in connection.execute(_LEFTOVER_SCHEMAS).fetchall():
                connection.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
            connection.execute("create schema public")
            connection.execute("grant all on schema public to public")
            connection.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(name)))
            return True
        return False
