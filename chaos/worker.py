"""A worker process: `python -m chaos.worker DIRECTORY PLACE INCARNATION`. Runs the service until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Any

import tidings.consume.deliveries
import tidings.consume.pool
from chaos.databases import make_engine, make_sync_engine
from chaos.handlers import Deeds, asynchronous, threaded
from chaos.journal import Journal
from chaos.process import Surprise, end_with_parent, log_to_stderr
from chaos.settings import Settings
from chaos.transport import transport_of
from chaos.weather import Misdeed, Weather
from chaos.workload import AUDITORS, SERVICE, bank
from tidings import Service
from tidings.stores import SQLStore

logger = logging.getLogger("chaos.worker")

#: Short, so that a run of seconds sees many take-overs.
READER_LEASE = 2.0
LANE_LEASE = 3.0
GRACE = 3.0
SLOW = 0.4
POOL = 12
#: The file whose presence says that the faults are over.
CALM = "calm"


def make_service(settings: Settings, directory: Path, place: int, calm: Any) -> Service:
    """Make the service as this worker runs it: every third worker handles in threads."""
    in_threads = place % 3 == 2
    sqlite = settings.kind == "sqlite"
    engine: Any = make_sync_engine(settings.sync_url, pool_size=POOL) if in_threads else make_engine(settings.url, pool_size=POOL)
    # SQLite has one writer: nobody may sit on the transaction for long, and there is no connection to cut.
    forbidden: frozenset[Misdeed] = frozenset(("cut", "swallow cut", "timeout")) if sqlite else frozenset()
    weather = Weather(settings.seed, lambda: time.time() - settings.started, calm, forbidden)
    deeds = Deeds(f"{place}", weather, Journal(directory / "mails.jsonl"), 0.3 if sqlite else 1.0, AUDITORS if settings.transport else None)
    service = Service(
        SERVICE,
        contracts=[bank],
        subscriptions=[threaded(deeds) if in_threads else asynchronous(deeds)],
        store=SQLStore(engine),
        transport=transport_of(settings),
        grace=GRACE,
    )
    service.tuning.lease = READER_LEASE
    service.tuning.slow = SLOW
    service.tuning.longest = 0.1
    service.tuning.max_parked = 400
    service.tuning.again_longest = 1.0
    if settings.transport:
        # Who comes after two that were killed handles as many events one at a time as one of them can have had in memory.
        service.tuning.events = 500
    # No tuning of the service's leads there, and half a minute is most of a short run.
    tidings.consume.deliveries._LEASE = LANE_LEASE  # type: ignore[assignment]
    tidings.consume.pool.PROMOTED_LEASE = LANE_LEASE  # type: ignore[assignment]
    return service


async def main(directory: Path, place: int) -> None:
    """Run until SIGTERM.

    Raises:
        Surprise: the service ended by itself.
    """
    calm = False
    service = make_service(Settings.read(directory), directory, place, lambda: calm)
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    await _start(service, ending)
    try:
        while not ending.is_set():
            calm = (directory / CALM).exists()
            runtime = service._runtime
            if runtime is not None and runtime._main is not None and runtime._main.done():
                raise Surprise("the service ended by itself") from runtime._main.exception()
            try:
                async with asyncio.timeout(0.1):
                    await ending.wait()
            except TimeoutError:
                continue
    finally:
        await service.stop()


async def _start(service: Service, ending: asyncio.Event) -> None:
    """Start as soon as the database lets us: a process manager would start us again, at the price of a second each."""
    while not ending.is_set():
        try:
            await service.start()
            return
        except Exception as error:  # noqa: BLE001 - whatever a database says that is away
            logger.warning("cannot start: %s: %s", type(error).__name__, str(error)[:200])
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    end_with_parent()
    log_to_stderr(logging.INFO)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
