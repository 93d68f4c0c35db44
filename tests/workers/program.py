"""What a worker process does: run a service of `tests.workers.apps` until it is told to stop."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import traceback
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

import tidings.runtime
from tests.workers import apps, moments
from tests.workers.events import orders
from tests.workers.journal import Journal
from tidings import Service
from tidings.consume import deliveries, fences, pool
from tidings.consume.upkeep import LeasedTask
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

__all__ = ["main"]


def main(config: dict[str, Any]) -> int:
    """Run the worker that a test asked for.

    Args:
        config: `app`, the name of a function in `apps`; `url` of the database; `journal`, where to write. Optional: `lease`, seconds that
            each lease lasts; `slow`, after how many seconds an event is promoted; `beat`, how often the reader looks after its lease; `roles`; `web`, to run inside `service.lifespan`; `publish`, how many orders to publish, with keys that begin with `key`, and `pause_between` them; `pause`, the moment at which to stop itself once,
            and `when`, a file that has to exist for that; further words are the app's.
    """
    journal = Journal(Path(config["journal"]))
    try:
        asyncio.run(_run(config, journal))
    except BaseException:
        journal.say("failed", error=traceback.format_exc())
        return 1
    return 0


async def _run(config: dict[str, Any], journal: Journal) -> None:
    handler = _ToJournal(journal)
    logging.getLogger("tidings").addHandler(handler)
    logging.getLogger("tidings").setLevel(logging.INFO)
    engine = make_engine(config["url"])
    service: Service = getattr(apps, config["app"])(SQLStore(engine), journal, config)
    _shorten(service, config.get("lease", 1.0), config.get("slow", 10.0))
    service.tuning.checkpoint_seconds = config.get("beat", 0.1)
    if "pause" in config:
        moments.pause_at(config["pause"], service.store, journal, Path(config["when"]) if "when" in config else None)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    if config.get("web"):
        # As an ASGI server does.
        async with service.lifespan(object()):
            await _serve(config, journal, service, engine, asked)
    else:
        await service.start(config.get("roles"))
        await _serve(config, journal, service, engine, asked)
        await service.stop()
    await engine.dispose()
    journal.say("stopped")


async def _serve(config: dict[str, Any], journal: Journal, service: Service, engine: AsyncEngine, asked: asyncio.Event) -> None:
    """Publish what this worker has to publish, one transaction for each request, then wait for the end."""
    journal.say("started", pid=os.getpid())
    for event in orders(1, config.get("publish", 0), key=config.get("key", "k")):
        async with AsyncSession(engine) as session, session.begin():
            service.publish(session, event)
        journal.say("published", number=event.number)
        if "pause_between" in config:
            await asyncio.sleep(config["pause_between"])
    await asked.wait()


def make_engine(url: str) -> AsyncEngine:
    """Make an engine as an application does."""
    engine = create_async_engine(url, **({"pool_size": 20} if url.startswith("postgresql") else {}))
    if engine.dialect.name == "sqlite":
        configure(engine)
    return engine


def _shorten(service: Service, lease: float, slow: float) -> None:
    """Let leases end within the patience of a test."""
    service.tuning.lease = lease
    service.tuning.slow = slow
    service.tuning.longest = 0.05
    deliveries._LEASE = lease
    pool.PROMOTED_LEASE = fences.PROMOTED_LEASE = lease
    tidings.runtime.LeasedTask = functools.partial(LeasedTask, ttl=lease)


class _ToJournal(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.say("log", level=record.levelname, message=record.getMessage())
