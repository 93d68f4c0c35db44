"""Leased and periodic work of a running service: scheduled events, heartbeats, counters."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.counters import Counters
from tidings.consume.execution import StoreDown
from tidings.consume.failures import this_process
from tidings.consume.parking import guarded, noticed
from tidings.errors import LeaseLost
from tidings.stores.base import Lease
from tidings.stores.sql.store import SQLStore

__all__ = ["Heart", "LeasedTask", "Mover"]

logger = logging.getLogger("tidings.upkeep")

_BATCH = 500
#: Seconds between two beats at least, however often a connection breaks.
_SOON = 1.0


class LeasedTask:
    """Work that one worker at a time does for a set of tables.

    Args:
        name: the name of its lease.
        step: does some work under the lease, and returns the seconds until there may be more.
    """

    def __init__(self, name: str, store: SQLStore, worker: str, step: Callable[[Lease], Awaitable[float]], ttl: float = 10.0) -> None:
        self.name = name
        self._store = store
        self._worker = worker
        self._step = step
        self._ttl = ttl
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Look for work now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the step under way, and give the lease up."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Work whenever the lease can be had, until stopped."""
        store = self._store
        lease: Lease | None = None
        renewed = 0.0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                now = elapsed()
                if lease is None:
                    lease = await guarded(store.call(store.leases.acquire, self.name, self._worker, self._ttl))
                    renewed = now
                elif now - renewed > self._ttl / 3:
                    renewed = now
                    if not await guarded(store.call(store.leases.renew, lease, self._ttl)):
                        lease = None
                        continue
                store.outages.over(self.name)
                pause = self._ttl / 3 * random.uniform(0.8, 1.2) if lease is None else min(await self._step(lease), self._ttl / 3)
            except LeaseLost as error:
                logger.info("%s: %s", self.name, error)
                lease = None
                pause = self._ttl / 3
            except StoreDown as error:
                noticed(store, self.name, error)
                lease = None
                pause = 2.0
            except Exception:
                logger.exception("%s failed; trying again in 5 s", self.name)
                lease = None
                pause = 5.0
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    # What wakes whoever has the lease must not make all the others ask for it.
                    await (self._stopping if lease is None else self._wake).wait()
        if lease is not None:
            with suppress(StoreDown):
                await guarded(store.call(store.leases.release, lease))


class Mover:
    """Moves scheduled events that are due into the log."""

    def __init__(self, store: SQLStore, moved: Callable[[], None], counters: Counters) -> None:
        self._store = store
        self._moved = moved
        self._counters = counters

    async def step(self, lease: Lease) -> float:
        """Move what is due; return the seconds until something is."""
        # One statement on PostgreSQL, which nothing can come between: it takes the locks of keys, and publishers of these wait for its commit.
        run = self._store.transact if self._store.dialect.name == "sqlite" else self._store.call
        count = await guarded(run(self._store.upkeep.move_due, lease, _BATCH))
        if count:
            self._counters.add("", "scheduled events published", count)
            self._counters.add("", "published", count)
            self._moved()
        if count == _BATCH:
            return 0.0
        due = await guarded(self._store.call(self._store.upkeep.due_in))
        # What another process schedules meanwhile is found by the next look, at most a second later.
        return 1.0 if due is None else min(max(due, 0.005), 1.0)


class Heart:
    """Says every ten seconds that this worker is alive, and how it stands with the brokers, and writes its counters down.

    Args:
        brokers: returns the latter, as `stores.sql.brokers` reads it.
    """

    def __init__(
        self,
        store: SQLStore,
        worker: str,
        service: str,
        environment: str | None,
        roles: str,
        version: str,
        counters: Counters,
        brokers: Callable[[], str] = lambda: "[]",
        seconds: float = 10.0,
    ) -> None:
        self._store = store
        self._worker = worker
        self._service = service
        self._about = (environment, roles, *this_process(), version)
        self._counters = counters
        self._brokers = brokers
        self._seconds = seconds
        self._stopping = asyncio.Event()
        self._news = asyncio.Event()

    def stop(self) -> None:
        """Beat no more; `last` remains to be called."""
        self._stopping.set()
        self._news.set()

    def soon(self) -> None:
        """Beat within a second: a connection to a broker has come or gone."""
        self._news.set()

    async def run(self) -> None:
        """Beat until stopped."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._news.wait()
                    async with asyncio.timeout(min(_SOON, self._seconds)):
                        await self._stopping.wait()
            if self._stopping.is_set():
                return
            self._news.clear()
            await self._write(self._store.upkeep.beat, self._worker, self._service, *self._about, self._brokers())

    async def last(self) -> None:
        """Write down what was counted until the very end, and leave."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                await self._write(self._store.upkeep.leave, self._worker)

    async def _write(self, function: Callable[..., None], *arguments: object) -> None:
        counts = self._counters.drain()
        try:
            await guarded(self._store.call(function, *arguments))
            await guarded(self._store.transact(self._store.stats.count, self._service, counts))
            self._store.outages.over("heartbeat")
        except StoreDown as error:
            self._counters.restore(counts)
            noticed(self._store, "heartbeat", error)
        except Exception:
            # Nobody handles events with it: it must not end the whole service.
            self._counters.restore(counts)
            logger.exception("the heartbeat failed")

    def first(self, connection: Connection) -> None:
        """Beat once, at start, so that everyone sees this worker at once."""
        self._store.upkeep.beat(connection, self._worker, self._service, *self._about, self._brokers())
