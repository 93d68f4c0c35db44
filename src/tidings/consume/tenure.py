"""Acting for a reader: its lease is acquired whenever it can be had, renewed as long as it is held, and its checkpoint written as it moves."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tidings.clock import elapsed
from tidings.consume.execution import StoreDown
from tidings.consume.parking import guarded, noticed
from tidings.consume.progress import Progress
from tidings.consume.tuning import Tuning
from tidings.errors import LeaseLost, ReplicaError
from tidings.stores.base import Lease, Mark
from tidings.stores.sql.connections import Held
from tidings.stores.sql.store import SQLStore

__all__ = ["Tenure", "acquire", "bounded", "cause_of", "hold", "rest", "timestamp"]

logger = logging.getLogger("tidings.consume")


class Tenure:
    """One lease of a reader as long as it is held; what was read under it goes with it.

    Attributes:
        progress: what was read, and what of that is finished.
        until: until when, by `clock.elapsed`, nobody else can have the lease.
    """

    def __init__(self, lease: Lease, store: SQLStore, tuning: Tuning, until: float) -> None:
        self.lease = lease
        self.until = until
        self.progress: Progress[Mark] = Progress(lease.mark, lease.high)
        self._saved = lease.mark
        self._store = store
        self._tuning = tuning

    @property
    def lost(self) -> LeaseLost:
        """What to raise when the lease is lost."""
        return LeaseLost(f"another worker reads for {self.lease.reader!r} now")

    def again(self) -> Mark:
        """Forget what was read and is not finished; return from where to read again."""
        before = self.progress
        self.progress = Progress(before.mark, before.high)
        return before.mark

    def check(self) -> None:
        """Make sure that the lease cannot have run out meanwhile, as it does while a process is paused.

        Raises:
            LeaseLost: it can.
        """
        if elapsed() > self.until:
            raise LeaseLost(f"the lease of {self.lease.reader!r} was not renewed in time")

    async def renew(self, held: Held | None = None) -> None:
        """Hold the lease for its full time again.

        Raises:
            LeaseLost: another worker has it.
            StoreDown: the database cannot be used.
        """
        asked = elapsed()
        run = self._store.call if held is None else held.run
        if not await guarded(run(self._store.leases.renew, self.lease, self._tuning.lease)):
            raise self.lost
        self.until = asked + self._tuning.lease

    async def keep(self) -> None:
        """Renew the lease, and write the checkpoint when it has moved, on a connection of its own, until cancelled.

        Raises:
            LeaseLost: another worker has the lease.
            StoreDown: the database cannot be used.
        """
        tuning = self._tuning
        renewed = moved = elapsed()
        finished = (self.progress, 0)
        # No connection before there is something to write: readings that end at once would break off in the middle of making one.
        await asyncio.sleep(tuning.checkpoint_seconds)
        async with self._store.connections.autocommit() as held:
            while True:
                now = elapsed()
                if finished != (self.progress, self.progress.finished) or now - moved > tuning.checkpoint_idle:
                    finished = (self.progress, self.progress.finished)
                    moved = now
                    await self.save(held)
                if now - renewed > tuning.lease / 3:
                    renewed = now
                    await self.renew(held)
                await asyncio.sleep(tuning.checkpoint_seconds)

    async def save(self, held: Held | None = None) -> None:
        """Write the checkpoint if it has moved.

        Raises:
            LeaseLost: another worker has the lease.
            StoreDown: the database cannot be used.
        """
        mark = self.progress.mark
        if mark == self._saved:
            return
        same = mark.current is not None and (mark.previous, mark.current) == (self._saved.previous, self._saved.current)
        move = self._store.leases.move
        run = self._store.call if held is None else held.run
        if not await guarded(run(move, self.lease, mark, self.progress.high, same_window=same)):
            raise self.lost
        self._saved = mark

    async def leave(self) -> None:
        """Write the checkpoint and give the lease up."""
        await self.save()
        await guarded(self._store.call(self._store.leases.release, self.lease))


async def acquire(reader: str, store: SQLStore, worker: str, tuning: Tuning) -> Tenure | None:
    """Take the lease of a reader; None while another worker has it.

    Raises:
        StoreDown: the database cannot be used.
    """
    asked = elapsed()
    lease = await guarded(store.call(store.leases.acquire, reader, worker, tuning.lease))
    return None if lease is None else Tenure(lease, store, tuning, asked + tuning.lease)


async def hold(
    reader: str, store: SQLStore, worker: str, tuning: Tuning, stopping: asyncio.Event, read: Callable[[Tenure], Awaitable[None]]
) -> None:
    """Read under the lease whenever it can be had, until stopped. Whatever `read` raises, reading begins again at the checkpoint."""
    delay = 0.1
    while not stopping.is_set():
        try:
            await guarded(store.mend())
            tenure = await acquire(reader, store, worker, tuning)
            store.outages.over(reader)
            delay = 0.1
            if tenure is None:
                await rest(tuning.lease / 3 * random.uniform(0.8, 1.2), stopping)
                continue
            await read(tenure)
        except LeaseLost as error:
            logger.info("%s: %s", reader, error, extra={"reader": reader})
        except (StoreDown, ReplicaError) as error:
            noticed(store, reader, error, reader=reader)
            await rest(delay, stopping)
            delay = min(delay * 2, 5.0)
        except Exception:
            # A mistake of ours, or tables that were changed under us: nothing is lost, reading starts again at the checkpoint.
            logger.exception("%s: reading stopped; trying again in %.1f s", reader, delay, extra={"reader": reader})
            await rest(delay, stopping)
            delay = min(delay * 2, 30.0)


async def rest(seconds: float, woken: asyncio.Event) -> None:
    """Wait for some seconds, or until the event is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()


async def bounded(work: Coroutine[Any, Any, None]) -> None:
    """Finish this although we are cancelled, in at most five seconds; what it cannot do, the lease's end will."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=5.0)
    if not done:
        task.cancel()
    elif error := task.exception():
        logger.info("could not hand back: %s", error)


def timestamp(clock: datetime | str) -> float:
    """Return a time as the database gave it, as a Unix timestamp."""
    if isinstance(clock, str):
        clock = datetime.fromisoformat(clock)
    return (clock if clock.tzinfo else clock.replace(tzinfo=UTC)).timestamp()


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a task group failed for: a lost lease before anything that followed from it."""
    leaves: list[BaseException] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        else:
            leaves.append(error)

    collect(group)
    return next((e for e in leaves if isinstance(e, LeaseLost)), leaves[0])
