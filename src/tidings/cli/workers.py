"""`tidings run --workers N`: several processes of one service, watched by this one."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from tidings.clock import elapsed

__all__ = ["run_workers"]

logger = logging.getLogger("tidings.run")

#: A worker that lived for less than this ended because it could not start; then all stop.
_SHORTEST_LIFE = 5.0


async def run_workers(count: int, arguments: Sequence[str], stop: asyncio.Event) -> int:
    """Run `tidings run` so many times until told to stop; a worker that dies is replaced. Return the exit code.

    Args:
        arguments: of `tidings run`, without `--workers`.
    """
    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(_keep_alive(number, arguments, stop)) for number in range(1, count + 1)]
    return max(worker.result() for worker in workers)


async def _keep_alive(number: int, arguments: Sequence[str], stop: asyncio.Event) -> int:
    while True:
        started = elapsed()
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tidings", "run", *arguments, start_new_session=True)
        logger.info("worker %d is process %d", number, process.pid)
        ended = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                # Its own session keeps a terminal's Ctrl-C from it: a second signal would cut its handlers short.
                process.send_signal(signal.SIGTERM)
            code = await ended
        finally:
            asked.cancel()
            if process.returncode is None:
                process.kill()
        if stop.is_set():
            return 0
        if elapsed() - started < _SHORTEST_LIFE and code > 0:
            logger.error("worker %d ended with exit code %d as soon as it had started", number, code)
            stop.set()
            return code
        logger.error("worker %d (process %d) ended with exit code %d; starting another", number, process.pid, code)
