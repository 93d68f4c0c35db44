"""Where the demo runs: a new SQLite file, or a schema of its own on PostgreSQL. Nothing of the user's is touched."""

from __future__ import annotations

import asyncio
import shlex
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.demo.shop.app import create_engine
from tidings.demo.shop.models import Base
from tidings.errors import ConfigurationError
from tidings.stores import SQLStore
from tidings.stores.sql.migrate import DEMO

__all__ = ["SCHEMA", "Place", "prepared"]

SCHEMA = "tidings_demo"

#: What says that a file was made by the demo, and may be replaced by the next one: "Tdgs" in ASCII. A schema's comment says so.
_APPLICATION_ID = 0x54646773

#: Seconds without a sign of life after which another demo there is thought to be over.
_SILENT = 30


@dataclass(frozen=True, slots=True)
class Place:
    """A database that is ready for the demo.

    Attributes:
        options: how to name it to the other commands.
    """

    engine: AsyncEngine
    schema: str | None
    options: str


async def prepared(url: URL | None) -> Place:
    """Make the tables, the shop's and the store's, afresh.

    Args:
        url: with an asynchronous driver; None is a new SQLite file in a new directory.

    Raises:
        ConfigurationError: there is something that the demo has not made, or another demo runs there.
    """
    if url is None:
        path = Path(tempfile.mkdtemp(prefix="tidings-demo-")) / "shop.sqlite"
        url = URL.create("sqlite+aiosqlite", database=str(path))
    postgresql = url.get_backend_name() == "postgresql"
    if not postgresql:
        await asyncio.to_thread(_refuse_other_file, url.database or "")
    schema = SCHEMA if postgresql else None
    engine = create_engine(url.render_as_string(hide_password=False), schema)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_clear_postgresql if postgresql else _clear_sqlite)
        await SQLStore(engine, schema=schema).upgrade()
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
    except BaseException:
        await engine.dispose()
        raise
    return Place(engine, schema, _options(url, schema))


def _clear_postgresql(connection: Connection) -> None:
    found = connection.execute(
        text("select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = :schema"), {"schema": SCHEMA}
    ).one_or_none()
    if found is not None:
        if found[0] != DEMO:
            raise ConfigurationError(f"there is a schema {SCHEMA!r} that the demo has not made: give another database")
        if connection.execute(text(f"select to_regclass('{SCHEMA}.tidings_workers') is not null")).scalar_one():
            alive = text(f"select count(*) from {SCHEMA}.tidings_workers where seen_at > now() - interval '{_SILENT} seconds'")
            _refuse_second(connection.execute(alive).scalar_one())
        connection.execute(text(f"drop schema {SCHEMA} cascade"))
    connection.execute(text(f"create schema {SCHEMA}"))
    connection.exec_driver_sql(f"comment on schema {SCHEMA} is '{DEMO.replace(chr(39), chr(39) * 2)}'")


def _refuse_other_file(name: str) -> None:
    # Read only, and before the engine's first connection, which would change the file's journal.
    path = Path(name)
    if not path.exists() or not path.stat().st_size:
        return
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        made_by = connection.execute("pragma application_id").fetchone()
    except sqlite3.DatabaseError:
        made_by = None
    finally:
        connection.close()
    if made_by != (_APPLICATION_ID,):
        raise ConfigurationError(f"the demo has not made {name}: give a file that does not exist")


def _clear_sqlite(connection: Connection) -> None:
    names = [row[0] for row in connection.execute(text("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"))]
    if "tidings_workers" in names:
        since = f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{_SILENT} seconds')"
        _refuse_second(connection.exec_driver_sql(f"select count(*) from tidings_workers where seen_at > {since}").scalar_one())
    for name in names:
        connection.exec_driver_sql(f'drop table "{name}"')
    connection.exec_driver_sql(f"pragma application_id = {_APPLICATION_ID}")


def _refuse_second(workers: int) -> None:
    if workers:
        raise ConfigurationError(
            f"another demo runs there, or was killed less than {_SILENT} seconds ago: stop it, wait, or give another database"
        )


def _options(url: URL, schema: str | None) -> str:
    # Without the driver, which the other commands choose by themselves; a password stays hidden.
    shown = url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)
    return f"--store {shlex.quote(shown)}" + ("" if schema is None else f" --schema {schema}")
