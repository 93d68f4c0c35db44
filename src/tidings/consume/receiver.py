"""The receiver of one group: reads its source under the reader's lease, routes to the subscriptions' lanes, and moves the checkpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.announcing import Announcer
from tidings.consume.careful import Careful
from tidings.consume.company import Company
from tidings.consume.counters import Counters
from tidings.consume.deliveries import Retrier
from tidings.consume.execution import Execution, Failed, StoreDown
from tidings.consume.parking import guarded, parking
from tidings.consume.pool import Pool
from tidings.consume.progress import Progress
from tidings.consume.received import Received, from_row
from tidings.consume.routing import Compiled
from tidings.consume.settling import Settling
from tidings.consume.tenure import Tenure, acquire, bounded, cause_of, hold, rest, timestamp
from tidings.consume.tuning import Tuning
from tidings.errors import LeaseLost
from tidings.publish.publisher import Publisher
from tidings.stores.base import Batch, Lease, Mark, Registered
from tidings.stores.sql.connections import Held, Line
from tidings.stores.sql.errors import UNAVAILABLE
from tidings.stores.sql.registry import reader_name
from tidings.stores.sql.store import SQLStore

__all__ = ["Receiver"]

logger = logging.getLogger("tidings.consume")


class Receiver:
    """One group on the log. Acquires the reader's lease, and reads until it is lost or the receiver is stopped."""

    def __init__(
        self, service: str, group: str, subscriptions: Sequence[Compiled], store: SQLStore, publisher: Publisher, worker: str,
        slots: asyncio.Semaphore, counters: Counters, died: Callable[[Compiled, Failed], None], tuning: Tuning,
        execution: Callable[[Compiled, SQLStore, Publisher], Execution] = Execution, company: Company | None = None,
    ) -> None:  # fmt: skip
        self.reader = reader_name(service, group)
        self.group = group
        self._service = service
        self._store = store
        self._worker = worker
        self._slots = slots
        self._counters = counters
        self._died = died
        self._tuning = tuning
        self._executions = [execution(compiled, store, publisher) for compiled in subscriptions]
        self._company = company or Company()
        #: What careful mode runs its lanes with.
        self._retrier = Retrier(subscriptions, store, publisher, worker, slots, counters, died, execution, self._company)
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
        own = {execution.compiled.id for execution in self._executions}
        paused = {row.id for row in registered if row.state == "paused"}
        reads, writes = Line(self._store.connections), Line(self._store.connections)
        pools = self.pools = [
            Pool(
                Settling(
                    execution, self._store, lease, self._slots, self._counters, self.database_time,
                    lambda failed, compiled=execution.compiled: self._died(compiled, failed), reads, writes,  # type: ignore[misc]
                ),
                self._store, lease, self._counters, self._settle, self._company,
            )
            for execution in self._executions
        ]  # fmt: skip
        routes: dict[str, list[Pool]] = {}
        for pool in pools:
            pool.pause(pool.compiled.id in paused)
            for name in pool.compiled.names:
                routes.setdefault(name, []).append(pool)
        foreign: dict[str, list[Registered]] = {}
        for other in registered:
            if other.group == self.group and other.id not in own and other.state != "retired":
                for name in other.events:
                    foreign.setdefault(name, []).append(other)
        careful = Careful(
            lease, self._store, self._retrier, self._worker, self._counters, self._tuning.events, self._pause, self._stopping.is_set
        )
        announcer = Announcer([pool.compiled for pool in pools], self._store, lease, self._worker)
        await announcer.inherit()
        leave = self._company.join(lambda: any(pool.busy for pool in pools))
        try:
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(pool.work()) for pool in pools for _ in range(pool.compiled.options.concurrency)]
                workers.append(tasks.create_task(tenure.keep()))
                workers.append(tasks.create_task(self._watch(pools, announcer)))
                await self._feed(lease, routes, foreign, careful, tasks)
                await careful.finish()
                await self._drain(pools)
                for task in workers:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        except asyncio.CancelledError:
            # Everything under way was rolled back: hand the rest to the next worker at once.
            await bounded(tenure.leave())
            raise
        finally:
            leave()
            for pool in pools:
                await bounded(pool.settling.close())
            await bounded(reads.close())
            await bounded(writes.close())
        await tenure.leave()

    async def _feed(
        self, lease: Lease, routes: dict[str, list[Pool]], foreign: dict[str, list[Registered]], careful: Careful, tasks: asyncio.TaskGroup
    ) -> None:
        tuning = self._tuning
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
                for row, after in zip(batch.rows, batch.marks, strict=True):
                    received = from_row(row)
                    if received.name in foreign:
                        await self._park_for_others(lease, received, foreign[received.name])
                    for pool in self._route(received, after, routes):
                        if careful.on and await careful.handle(received, pool, tasks):
                            self._settle(received)
                        else:
                            pool.add(received)
                if batch.rows:
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

    async def _drain(self, pools: Sequence[Pool]) -> None:
        """Wait until nothing is under way, when reading to the end also until nothing waits; who stops us bounds the time."""
        if not self._to_end:
            for pool in pools:
                pool.stop()
        while any(pool.busy or (pool.lanes.waiting and not (pool.paused or pool.stopped or pool.starved)) for pool in pools):
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._room.wait()

    async def _watch(self, pools: Sequence[Pool], announcer: Announcer) -> None:
        """Move slow events out of the way of the source; hold back subscriptions that an operator paused, or that have parked too much.

        Tell everybody about breakers that open and close.
        """
        tuning = self._tuning
        looked = 0.0
        while True:
            await announcer.tell()
            await asyncio.sleep(min(1.0, tuning.slow / 2))
            for pool in pools:
                await pool.promote(tuning.slow)
            if elapsed() - looked < 1.0:
                continue
            looked = elapsed()
            states = {row.id: row.state for row in await guarded(self._store.call(self._store.registry.list, self._service))}
            parked = await guarded(self._store.call(self._store.lanes.parked, [pool.compiled.id for pool in pools]))
            for pool in pools:
                full = parked.get(pool.compiled.id, 0) >= tuning.max_parked
                if full and not pool.paused:
                    logger.error(
                        "%s: %d events are parked; the rest stays in the log until there are fewer than %d", pool.compiled.label,
                        parked[pool.compiled.id], tuning.max_parked, extra={"subscription": pool.compiled.label},
                    )  # fmt: skip
                pool.pause(full or states.get(pool.compiled.id) == "paused")

    async def _next(self, held: Held, mark: Mark, page: int) -> Batch:
        try:
            return await held.run(self._store.log.read, mark, page)
        except UNAVAILABLE as error:
            raise StoreDown(f"the log cannot be read: {str(error).partition(chr(10))[0]}") from error

    def _route(self, received: Received, after: Mark, routes: dict[str, list[Pool]]) -> Sequence[Pool]:
        """Note an event that was read; return the pools of those who handle it."""
        pools = routes.get(received.name, ())
        assert received.sequence is not None
        received.ticket = self._progress.read(after, received.sequence, len(pools))
        if not pools:
            self._counters.add("", "skipped")
            return pools
        self._bytes += received.size
        return pools

    async def _park_for_others(self, lease: Lease, received: Received, others: Sequence[Registered]) -> None:
        """Park an event for subscriptions that this process lacks: another deploy has them (invariant 6)."""

        def park(connection: Connection) -> None:
            for other in others:
                known = self._store.inbox.standing(connection, other.id, [received.event_key], [received.lane])
                if known.get(0) != 1:
                    self._store.lanes.park(connection, other.id, [parking(received, received.lane, "waiting for code", delay=1.0)])
            if not self._store.leases.holds(connection, lease):
                raise LeaseLost(f"another worker reads for {self.reader!r} now")

        await guarded(self._store.transact(park))
        self._counters.add("", "waiting for code", len(others))

    def _settle(self, received: Received) -> None:
        before = len(self._progress)
        self._progress.finish(received.ticket)
        if received.ticket.parts == 0:
            self._bytes -= received.size
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
