"""Careful mode: after a crash loop, events run one at a time, each in a lane of its own first, so that the one that kills dies alone.

`restarts` counts how often the reader's lease was acquired without any progress since. From the third time on, every event is parked in a
lane before it is handled, its attempt counted: the checkpoint moves past it whatever its handler does to the process, and whoever claims
the lane afterwards knows what happened. It lasts until everything is finished that a process which died can have had in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tidings.clock import elapsed
from tidings.consume.company import ALONE_SECONDS
from tidings.consume.counters import Counters
from tidings.consume.deliveries import Retrier
from tidings.consume.parking import guarded, parking
from tidings.consume.pool import Pool
from tidings.consume.received import Received
from tidings.consume.suspects import CAREFUL
from tidings.stores.base import ALONE, Lease, Standing
from tidings.stores.sql.store import SQLStore

__all__ = ["Careful"]

logger = logging.getLogger("tidings.consume")


class Careful:
    """Handles the events of one lease of a reader one after another, as long as there is reason to.

    Args:
        events: how many events a process has in memory at most.
        pause: waits so many seconds, or until the receiver is to stop.
        stopping: whether the receiver is to stop.
    """

    def __init__(
        self, lease: Lease, store: SQLStore, retrier: Retrier, worker: str, counters: Counters, events: int,
        pause: Callable[[float], Awaitable[None]], stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.on = lease.restarts >= CAREFUL
        self._lease = lease
        self._store = store
        self._retrier = retrier
        self._worker = worker
        self._counters = counters
        self._left = events
        self._pause = pause
        self._stopping = stopping
        self._held: set[int] = set()
        self._slow: set[asyncio.Task[None]] = set()
        self._began = False

    def read(self, *, to_the_end: bool, progress: bool) -> None:
        """Note that a batch was read and is finished; leave careful mode when it has done its part."""
        if self.on and (self._left <= 0 or (to_the_end and progress)):
            self.on = False
            if self._began:
                logger.info("%s: events are handled side by side again", self._lease.reader, extra={"reader": self._lease.reader})

    async def handle(self, received: Received, pool: Pool, tasks: asyncio.TaskGroup) -> bool:
        """Handle one event for one subscription, or park it; False when its pool has to keep it.

        Raises:
            LeaseLost: another worker reads for the group.
            StoreDown: the database cannot be used.
        """
        self._left -= 1
        compiled = pool.compiled
        if not self._began:
            self._began = True
            logger.error(
                "%s: nothing was finished although reading has begun %d times, as when an event ends its process or its connection; "
                "events are handled one at a time until that is over",
                self._lease.reader, self._lease.restarts, extra={"reader": self._lease.reader},
            )  # fmt: skip
        while not pool.paused and not self._stopping() and (wait := compiled.circuit.wait(elapsed())) > 0:
            await self._pause(min(wait, 1.0))
        if pool.paused or self._stopping() or compiled.id in self._held:
            # What comes after an event that the pool holds must not overtake it.
            self._held.add(compiled.id)
            return False
        if compiled.routes.get((received.name, received.version), ...) is None:
            self._counters.add(compiled.label, "skipped")
            return True
        lane = received.lane if compiled.options.ordered else received.event_key
        known = await guarded(self._store.call(self._store.inbox.standing, compiled.id, [received.event_key], [lane]))
        standing = known.get(0, Standing.RUN)
        if standing == Standing.DUPLICATE:
            self._counters.add(compiled.label, "duplicates")
            compiled.circuit.returned()
            return True
        if standing == Standing.PARKED:
            await pool.settling.park([parking(received, lane, "behind")])
            compiled.circuit.returned()
            return True
        gate = compiled.gate
        if gate is not None and not await gate.enter():
            self._held.add(compiled.id)
            return False
        try:
            await self._run(received, lane, pool, tasks)
        finally:
            compiled.circuit.returned()
            if gate is not None:
                gate.leave()
        return True

    async def _run(self, received: Received, lane: str, pool: Pool, tasks: asyncio.TaskGroup) -> None:
        claimed = await pool.settling.park([parking(received, lane, "careful", attempts=1)], self._retrier.lease_seconds, self._worker)
        for mine in claimed:
            suspect = mine._replace(interrupted=True, before=self._worker + ALONE)
            task = tasks.create_task(self._retrier.work(suspect))
            await asyncio.wait([task], timeout=ALONE_SECONDS)
            if not task.done():
                # It is slow, and holds back its own key only.
                self._slow.add(task)
                task.add_done_callback(self._slow.discard)

    async def finish(self) -> None:
        """Wait for the slow events."""
        if self._slow:
            await asyncio.wait(self._slow)
