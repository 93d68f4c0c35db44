"""Making the tables, and bringing them forward: `store.upgrade()`, which is `tidings db upgrade`."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database
from tests.stores.catalog import described
from tests.stores.clusters import Programs
from tests.stores.events import everything, ids, outgoing, publish
from tests.stores.opening import opened
from tests.stores.processes import Processes
from tidings.errors import ConfigurationError, SchemaError
from tidings.stores import SQLStore
from tidings.stores.sql import migrate
from tidings.stores.sql.migrations import STEPS, VERSION
from tidings.stores.sql.names import TABLES, Names


async def catalog(store: SQLStore, schema: str | None = None) -> dict[str, Any]:
    return await store.transact(described, schema)


async def test_upgrading_makes_the_tables_and_a_second_time_changes_nothing(database: Database) -> None:
    async with opened(database) as store:
        assert await store.upgrade() == (0, VERSION)
        made = await catalog(store)
        assert await store.upgrade() == (VERSION, VERSION)
        assert await catalog(store) == made
        assert await store.check() == []
        await store.open()


@pytest.mark.parametrize("sync", [False, True], ids=["AsyncEngine", "Engine"])
async def test_a_store_works_on_either_kind_of_engine(database: Database, sync: bool) -> None:
    async with opened(database, sync=sync) as store:
        await store.upgrade()
        await store.open()
        event = outgoing()
        await publish(store, event)
        assert ids(await everything(store)) == [str(event.id)]


async def test_processes_that_upgrade_at_once_make_the_tables_once(database: Database, four_processes: Processes) -> None:
    results = await asyncio.to_thread(four_processes.all_at_once, "upgrade", database.url)
    assert sorted(results) == [[0, VERSION]] + [[VERSION, VERSION]] * 3
    async with opened(database) as store:
        assert await store.check() == []


async def test_so_do_processes_whose_engines_are_configured(sqlite: Database, four_processes: Processes) -> None:
    results = await asyncio.to_thread(four_processes.all_at_once, "upgrade", sqlite.url, configured=True)
    assert sorted(results) == [[0, VERSION]] + [[VERSION, VERSION]] * 3


async def test_a_file_in_use_is_switched_to_write_ahead_logging_as_soon_as_that_is_possible(sqlite: Database) -> None:
    """SQLite does not wait for this by itself, whatever its timeout says."""
    with closing(sqlite3.connect(sqlite.dsn, isolation_level=None)) as other:
        other.execute("create table notes (word text)")
        other.execute("begin")
        other.execute("select * from notes")
        async with opened(sqlite) as store:
            upgrading = asyncio.create_task(store.upgrade())
            done, _ = await asyncio.wait([upgrading], timeout=0.2)
            assert not done
            other.execute("commit")
            assert await upgrading == (0, VERSION)
            assert await store.check() == []


async def test_two_engines_of_one_process_may_upgrade_at_once(database: Database) -> None:
    async with opened(database) as one, opened(database, sync=True) as other:
        assert sorted(await asyncio.gather(one.upgrade(), other.upgrade())) == [(0, VERSION), (VERSION, VERSION)]


async def test_two_sets_of_tables_stand_side_by_side_under_their_prefixes(database: Database) -> None:
    async with opened(database) as one, opened(database, prefix="audit_") as other:
        await one.upgrade()
        assert await other.upgrade() == (0, VERSION)
        event = outgoing()
        await publish(one, event)
        assert ids(await everything(one)) == [str(event.id)]
        assert await everything(other) == []


async def test_a_migration_that_fails_leaves_nothing_behind(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(dialect: str, names: Names) -> list[str]:
        return [f"alter table {names.outbox} add column novel integer", "this is not sql"]

    async with opened(database) as store:
        nothing = await catalog(store)
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "STEPS", (*STEPS, failing))
            patch.setattr(migrate, "VERSION", VERSION + 1)
            with pytest.raises(DBAPIError, match="syntax error"):
                await store.upgrade()
            assert await catalog(store) == nothing
        await store.upgrade()
        made = await catalog(store)
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "STEPS", (*STEPS, failing))
            patch.setattr(migrate, "VERSION", VERSION + 1)
            with pytest.raises(DBAPIError, match="syntax error"):
                await store.upgrade()
        assert await catalog(store) == made
        assert await store.upgrade() == (VERSION, VERSION)


async def test_tables_of_an_older_version_are_brought_forward_with_what_is_in_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database) as store:
        await store.upgrade()
        event = outgoing()
        await publish(store, event)
        monkeypatch.setattr(migrate, "STEPS", (*STEPS, lambda _, names: [f"alter table {names.outbox} add column novel integer"]))
        monkeypatch.setattr(migrate, "VERSION", VERSION + 1)
        (problem,) = await store.check()
        assert f"schema version {VERSION}" in problem
        assert "run 'tidings db upgrade'" in problem
        await store.open()  # an additive change can wait: a rolling deploy runs two versions of the code
        assert await store.upgrade() == (VERSION, VERSION + 1)
        assert await store.upgrade() == (VERSION + 1, VERSION + 1)
        assert await store.check() == []
        assert ids(await everything(store)) == [str(event.id)]


async def test_tables_of_a_newer_version_are_left_alone(store: SQLStore) -> None:
    await store.call(lambda c: c.exec_driver_sql(f"update {store.names.meta} set schema_version = 99").close())
    made = await catalog(store)
    assert await store.upgrade() == (99, 99)
    assert await catalog(store) == made
    assert await store.check() == []
    await store.open()


async def test_tables_that_are_too_old_for_this_code_are_refused(store: SQLStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "OLDEST_USABLE", VERSION + 1)
    with pytest.raises(SchemaError, match="tidings db upgrade"):
        await store.open()
    assert any(f"needs at least {VERSION + 1}" in problem for problem in await store.check())


async def test_without_tables_every_use_says_what_to_run(database: Database) -> None:
    async with opened(database) as store:
        for use in (store.open(), everything(store), publish(store, outgoing())):
            with pytest.raises(SchemaError, match=r"(?s)tidings db upgrade"):
                await use
        assert len(await store.check()) == 1


class TestSchemas:
    async def test_a_schema_that_is_named_is_made_and_holds_every_table(self, postgresql: Database) -> None:
        async with opened(postgresql, schema="events") as store:
            assert await store.upgrade() == (0, VERSION)
            await store.open()
            assert await store.check() == []
        with psycopg.connect(postgresql.dsn) as connection:
            found = connection.execute("select schemaname, tablename from pg_tables where tablename like 'tidings_%'").fetchall()
        assert sorted(found) == sorted(("events", f"tidings_{table}") for table in TABLES)

    async def test_without_one_the_tables_go_where_the_search_path_leads_and_are_found_whatever_it_says_later(
        self, postgresql: Database
    ) -> None:
        with psycopg.connect(postgresql.dsn) as connection:
            connection.execute("create schema tenant")
            connection.execute("create schema other")
        path = {"connect_args": {"server_settings": {"search_path": "nowhere, tenant"}}}
        async with opened(postgresql, **path) as store:
            await store.upgrade()
            assert store.names.schema == "tenant"
            event = outgoing()
            await publish(store, event)
        async with opened(postgresql, connect_args={"server_settings": {"search_path": "other"}}) as store:
            await store.open()
            assert store.names.schema == "tenant"
            assert await store.upgrade() == (VERSION, VERSION)
            assert ids(await everything(store)) == [str(event.id)]

    async def test_tables_in_two_schemas_are_an_error_that_names_them(self, postgresql: Database) -> None:
        for schema in ("one", "two"):
            async with opened(postgresql, schema=schema) as store:
                await store.upgrade()
        async with opened(postgresql) as store:
            for use in (store.open, store.upgrade):
                with pytest.raises(ConfigurationError, match=r"one, two.*SQLStore\(engine, schema='one'\)"):
                    await use()
            (problem,) = await store.check()
            assert "one, two" in problem
        async with opened(postgresql, schema="two") as store:
            await store.open()

    async def test_a_search_path_without_any_schema_is_an_error(self, postgresql: Database) -> None:
        async with opened(postgresql, connect_args={"server_settings": {"search_path": "nowhere"}}) as store:
            with pytest.raises(ConfigurationError, match="search_path"):
                await store.upgrade()

    async def test_who_may_not_make_schemas_can_upgrade_in_one_that_exists(self, postgresql: Database, postgresql_url: str) -> None:
        with psycopg.connect(postgresql.dsn, autocommit=True) as connection:
            connection.execute("create role tidings_test_modest login")
            try:
                connection.execute("create schema modest authorization tidings_test_modest")
                for schema, path in (("modest", "public"), (None, "modest")):
                    modest = Database.postgresql(postgresql.dsn.replace("tidings@", "tidings_test_modest@", 1))
                    async with opened(modest, schema=schema, connect_args={"server_settings": {"search_path": path}}) as store:
                        await store.upgrade()
                        await store.open()
                        assert await store.check() == []
            finally:
                connection.execute("drop schema modest cascade")
                connection.execute("drop role tidings_test_modest")


class TestScript:
    """`tidings db sql`, for a database administrator to run."""

    @pytest.mark.parametrize("schema", [None, "events"])
    async def test_psql_makes_of_it_what_upgrade_makes(self, postgresql: Database, programs: Programs, schema: str | None) -> None:
        script = migrate.script("postgresql", Names(schema, "tidings_"))
        output = programs.run("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", postgresql.dsn, stdin=script)
        assert output == ""
        async with opened(postgresql, schema=schema) as store:
            await store.open()
            assert await store.check() == []
            assert await store.upgrade() == (VERSION, VERSION)
            by_script = await catalog(store, schema or "public")
        with psycopg.connect(postgresql.dsn, autocommit=True) as connection:
            connection.execute(f"drop schema {schema or 'public'} cascade")  # type: ignore[arg-type]
            connection.execute("create schema if not exists public")
        async with opened(postgresql, schema=schema) as store:
            await store.upgrade()
            assert await catalog(store, schema or "public") == by_script

    async def test_sqlite_makes_of_it_what_upgrade_makes(self, sqlite: Database, tmp_path: Any) -> None:
        with closing(sqlite3.connect(sqlite.dsn)) as connection:
            connection.executescript(migrate.script("sqlite", Names(None, "tidings_")))
        async with opened(sqlite) as store:
            await store.open()
            assert await store.check() == []
            assert await store.upgrade() == (VERSION, VERSION)
            by_script = await catalog(store)
        async with opened(Database.sqlite(tmp_path / "upgraded.sqlite")) as store:
            await store.upgrade()
            assert await catalog(store) == by_script

    async def test_run_twice_it_changes_nothing(self, postgresql: Database) -> None:
        script = migrate.script("postgresql", Names(None, "tidings_"))
        with psycopg.connect(postgresql.dsn, autocommit=True) as connection:
            connection.execute(script)  # type: ignore[arg-type]
            with pytest.raises(psycopg.errors.DuplicateTable):
                connection.execute(script)  # type: ignore[arg-type]
        async with opened(postgresql) as store:
            assert await store.check() == []


def test_the_tables_live_in_one_transaction_of_the_caller(sqlite: Database) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(sqlite.sync_url)
    names = Names(None, "tidings_")

    def version(connection: Connection) -> int:
        return migrate.current_version(connection, names)

    with engine.connect() as connection:
        connection.exec_driver_sql("begin immediate")
        migrate.upgrade(connection, names, 1)
        assert version(connection) == VERSION
        connection.rollback()
        assert version(connection) == 0
    engine.dispose()
