from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import psycopg
from sqlalchemy import create_engine

from tests.cli.conftest import CommandLine
from tests.cli.till import fill
from tests.services.databases import Database


def test_upgrade_makes_the_tables_and_does_nothing_the_second_time(cli: CommandLine, database: Database) -> None:
    first = cli("db", "upgrade", store=database)
    assert (first.exit_code, first.out) == (0, "created the tables, schema version 1\n")
    second = cli("db", "upgrade", store=database)
    assert (second.exit_code, second.out) == (0, "nothing to do: the tables have schema version 1\n")
    assert cli("db", "check", store=database).exit_code == 0
    assert cli("db", "check", "--json", store=database).json == {"well": True, "problems": []}


def test_the_sql_makes_the_same_tables_on_sqlite(cli: CommandLine, sqlite: Database) -> None:
    script = cli("db", "sql", "--dialect", "sqlite")
    assert script.exit_code == 0
    connection = sqlite3.connect(sqlite.dsn)
    connection.executescript(script.out)
    connection.close()
    assert cli("db", "check", store=sqlite).out == "the tables are as they should be\n"
    assert cli("db", "upgrade", store=sqlite).out.startswith("nothing to do")


def test_the_sql_makes_the_same_tables_on_postgresql(cli: CommandLine, postgresql: Database) -> None:
    script = cli("db", "sql", "--dialect", "postgresql", "--schema", "events", "--prefix", "t_")
    with psycopg.connect(postgresql.dsn, autocommit=True) as connection:
        connection.execute(script.out)  # type: ignore[arg-type]
    assert cli("db", "check", "--prefix", "t_", store=postgresql).exit_code == 0


def test_what_cannot_be_a_name_is_a_usage_error(cli: CommandLine) -> None:
    assert cli("db", "sql", "--dialect", "postgresql", "--prefix", "a b").exit_code == 2
    assert cli("db", "sql", "--dialect", "sqlite", "--schema", "x").exit_code == 2
    assert cli("db", "sql", "--dialect", "oracle").exit_code == 2


def test_check_lists_what_is_wrong_and_exits_with_one(cli: CommandLine, database: Database) -> None:
    if database.kind == "sqlite":
        Path(database.dsn).touch()
    missing = cli("db", "check", store=database)
    assert missing.exit_code == 1
    assert "run 'tidings db upgrade'" in missing.out
    cli("db", "upgrade", store=database)
    if database.kind == "sqlite":
        with sqlite3.connect(database.dsn) as connection:
            connection.execute("pragma journal_mode = delete")
        connection.close()
    else:
        with psycopg.connect(database.dsn) as server:
            server.execute("drop index tidings_outbox_tx")
    broken = cli("db", "check", "--json", store=database)
    assert broken.exit_code == 1
    assert len(broken.json["problems"]) == 1


def test_restored_mends_tables_of_another_cluster_and_else_does_nothing(cli: CommandLine, database: Database) -> None:
    cli("db", "upgrade", store=database)
    assert cli("db", "restored", store=database).out.startswith("nothing to do")
    if database.kind == "postgresql":
        with psycopg.connect(database.dsn) as server:
            server.execute("update tidings_meta set system_identifier = '1'")
        assert cli("db", "check", store=database).exit_code == 1
        assert cli("db", "restored", store=database).out.startswith("mended")
        assert cli("db", "check", store=database).exit_code == 0


def test_purge_deletes_what_is_old_enough_and_read_by_all(cli: CommandLine, database: Database) -> None:
    assert cli("db", "upgrade", store=database).exit_code == 0
    ended = cli("db", "purge", store=database)
    assert ended.exit_code == 2
    assert "no service has said how long these tables are kept" in ended.err
    asyncio.run(fill(database))
    assert cli("db", "purge", store=database).out == "nothing to do: no row is old enough\n"
    engine = create_engine(database.sync_url)
    old = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-90 days')" if database.kind == "sqlite" else "now() - interval '90 days'"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"update tidings_outbox set time = {old}")
        connection.exec_driver_sql(f"update tidings_inbox set handled_at = {old}")
        before = connection.exec_driver_sql("select count(*) from tidings_outbox").scalar_one()
        unread = connection.exec_driver_sql("select count(*) from tidings_inbox").scalar_one()
    ended = cli("db", "purge", store=database)
    assert ended.exit_code == 0
    with engine.connect() as connection:
        kept = connection.exec_driver_sql("select count(*) from tidings_outbox").scalar_one()
        assert connection.exec_driver_sql("select count(*) from tidings_inbox").scalar_one() == 0
        assert connection.exec_driver_sql("select owner from tidings_checkpoints where reader = 'task:purger'").scalar_one() is None
    assert 0 < kept < before  # what somebody has not read yet stays
    assert ended.out == f"deleted {before - kept + unread:,} rows\n"
    engine.dispose()


def test_purge_leaves_it_to_a_worker_that_is_there(cli: CommandLine, database: Database) -> None:
    asyncio.run(fill(database))
    engine = create_engine(database.sync_url)
    soon = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 minute')" if database.kind == "sqlite" else "now() + interval '1 minute'"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"update tidings_checkpoints set owner = 'a worker', lease_until = {soon} where reader = 'task:purger'")
    engine.dispose()
    ended = cli("db", "purge", store=database)
    assert ended.exit_code == 1
    assert "a worker of these tables has it in hand" in ended.err
