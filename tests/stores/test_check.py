"""`store.check()`, which is `tidings db check`: each way in which the tables can be wrong is found, and named with its cure."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import psycopg
import pytest

from tests.services.databases import Database
from tests.stores.opening import opened
from tidings.stores import SQLStore


def execute(database: Database, *statements: str) -> None:
    if database.kind == "sqlite":
        with closing(sqlite3.connect(database.dsn, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
        return
    with psycopg.connect(database.dsn) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]


async def test_tables_as_they_were_made_have_nothing_wrong(store: SQLStore) -> None:
    assert await store.check() == []


async def test_a_table_that_is_missing_is_named(store: SQLStore, database: Database) -> None:
    execute(database, "drop table tidings_inbox", "drop table tidings_stats")
    (problem,) = await store.check()
    assert store.names.inbox in problem
    assert store.names.stats in problem


INDEXES = {
    "none at all": None,
    "of the wrong order": "create index tidings_outbox_tx on tidings_outbox (position, tx)",
    "of one column": "create index tidings_outbox_tx on tidings_outbox (tx)",
    "of a part": "create index tidings_outbox_tx on tidings_outbox (tx, position) where position > 0",
}


@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
async def test_the_log_needs_its_index(postgresql_store: SQLStore, postgresql: Database, index: str | None) -> None:
    execute(postgresql, "drop index tidings_outbox_tx", *([index] if index else []))
    (problem,) = await postgresql_store.check()
    cure = problem.partition(": ")[2]
    assert cure == 'create index on "public"."tidings_outbox" (tx, position)'
    execute(postgresql, cure)
    assert await postgresql_store.check() == []


@pytest.mark.parametrize("options", ["cache 20", "cycle", "cache 20 cycle"])
async def test_positions_come_one_by_one_and_never_again(postgresql_store: SQLStore, postgresql: Database, options: str) -> None:
    execute(postgresql, f"alter sequence tidings_outbox_position_seq {options}")
    (problem,) = await postgresql_store.check()
    cure = problem.partition(": ")[2]
    assert "set cache 1 set no cycle" in cure
    execute(postgresql, cure)
    assert await postgresql_store.check() == []


async def test_a_position_that_nobody_gives_out_is_found(postgresql_store: SQLStore, postgresql: Database) -> None:
    execute(postgresql, "alter table tidings_outbox alter position drop identity")
    (problem,) = await postgresql_store.check()
    assert "not an identity column" in problem


async def test_tables_of_another_cluster_are_found(postgresql_store: SQLStore, postgresql: Database) -> None:
    execute(postgresql, "update tidings_meta set system_identifier = '1'")
    (problem,) = await postgresql_store.check()
    assert "tidings db restored" in problem


async def test_positions_on_sqlite_must_be_autoincrement(sqlite_store: SQLStore, sqlite: Database) -> None:
    execute(
        sqlite,
        "drop table tidings_outbox",
        "create table tidings_outbox (position integer primary key, id text, source text, name text, version integer, topic text, key text,"
        " slot integer, headers text, data text, time text)",
    )
    (problem,) = await sqlite_store.check()
    assert "not AUTOINCREMENT" in problem


async def test_sqlite_must_write_ahead(sqlite: Database) -> None:
    async with opened(sqlite) as store:
        await store.upgrade()
    await asyncio.to_thread(execute, sqlite, "pragma journal_mode = delete")
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(sqlite.url)
    (problem,) = await SQLStore(engine).check()
    assert "journal_mode is 'delete'" in problem
    assert "tidings.stores.sqlite.configure(engine)" in problem
    await engine.dispose()
