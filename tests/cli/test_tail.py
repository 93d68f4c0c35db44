from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import IO

import pytest
from private_services.proxy import Proxy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.cli.conftest import CommandLine
from tests.cli.till import DrawerOpened, SaleMade, make_engine, make_service, publish
from tests.consume.waiting import until
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
def following(*options: str, store: str, errors: IO[str] | None = None) -> Iterator[tuple[subprocess.Popen[str], Queue[str]]]:
    """`tidings tail --follow` as a process, and the lines that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", "tail", "--follow", "--json", *options, "--store", store],
        stdout=subprocess.PIPE,
        stderr=errors,
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

    with following("--name", "sale.*", store=database.url) as (process, lines):
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


@asynccontextmanager
async def behind_proxy(database: Database, driver: str) -> AsyncIterator[tuple[Proxy, AsyncEngine, str]]:
    """A proxy in front of tables, an engine that goes round it, and the URL of the proxy, with a password."""
    engine = make_engine(database)
    await SQLStore(engine).upgrade()
    proxy = Proxy(database.dsn)
    await proxy.start()
    url = f"postgresql+{driver}://{proxy.url.partition('://')[2]}".replace("@", ":geheim@", 1)
    try:
        yield proxy, engine, url + ("?ssl=disable" if driver == "asyncpg" else "?sslmode=disable")
    finally:
        await proxy.stop()
        await engine.dispose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_following_goes_on_after_the_database_was_away(postgresql: Database, tmp_path: Path, driver: str) -> None:
    errors = tmp_path / "errors"
    async with behind_proxy(postgresql, driver) as (proxy, engine, url):
        await publish(engine, SaleMade("before"))
        with errors.open("w") as file, following(store=url, errors=file) as (process, lines):
            assert "before" in await asyncio.to_thread(lines.get, timeout=20)
            await proxy.stop()
            await publish(engine, SaleMade("meanwhile"))
            await until(lambda: "trying again" in errors.read_text())
            # Long enough for a second attempt, about which nothing is said.
            await asyncio.sleep(1.5)
            await proxy.start()
            await publish(engine, SaleMade("after"))
            assert "meanwhile" in await asyncio.to_thread(lines.get, timeout=20)
            assert "after" in await asyncio.to_thread(lines.get, timeout=20)
            proxy.cut()
            await publish(engine, SaleMade("last"))
            assert "last" in await asyncio.to_thread(lines.get, timeout=20)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 20) == 0
        assert lines.empty()
    told = errors.read_text().splitlines()
    assert len(told) <= 2, told
    assert all(line.endswith("; trying again") for line in told)
    assert "geheim" not in errors.read_text()


@contextmanager
def on_a_terminal(*words: str) -> Iterator[tuple[subprocess.Popen[bytes], bytearray]]:
    """`tidings ...` as a process on a terminal, and what it writes there."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tidings", *words],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def read() -> None:
        with suppress(OSError):
            while data := os.read(ours, 1 << 16):
                seen.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process, seen
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(ours)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudoterminals are Unix's")
async def test_top_goes_on_after_the_database_was_away(postgresql: Database) -> None:
    async with behind_proxy(postgresql, "asyncpg") as (proxy, _, url):
        with on_a_terminal("top", "--every", "0.5", "--store", url) as (process, seen):
            await until(lambda: b"workers alive" in seen)
            await proxy.stop()
            await until(lambda: b"trying again" in seen)
            await proxy.start()
            # Below the message stands what was seen last.
            await until(lambda: seen.rpartition(b"trying again")[2].count(b"workers alive") > 1)
            process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait, 20) == 0
        assert b"geheim" not in seen
