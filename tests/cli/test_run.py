from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.till import SaleMade, make_engine, publish
from tests.services.databases import Database
from tidings.stores import SQLStore

APP = """
import os
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from tests.cli.till import SaleMade, make_service, till
from tidings import Service
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

engine = create_async_engine(os.environ["DATABASE"])
service = Service("run", contracts=[till], store=SQLStore(engine))

@service.subscribe(SaleMade, concurrency=2)
async def book(event: SaleMade, session: AsyncSession) -> None:
    print("booked", event.receipt, flush=True)

def create():
    return service

async def acreate():
    return service

def fails():
    raise LookupError("no such till")

def needs(something):
    return service

def refuses():
    configure(engine)
    return make_service(engine)

number = 3

class holder:
    inner = service
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    directory = tmp_path / "some app"
    directory.mkdir()
    (directory / "shop_app.py").write_text(APP, encoding="utf-8")
    (directory / "broken_app.py").write_text("1 / 0\n", encoding="utf-8")
    (directory / "unreadable_app.py").write_text("def f(:\n", encoding="utf-8")
    (directory / "needy_app.py").write_text("import does_not_exist\n", encoding="utf-8")
    return directory


def start(target: str, *options: str, app: Path, database: Database) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "run", target, *options],
        cwd=app,
        env={**os.environ, "DATABASE": database.url, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("target", "sent"), [("shop_app:service", signal.SIGTERM), ("shop_app:create", signal.SIGINT), ("shop_app:acreate", signal.SIGTERM)]
)
async def test_a_service_runs_until_a_signal_and_exits_with_zero(app: Path, database: Database, target: str, sent: signal.Signals) -> None:
    engine = make_engine(database)
    await SQLStore(engine).upgrade()
    await publish(engine, SaleMade("r-1"))
    await engine.dispose()
    process = start(target, app=app, database=database)
    assert process.stdout is not None
    assert process.stdout.readline() == "booked r-1\n"
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == ""
    assert re.search(r"INFO +tidings\.service: service run started", err)
    assert re.search(r"INFO +tidings\.service: service run stopped", err)
    assert "Traceback" not in err


async def test_a_second_signal_rolls_back_and_hands_over_and_is_no_error(app: Path, sqlite: Database) -> None:
    slow = APP.replace("    print(", '    print("begun", flush=True)\n    await __import__("asyncio").sleep(60)\n    print(')
    (app / "slow_app.py").write_text(slow, encoding="utf-8")
    engine = make_engine(sqlite)
    await SQLStore(engine).upgrade()
    await publish(engine, SaleMade("r-1"))
    await engine.dispose()
    process = start("slow_app:service", app=app, database=sqlite)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    while "stopping: waiting" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == ""
    assert "handlers are not waited for any more, and are rolled back" in err
    assert "service run stopped" in err
    assert "Traceback" not in err


async def test_a_traceback_in_the_log_is_harmless_for_a_terminal(app: Path, sqlite: Database) -> None:
    engine = make_engine(sqlite)
    await SQLStore(engine).upgrade()
    await publish(engine, SaleMade("bad"))
    await engine.dispose()
    process = start("shop_app:refuses", app=app, database=sqlite)
    assert process.stderr is not None
    said = ""
    while "Refused: " not in said or "second line" not in said.rpartition("Refused: ")[2]:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=20)[1]
    assert "Traceback" in said
    assert "\\x1b[2J" in said
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said)


def test_it_says_when_the_tables_are_missing(app: Path, sqlite: Database) -> None:
    process = start("shop_app:service", app=app, database=sqlite)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "run 'tidings db upgrade'" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("shop_app", "write module:attribute"),
        (":service", "write module:attribute"),
        ("shop_app:", "write module:attribute"),
        ("nowhere_app:service", "there is no module 'nowhere_app'"),
        ("shop_app.deeper:service", "there is no module 'shop_app.deeper'|is not a package"),
        ("shop_app:nothing", "has no attribute 'nothing'; its services are service"),
        ("shop_app:number", "is a int, neither a Service nor a function"),
        ("shop_app:holder", "neither a Service nor a function"),
        ("shop_app:fails", r"LookupError: no such till \(.*shop_app\.py, line \d+\)"),
        ("shop_app:needs", "cannot be called without arguments"),
        ("broken_app:service", r"ZeroDivisionError: division by zero \(.*broken_app\.py, line 1\)"),
        ("unreadable_app:service", r"SyntaxError: invalid syntax \(.*unreadable_app\.py, line 1\)"),
        ("needy_app:service", "No module named 'does_not_exist'"),
    ],
)
def test_what_cannot_be_run_is_a_sentence_and_exit_code_two(
    cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch, sqlite: Database, target: str, says: str
) -> None:
    monkeypatch.setenv("DATABASE", sqlite.url)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("shop_app", "broken_app", "unreadable_app", "needy_app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for command in (("run", target), ("status", "--service", target)):
        ended = cli(*command, "--app-dir", str(app))
        assert ended.exit_code == 2, ended
        assert re.search(says, ended.err), ended.err
        assert len(ended.err.splitlines()) == 1


def test_unknown_roles_are_refused(cli: CommandLine) -> None:
    ended = cli("run", "x:y", "--roles", "consume,dance")
    assert ended.exit_code == 2
    assert "dance is no role: there are relay, consume, schedule" in ended.err


def test_a_services_own_store_can_be_worked_on(cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    monkeypatch.setenv("DATABASE", database.url)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop_app", raising=False)
    service = ("--service", "shop_app:holder.inner", "--app-dir", str(app))
    assert cli("db", "upgrade", *service).exit_code == 0
    assert cli("status", *service).exit_code == 0
    assert cli("status", *service, "--store", database.url).exit_code == 2
    assert cli("status", *service, TIDINGS_STORE="mysql://h/d").exit_code == 0
