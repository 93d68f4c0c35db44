"""Worker processes that a test can kill, pause and resume, and what they say of themselves.

A nursery process imports everything once and forks workers on request, so that one takes milliseconds instead of a second. Workers write a
journal, a line at a time: what was written survives the process, whatever ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from private_services.processes import birth

from tests.workers.journal import Journal

__all__ = ["Nursery", "Worker"]

_ROOT = Path(__file__).parents[2]

#: Far more than anything here takes; only a test that fails waits for so long.
SECONDS = 40.0


class Worker:
    """A process that runs a service.

    Attributes:
        journal: what it says of itself: `started`, `stopped`, `paused`, `log`, and what handlers say.
    """

    def __init__(self, pid: int, journal: Journal) -> None:
        self.pid = pid
        self.journal = journal
        self._born = birth(pid)

    @property
    def alive(self) -> bool:
        return self._born is not None and birth(self.pid) == self._born

    @property
    def paused(self) -> bool:
        """Whether the system has stopped all of it."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def said(self, what: str, **matching: Any) -> bool:
        return bool(self.journal.entries(what, **matching))

    async def says(self, what: str, seconds: float = SECONDS, **matching: Any) -> dict[str, Any]:
        """Wait until it has said this; return what it said."""
        await self._until(lambda: self.said(what, **matching), f"say {what} {matching or ''}", seconds)
        return self.journal.entries(what, **matching)[0]

    async def is_paused(self) -> None:
        """Wait until it has paused itself, where it was told to."""
        await self._until(lambda: self.paused, "pause itself", SECONDS)

    def kill(self) -> float:
        """End it as a crash does; return when."""
        self._signal(signal.SIGKILL)
        return time.monotonic()

    async def pause(self) -> float:
        """Stop it wherever it is; return a time at which nothing moved in it any more."""
        self._signal(signal.SIGSTOP)
        await self.is_paused()
        return time.monotonic()

    def resume(self) -> None:
        """Let it go on as if nothing had happened."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> float:
        """Ask it to stop, and wait until it is gone; return when it was asked."""
        at = time.monotonic()
        self._signal(signal.SIGTERM)
        await self._until(lambda: not self.alive, "stop", SECONDS)
        assert self.said("stopped"), self._told()
        return at

    def _signal(self, number: signal.Signals) -> None:
        assert self.alive, f"the worker is gone\n{self._told()}"
        os.kill(self.pid, number)

    async def _until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"the worker did not {what} within {seconds} s\n{self._told()}"
            assert self.alive or condition(), f"the worker ended before it could {what}\n{self._told()}"
            await asyncio.sleep(0.01)

    def _told(self) -> str:
        return "\n".join(str(entry) for entry in self.journal.entries())


class Nursery:
    """Forks workers. Each is asked for with what `tests.workers.program.main` takes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._workers: list[Worker] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.workers.nursery"], cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT / "scripts")},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, app: str, url: str, **options: Any) -> Worker:
        """Start a worker with a service of `tests.workers.apps`."""
        journal = Journal(self._directory / f"{len(self._workers)}.journal")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"app": app, "url": url, "journal": str(journal.path), **options}) + "\n")
        self._process.stdin.flush()
        worker = Worker(int(self._process.stdout.readline()), journal)
        self._workers.append(worker)
        return worker

    def end_workers(self) -> None:
        """Kill what still runs, and forget all of them."""
        for worker in self._workers:
            if worker.alive:
                worker.kill()
        for worker in self._workers:
            deadline = time.monotonic() + 10
            while worker.alive and time.monotonic() < deadline:
                time.sleep(0.005)
            worker.journal.path.unlink(missing_ok=True)
        self._workers.clear()

    def close(self) -> None:
        self.end_workers()
        self._process.communicate(timeout=30)
