"""Processes that do one thing to a database at one moment. Run as a program, this is one of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from tidings.stores import SQLStore
from tidings.stores.sql.registry import Wanted
from tidings.stores.sqlite import configure

_ROOT = Path(__file__).parents[2]


class Processes:
    """Started once, since that is what takes the time, and used by several tests."""

    def __init__(self, count: int) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.stores.processes", str(place)],
                cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for place in range(count)
        ]  # fmt: skip

    def all_at_once(self, what: str, url: str, *, configured: bool = False) -> list[Any]:
        """Let each of them run one of the functions below at the same moment; return their results.

        With `configured`, their engines are `tidings.stores.sqlite.configure`d.
        """
        for process in self._processes:
            self._say(process, {"what": what, "url": url, "configured": configured})
        for process in self._processes:
            assert self._hear(process) == "ready"
        for process in self._processes:
            self._say(process, "go")
        return [self._hear(process) for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.communicate(timeout=30)
            assert process.returncode == 0

    def _say(self, process: subprocess.Popen[str], message: Any) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def _hear(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the process has ended; its traceback is in the captured output"
        return json.loads(line)


@contextmanager
def running(count: int) -> Iterator[Processes]:
    processes = Processes(count)
    try:
        yield processes
    finally:
        processes.close()


async def upgrade(store: SQLStore, place: int) -> Any:
    return await store.upgrade()


async def mend(store: SQLStore, place: int) -> Any:
    return await store.mend()


async def register(store: SQLStore, place: int) -> Any:
    """Each with a subscription that all have, and one of its own."""
    wanted = [Wanted("billing", "charge", ("order.placed",), True), Wanted("billing", f"audit-{place}", (f"audited-{place}",), True)]
    registered = await store.transact(store.registry.register, "shop", {"billing": "earliest"}, wanted)
    return {row.name: row.id for row in registered}


async def _serve(place: int) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        engine = create_async_engine(order["url"])
        if order["configured"]:
            configure(engine)
        store = SQLStore(engine)
        if order["what"] != "upgrade":
            # Connected, and with the tables found: what follows is only the work itself.
            await store.call(store.resolve)
        print(json.dumps("ready"), flush=True)
        sys.stdin.readline()
        result = await {"upgrade": upgrade, "mend": mend, "register": register}[order["what"]](store, place)
        store.close()
        await engine.dispose()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
