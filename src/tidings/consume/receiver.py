"""The receiver of one group: reads its source under the reader's lease, routes to the subscriptions' lanes, and moves the checkpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tidings.clock import elapsed
from tidings.consume.company import Company
from tidings.consume.counters import Counters
from tidings.consume.crew import Crew, Means
from tidings.consume.environments import Environments
from tidings.consume.execution import Execution, Failed, StoreDown
from tidings.consume.parking import guarded
from tidings.consume.pool import Pool
from tidings.consume.progress import Progress
from tidings.consume.received import Received, from_row
from tidings.consume.routing import Compiled
from tidings.consume.tenure import Tenure, acquire, bounded, cause_of, hold, rest, timestamp
from tidings.consume.tuning import Tuning
from tidings.errors import LeaseLost
from tidings.observability.logs import received_from
from tidings.publish.publisher import Publisher
from tidings.stores.base import Batch, Lease, Mark, Registered
from tidings.stores.sql.connections import Held
from tidings.stores.sql.errors import UNAVAILABLE, said_by
from tidings.stores.sql.registry import reader_name
from tidings.stores.sql.store import SQLStore

__all__ = ["Receiver"]

logger = logging.getLogger("tidings.consume")


class Receiver:
    """One group on the log. Acquires the reader's lease, and reads until it is lost or the receiver is stopped.

    Args:
        elsewhere: whether events of this name, version and topic come to the group by a broker: then they are passed over here.
        environments: decides which events are for this environment; None where there is only one.
    """

    def __init__(
        self, service: str, group: str, subscriptions: Sequence[Compiled], store: SQLStore, publisher: Publisher, worker: str,
        slots: asyncio.Semaphore, counters: Counters, died: Callable[[Compiled, Failed], None], tuning: Tuning,
        execution: Callable[[Compiled, SQLStore, Publisher], Execution] = Execution, company: Company | None = None,
        elsewhere: Callable[[str, int | None, str], bool] | None = None, environments: Environments | None = None,
    ) -> None:  # fmt: skip
        self.reader = reader_name(service, group)
        self.group = group
        self._service = service
        self._store = store
        self._worker = worker
        self._counters = counters
        self._tuning = tuning
        self._elsewhere = elsewhere
        self._means = Means(
            service, store, publisher, worker, slots, counters, died, tuning, execution, company or Company(), environments
        )  # fmt: skip
        self._executions = [execution(compiled, store, publisher) for compiled in subscriptions]
        #: What careful mode runs its lanes with.
        self._retrier = self._means.retrier(subscriptions)
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._to_end = False
        self.lease: Lease | None = None
        self._room = asyncio.Event()
        self._bytes = 0
        #: The workers of each subscription while the lease is held.
        self.pools: list[Pool] = []
        self._progress: Progress[Mark] = Progress(Mark(None, None, 0))
        self._offset = 0.0

    def wake(self) -> None:
        """Look at the log now: something was committed."""
        self._wake.set()

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is under way is finished."""
        self._stopping.set()
        self._room.set()
        self._retrier.stop()
        self._wake.set()

    @property
    def idle(self) -> bool:
        """Whether everything that was read is finished."""
        return len(self._progress) == 0

    async def run(self) -> None:
        """Read under the lease whenever it can be had, until stopped."""
        await hold(self.reader, self._store, self._worker, self._tuning, self._stopping, self._begin)

    async def _begin(self, tenure: Tenure) -> None:
        # After the acquisition: whoever registers from now on raises the token again.
        registered = await guarded(self._store.call(self._store.registry.list, self._service))
        try:
            await self._read(tenure, registered)
        finally:
            self.lease = None

    async def read_to_end(self) -> None:
        """Read what the log holds now, finish it but for what is paused, and give the lease up. Raises what `run` would wait out.

        Raises:
            LeaseLost: another worker has the lease.
            StoreDown, ReplicaError: the log cannot be read.
        """
        tenure = await acquire(self.reader, self._store, self._worker, self._tuning)
        if tenure is None:
            raise LeaseLost(f"another worker reads for {self.reader!r}")
        self._to_end = True
        try:
            await self._read(tenure, await guarded(self._store.call(self._store.registry.list, self._service)))
        finally:
            self._to_end = False

    async def _pause(self, seconds: float) -> None:
        await rest(seconds, self._stopping)

    async def _read(self, tenure: Tenure, registered: Sequence[Registered]) -> None:
        """Read and handle under one lease; everything in memory belongs to it and goes with it."""
        lease = self.lease = tenure.lease
        self._progress = tenure.progress
        self._bytes = 0
        self._room.set()
        self._offset = time.time() - elapsed()
        crew = Crew(
            self.group, self._executions, self._means, self._retrier, lease, registered, self._settle, self.database_time, self._pause,
            self._stopping.is_set,
        )  # fmt: skip
        self.pools = crew.pools
        await crew.join()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [*crew.start(tasks), tasks.create_task(tenure.keep())]
                await self._feed(lease, crew, tasks)
                await crew.careful.finish()
                await crew.drain(self._room, everything=self._to_end)
                for task in helpers:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        except asyncio.CancelledError:
            # Everything under way was rolled back: hand the rest to the next worker at once.
            await bounded(tenure.leave())
            raise
        finally:
            await crew.end()
        await tenure.leave()

    async def _feed(self, lease: Lease, crew: Crew, tasks: asyncio.TaskGroup) -> None:
        tuning = self._tuning
        careful = crew.careful
        mark = lease.mark
        quiet_since = elapsed()
        page = 100
        async with self._store.connections.autocommit() as held:
            while not self._stopping.is_set():
                self._wake.clear()
                batch = await self._next(held, mark, page)
                if batch.clock is not None:
                    self._offset = timestamp(batch.clock) - elapsed()
                mark = batch.end
                elsewhere = 0
                told = logger.isEnabledFor(logging.DEBUG)
                for row, after in zip(batch.rows, batch.marks, strict=True):
                    received = from_row(row)
                    if self._elsewhere is not None and self._elsewhere(received.name, received.version, received.topic):
                        self._progress.read(after, received.sequence or 0, 0)
                        elsewhere += 1
                        continue
                    if self._means.environments is not None and not await self._means.environments.takes(received):
                        self._progress.read(after, received.sequence or 0, 0)
                        self._counters.add("", "skipped")
                        continue
                    if told:
                        received_from(logger, self.group, received)
                    if received.name in crew.foreign:
                        await crew.park_for(crew.foreign[received.name], received)
                    pools = self._route(received, after, crew.routes)
                    if careful.on:
                        await crew.hand(received, pools, tasks, self._settle)
                    else:
                        for pool in pools:
                            pool.add(received)
                if batch.rows:
                    self._counters.add(self.group, "received", len(batch.rows) - elsewhere)
                    quiet_since = elapsed()
                    mean = max(self._bytes // max(len(self._progress), 1), 600)
                    page = max(1, min(tuning.page, tuning.bytes // 4 // mean))
                else:
                    self._progress.reach(batch.end)
                more = batch.more
                # The rows are not needed while their events are handled.
                del batch
                await self._wait_for_room()
                if careful.on:
                    careful.read(to_the_end=not more, progress=self._progress.finished > 0)
                if not more:
                    if self._to_end:
                        return
                    # Polls follow what happens: every few milliseconds while events come, twice a second after a quiet time.
                    await self._wait_for_news(min(tuning.longest, max(tuning.shortest, (elapsed() - quiet_since) / 20)))

    async def _next(self, held: Held, mark: Mark, page: int) -> Batch:
        try:
            return await held.run(self._store.log.read, mark, page)
        except UNAVAILABLE as error:
            raise StoreDown(f"the log cannot be read: {said_by(error)}") from error

    def _route(self, received: Received, after: Mark, routes: Mapping[str, Sequence[Pool]]) -> Sequence[Pool]:
        """Note an event that was read; return the pools of those who handle it."""
        pools = routes.get(received.name, ())
        assert received.sequence is not None
        received.ticket = self._progress.read(after, received.sequence, len(pools))
        if not pools:
            self._counters.add("", "skipped")
            return pools
        self._bytes += received.size
        return pools

    def _settle(self, events: Sequence[Received]) -> None:
        before = len(self._progress)
        self._progress.finish_each([received.ticket for received in events])
        self._bytes -= sum([received.size for received in events if received.ticket.parts == 0])
        if len(self._progress) < before:
            self._room.set()

    async def _wait_for_room(self) -> None:
        while (len(self._progress) >= self._tuning.events or self._bytes >= self._tuning.bytes) and not self._stopping.is_set():
            self._room.clear()
            await self._room.wait()

    async def _wait_for_news(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def database_time(self) -> float:
        """Return the database's time as a Unix timestamp, as of the last read plus what has passed here."""
        return elapsed() + self._offset
