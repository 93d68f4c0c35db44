from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.cli.conftest import CommandLine
from tests.cli.till import DrawerOpened, SaleMade, make_engine, make_service, publish
from tests.services.databases import Database
from tidings.stores import SQLStore


def keys(out: str) -> list[str | None]:
    return [json.loads(line)["key"] for line in out.splitlines()]


def test_the_end_of_the_log_is_printed_oldest_first(cli: CommandLine, filled: Database) -> None:
    ended = cli("tail", "-n", "2", store=filled)
    assert ended.exit_code == 0
    first, second = ended.out.splitlines()
    assert re.match(r'\d\d:\d\d:\d\d\.\d{3} +\d+  drawer\.opened v1  -  \{"by": ?"Ada"\}', first)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} +\d+  sale\.made v2  a-3  ", second)


def test_it_can_be_filtered_by_name_and_key(cli: CommandLine, filled: Database) -> None:
    assert keys(cli("tail", "--json", store=filled).out) == ["a-1", "bad", "bad", "a-2", "bad", None, "a-3"]
    assert keys(cli("tail", "--json", "--key", "bad", "-n", "2", store=filled).out) == ["bad", "bad"]
    assert keys(cli("tail", "--json", "--name", "drawer.opened", store=filled).out) == [None]
    assert keys(cli("tail", "--json", "--name", "drawer.*", store=filled).out) == [None]
    assert keys(cli("tail", "--json", "--name", "*.made", "--key", "a-1", store=filled).out) == ["a-1"]


@pytest.mark.parametrize("pattern", ["drawer", "Drawer.opened", "drawer_opened", "%", "?", "[d]rawer.opened", "!", ""])
def test_nothing_but_the_star_stands_for_something_else(cli: CommandLine, filled: Database, pattern: str) -> None:
    ended = cli("tail", "--name", pattern, store=filled)
    assert (ended.exit_code, ended.out) == (0, "")


def test_json_lines_hold_the_whole_event(cli: CommandLine, filled: Database) -> None:
    event = json.loads(cli("tail", "-n", "1", "--json", store=filled).out)
    assert event["data"] == {"receipt": "a-3", "text": "late"}
    assert (event["name"], event["version"], event["source"], event["topic"]) == ("sale.made", 2, "till", "sale.made")
    assert event["headers"] == {}


def test_text_is_cut_and_json_is_whole(cli: CommandLine, sqlite: Database) -> None:
    async def prepare() -> None:
        engine = make_engine(sqlite)
        await SQLStore(engine).upgrade()
        await publish(engine, SaleMade("long", "x" * 1_000_000))
        await engine.dispose()

    asyncio.run(prepare())
    (line,) = cli("tail", store=sqlite).out.splitlines()
    assert 1000 < len(line) < 1100
    assert line.endswith("x…")
    assert len(json.loads(cli("tail", "--json", store=sqlite).out)["data"]["text"]) == 1_000_000


@contextmanager
def following(*options: str, store: Database) -> Iterator[tuple[subprocess.Popen[str], Queue[str]]]:
    """`tidings tail --follow` as a process, and the lines that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "tail", "--follow", "--json", *options, "--store", store.url],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout or ()], daemon=True)
    reader.start()
    try:
        yield process, lines
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


async def test_following_shows_what_is_committed_late_and_ends_with_ctrl_c(database: Database) -> None:
    engine = make_engine(database)
    await SQLStore(engine).upgrade()
    await publish(engine, SaleMade("before"))
    service = make_service(engine)

    def next_key(lines: Queue[str]) -> str:
        return str(json.loads(lines.get(timeout=20))["key"])

    with following("--name", "sale.*", store=database) as (process, lines):
        assert await asyncio.to_thread(next_key, lines) == "before"
        if database.kind == "postgresql":
            # Inserted before the next one, and committed after it: a lower position that appears later.
            async with AsyncSession(engine) as slow, slow.begin():
                service.publish(slow, SaleMade("slow"))
                await slow.execute(text("select 1"))
                connection = await slow.connection()
                for command in service.store.publishing.publish([service.publisher.prepare(SaleMade("first"))]):
                    from tidings.stores.sql.driver import run

                    await connection.run_sync(run, command)
                await publish(engine, SaleMade("second"), DrawerOpened("nobody"))
                assert await asyncio.to_thread(next_key, lines) == "second"
            assert {await asyncio.to_thread(next_key, lines) for _ in range(2)} == {"first", "slow"}
        await publish(engine, DrawerOpened("nobody"), SaleMade("last"))
        assert await asyncio.to_thread(next_key, lines) == "last"
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 20) == 0
    await engine.dispose()
