"""The demo on both databases, as people run it."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from tests.services.databases import Database
from tests.stores.events import everything, ids, outgoing, publish
from tests.stores.opening import opened
from tidings.demo.ledger import Carrier, Ledger
from tidings.demo.sums import Facts, Line, lines, show
from tidings.errors import SchemaError
from tidings.stores.sql.migrations import VERSION

SUMS = re.compile(r"^ +(?P<what>\S.*?) +(?P<expected>\d+) +(?P<found>\d+) +(?P<verdict>ok|WRONG) *$", re.MULTILINE)


def demo(*options: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "demo", *options],
        cwd=cwd,
        env={**os.environ, "TMPDIR": str(cwd), "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert err == ""
    assert "Everything adds up." in out
    assert "WRONG" not in out
    return out


def sums(out: str) -> dict[str, int]:
    return {found["what"]: int(found["found"]) for found in SUMS.finditer(out)}


def check_story(out: str) -> None:
    found = sums(out)
    assert found["events rolled back, and never seen"] == 4
    assert found["of them as an old version, upcast"] == 1
    assert found["attempts that failed"] == 5
    assert found["retried, then handled"] == 1
    assert found["dead, waiting for a decision"] == 1
    assert found["waiting behind a dead one"] == 1
    assert found["duplicates suppressed"] > 50
    assert found["expired before anybody handled them"] == 1
    assert found["scheduled events cancelled in time"] == 1
    assert found["deliveries handled"] > found["duplicates suppressed"]
    for part in (
        "card declined",
        "upcast",
        "only that savepoint is rolled back",
        "attempt 3, dead",
        "reminded of the payment",
        "read again",
    ):
        assert part in out
    assert "\x1b" not in out, "no colours in a file"


def test_once_on_sqlite_adds_up_and_can_be_looked_at_with_the_other_commands(tmp_path: Path) -> None:
    out = finished(demo("--once", cwd=tmp_path))
    check_story(out)
    (url,) = set(re.findall(r"--store (sqlite:///\S+)", out))
    assert url.startswith(f"sqlite:///{tmp_path}"), "a directory of its own under TMPDIR"
    status = subprocess.run([sys.executable, "-m", "tidings", "status", "--store", url], capture_output=True, text=True, check=False)
    assert status.returncode == 1
    assert "1 dead event, 1 waiting behind" in status.stdout
    dead = subprocess.run([sys.executable, "-m", "tidings", "dead", "list", "--store", url], capture_output=True, text=True, check=True)
    assert "Unreachable: there is no such place" in dead.stdout


def test_once_on_postgresql_adds_up_twice_in_a_row(postgresql: Database, tmp_path: Path) -> None:
    check_story(finished(demo("--once", "--store", postgresql.url, cwd=tmp_path)))
    check_story(finished(demo("--once", "--store", postgresql.sync_url, cwd=tmp_path)))
    with psycopg.connect(postgresql.dsn) as server:
        tables = server.execute("select distinct schemaname from pg_tables where schemaname !~ '^pg_|^information_schema$'").fetchall()
    assert tables == [("tidings_demo",)], "everything is in a schema of its own"


async def test_a_store_beside_it_never_uses_the_tables_of_the_demo(postgresql: Database, tmp_path: Path) -> None:
    finished(await asyncio.to_thread(demo, "--once", "--store", postgresql.url, cwd=tmp_path))
    async with opened(postgresql) as store:
        with pytest.raises(SchemaError):
            await publish(store, outgoing())
        assert await store.upgrade() == (0, VERSION)
        event = outgoing()
        await publish(store, event)
    finished(await asyncio.to_thread(demo, "--once", "--store", postgresql.url, cwd=tmp_path))
    async with opened(postgresql) as store:
        await store.open()
        assert (store.names.schema, ids(await everything(store))) == ("public", [str(event.id)])


def test_it_goes_on_until_ctrl_c_and_then_adds_up(tmp_path: Path) -> None:
    process = demo(cwd=tmp_path)
    assert process.stdout is not None
    while "The shop goes on" not in (line := process.stdout.readline()):
        assert line, "it ended by itself"
    for _ in range(8):
        assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "Closing" in finished(process)


def test_nothing_is_touched_that_the_demo_has_not_made(tmp_path: Path, postgresql: Database) -> None:
    file = tmp_path / "mine.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("create table tidings_outbox (mine)")
    connection.close()
    before = file.read_bytes()
    process = demo("--once", "--store", f"sqlite:///{file}", cwd=tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "the demo has not made" in err
    assert file.read_bytes() == before
    with psycopg.connect(postgresql.dsn, autocommit=True) as server:
        server.execute("create schema tidings_demo")
        process = demo("--once", "--store", postgresql.url, cwd=tmp_path)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 2
        assert "the demo has not made" in err
        assert server.execute("select count(*) from pg_namespace where nspname = 'tidings_demo'").fetchone() == (1,)


def test_a_store_that_cannot_be_reached_is_a_sentence(tmp_path: Path) -> None:
    process = demo("--once", "--store", "postgresql://u:geheim@127.0.0.1:1/d", cwd=tmp_path)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert len(err.splitlines()) == 1
    assert "geheim" not in err


def test_a_sum_that_is_wrong_is_said() -> None:
    out = io.StringIO()
    assert show(Console(file=out, width=100), [Line("apples", 3, 3)]) is True
    assert show(Console(file=out, width=100), [Line("apples", 3, 3), Line("pears", 3, 4)]) is False
    assert "WRONG" in out.getvalue()


def test_a_lost_or_doubled_effect_makes_a_sum_wrong() -> None:
    """The sums of an empty shop are right, and one row more or less anywhere is seen."""
    tables = ("shop_reservations", "shop_receipts", "shop_shipments", "shop_recalls", "shop_reminders", "shop_sales")
    zeros = dict.fromkeys(tables, 0)
    facts = Facts({}, 0, {}, {}, {}, {}, 0, zeros, zeros, frozenset(), {})

    def wrong(changed: Facts) -> int:
        return sum(line.expected != line.found for line in lines(Ledger(), Carrier(), changed))

    assert wrong(facts) == 0
    assert wrong(facts._replace(log={"order.placed": 1})) > 0
    assert wrong(facts._replace(effects={**zeros, "shop_sales": 1})) > 0
    assert wrong(facts._replace(inbox={("receipts", 0): 1})) > 0
    assert wrong(facts._replace(lanes={"dead": 1})) > 0
    assert wrong(facts._replace(stats={"duplicates": 1})) > 0
    assert wrong(facts._replace(old=1)) > 0


@pytest.mark.parametrize("module", ["contracts", "inventory", "receipts", "shipping", "payments", "mail", "sales", "orders", "models"])
def test_the_modules_of_the_shop_import_no_engine_and_not_the_application(module: str) -> None:
    program = f"import sys, tidings.demo.shop.{module}; print('tidings.demo.shop.app' in sys.modules, 'sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    app, sqlalchemy = done.stdout.split()
    assert app == "False"
    assert module != "contracts" or sqlalchemy == "False"
