"""Which store a command works on, and what it says when it cannot."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.services.databases import Database
from tidings.cli.command import Misused
from tidings.cli.store import failed
from tidings.cli.urls import masked, url_of


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("sqlite:///shop.db", "sqlite+pysqlite:///shop.db"),
        ("sqlite+aiosqlite:///shop.db", "sqlite+aiosqlite:///shop.db"),
        ("postgresql://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql+psycopg2://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h/d?sslmode=require", "postgresql+asyncpg://u@h/d?ssl=require"),
    ],
)
def test_a_url_gets_a_driver_that_is_installed(given: str, wanted: str) -> None:
    assert url_of(given).render_as_string(hide_password=False) == wanted


def test_the_demo_gets_an_asynchronous_driver() -> None:
    assert url_of("sqlite:///x", asynchronous=True).drivername == "sqlite+aiosqlite"
    assert url_of("postgresql+psycopg://h/d", asynchronous=True).drivername == "postgresql+psycopg"


def test_a_driver_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.cli.urls.find_spec", lambda name: None)
    with pytest.raises(Misused, match=r"pip install 'tidings\[psycopg\]'"):
        url_of("postgresql+psycopg://h/d")
    with pytest.raises(Misused, match=r"no driver for postgresql is installed: pip install 'tidings\[postgresql\]'"):
        url_of("postgresql://h/d")


def test_without_sqlalchemy_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(Misused, match="needs SQLAlchemy"):
        url_of("sqlite:///x")


def test_a_file_that_nobody_may_write_can_be_looked_at(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    assert cli("db", "upgrade", "--store", f"sqlite:///{file}").exit_code == 0
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("pragma journal_mode = wal").fetchone() == ("wal",)
    assert not file.with_name("a.db-wal").exists()
    for words in ("mode=ro", "mode=ro&immutable=1"):
        for command in (("status",), ("tail",), ("dead", "list")):
            assert cli(*command, "--store", f"sqlite:///file:{file}?{words}&uri=true").exit_code == 0
    # In a directory that is read-only, too, SQLite cannot even read: the sentence says what to do.
    assert "immutable=1" in str(failed(sqlite3.OperationalError("attempt to write a readonly database"), "x"))


def test_passwords_are_not_shown() -> None:
    shown = masked(url_of("postgresql://u:geheim@h/d?sslpassword=geheim&application_name=x"))
    assert "geheim" not in shown
    assert "application_name=x" in shown


@pytest.mark.parametrize(
    ("url", "exit_code", "says"),
    [
        ("postgresql://u:geheim@127.0.0.1:1/d", 3, "cannot be used"),
        ("postgresql+psycopg://u:geheim@127.0.0.1:1/d", 3, "cannot be used"),
        ("mysql://u:geheim@h/d", 2, "there is no store for 'mysql'"),
        ("postgresql://u:geheim@[::1/d", 2, "cannot be understood"),
        ("geheim", 2, "cannot be understood"),
        ("sqlite://", 2, "in-memory"),
        ("sqlite:////nowhere/geheim/x.db?password=geheim", 3, "there is no file"),
    ],
)
@pytest.mark.parametrize("command", [("status",), ("dead", "list"), ("tail",), ("db", "check"), ("groups", "list")], ids=" ".join)
def test_what_cannot_be_used_ends_in_one_sentence(cli: CommandLine, command: tuple[str, ...], url: str, exit_code: int, says: str) -> None:
    ended = cli(*command, "--store", url)
    assert ended.exit_code == exit_code
    assert says in ended.err
    assert len(ended.err.splitlines()) == 1
    assert "Traceback" not in ended.err
    assert "geheim" not in ended.err.replace("/nowhere/geheim/x.db", "")
    assert ended.out == ""


def test_with_debug_the_traceback_is_shown(cli: CommandLine) -> None:
    with pytest.raises(OSError, match="refused|failed"):
        cli("--debug", "status", "--store", "postgresql+asyncpg://u@127.0.0.1:1/d")


def test_a_command_without_a_store_says_how_to_give_one(cli: CommandLine) -> None:
    ended = cli("status")
    assert ended.exit_code == 2
    assert "--store URL, the environment variable TIDINGS_STORE, or --service" in ended.err


def test_the_environment_can_name_the_store_and_an_option_goes_before_it(cli: CommandLine, sqlite: Database) -> None:
    assert cli("db", "upgrade", TIDINGS_STORE=sqlite.url).exit_code == 0
    assert cli("status", TIDINGS_STORE=sqlite.sync_url).exit_code == 0
    assert cli("status", TIDINGS_STORE="mysql://h/d", store=sqlite).exit_code == 0


def test_looking_makes_no_file(cli: CommandLine, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    for command in (("status",), ("db", "check"), ("db", "restored"), ("tail",), ("dead", "list"), ("dead", "show", "1")):
        assert cli(*command, "--store", f"sqlite:///{missing}").exit_code == 3
    assert not missing.exists()


def test_a_database_without_tables_says_what_to_do(cli: CommandLine, database: Database) -> None:
    if database.kind == "sqlite":
        Path(database.dsn).touch()
    for command in (("status",), ("tail",), ("dead", "list"), ("subscriptions", "list"), ("groups", "list")):
        ended = cli(*command, store=database)
        assert ended.exit_code == 3
        assert "run 'tidings db upgrade'" in ended.err


def test_a_file_that_is_no_database_is_a_sentence(cli: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no database at all, but long enough to be looked at by somebody who expects one", encoding="utf-8")
    ended = cli("status", "--store", f"sqlite:///{file}")
    assert ended.exit_code == 3
    assert "file is not a database" in ended.err


def test_a_schema_of_its_own_is_found_and_can_be_named(cli: CommandLine, postgresql: Database) -> None:
    assert cli("db", "upgrade", "--schema", "events", "--prefix", "t_", store=postgresql).exit_code == 0
    assert cli("status", "--prefix", "t_", store=postgresql).exit_code == 0
    assert cli("status", "--schema", "events", "--prefix", "t_", store=postgresql).exit_code == 0
    assert cli("status", store=postgresql).exit_code == 3
    assert cli("status", "--schema", 'a"b', store=postgresql).exit_code == 2


def test_synchronous_drivers_do_as_well(cli: CommandLine, filled: Database) -> None:
    (first,) = cli("dead", "list", "--json", "--store", filled.sync_url).json
    (second,) = cli("dead", "list", "--json", store=filled).json
    assert first == second
