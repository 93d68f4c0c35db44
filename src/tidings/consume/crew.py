"""Who handles what one reader reads under one lease: the workers of each subscription, and what is held back for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.announcing import Announcer
from tidings.consume.careful import Careful
from tidings.consume.company import Company
from tidings.consume.counters import Counters
from tidings.consume.deliveries import Retrier
from tidings.consume.environments import Environments
from tidings.consume.execution import Execution, Failed
from tidings.consume.parking import guarded, parking
from tidings.consume.pool import Pool
from tidings.consume.received import Received
from tidings.consume.routing import Compiled
from tidings.consume.settling import Settling
from tidings.consume.tenure import bounded
from tidings.consume.tuning import Tuning
from tidings.errors import LeaseLost
from tidings.publish.publisher import Publisher
from tidings.stores.base import Lease, Registered
from tidings.stores.sql.connections import Line
from tidings.stores.sql.queries import INBOUND
from tidings.stores.sql.store import SQLStore

__all__ = ["Crew", "Means"]

logger = logging.getLogger("tidings.consume")


@dataclass(frozen=True)
class Means:
    """What everything that handles events in one process has in common; `environments` where these are several."""

    service: str
    store: SQLStore
    publisher: Publisher
    worker: str
    slots: asyncio.Semaphore
    counters: Counters
    died: Callable[[Compiled, Failed], None]
    tuning: Tuning
    execution: Callable[[Compiled, SQLStore, Publisher], Execution] = Execution
    company: Company = field(default_factory=Company)
    environments: Environments | None = None

    def retrier(self, subscriptions: Sequence[Compiled]) -> Retrier:
        """Return what tries their parked events again."""
        return Retrier(
            subscriptions, self.store, self.publisher, self.worker, self.slots, self.counters, self.died, self.execution, self.company
        )


class Crew:
    """The workers of a group's subscriptions as long as one lease is held.

    Args:
        lease: what everything that is written proves to be still held.
        registered: the subscriptions that the store knows.
        settled: called for events that a subscription has finished or parked.
        clock: returns the database's time.
        pause: waits so many seconds, or until the reader is to stop.
        stopping: whether the reader is to stop.
        shared: whether others act under the same lease, because a broker divides the messages.

    Attributes:
        routes: the pools by the names of the events that they handle.
        foreign: subscriptions of the group that this process lacks, likewise.
        states: of all subscriptions of the service, by id, as of the last look.
    """

    def __init__(
        self, group: str, executions: Sequence[Execution], means: Means, retrier: Retrier, lease: Lease, registered: Sequence[Registered],
        settled: Callable[[Sequence[Received]], None], clock: Callable[[], float], pause: Callable[[float], Awaitable[None]],
        stopping: Callable[[], bool], *, shared: bool = False,
    ) -> None:  # fmt: skip
        self._means = means
        self._store = store = means.store
        self._lease = lease
        own = {execution.compiled.id for execution in executions}
        paused = {row.id for row in registered if row.state == "paused"}
        self._reads, self._writes = Line(store.connections), Line(store.connections)
        self.pools = [
            Pool(
                Settling(
                    execution, store, lease, means.slots, means.counters, clock,
                    lambda failed, compiled=execution.compiled: means.died(compiled, failed), self._reads, self._writes,  # type: ignore[misc]
                    shared=shared,
                ),
                store, lease, means.counters, settled, means.company,
            )
            for execution in executions
        ]  # fmt: skip
        self.routes: dict[str, list[Pool]] = {}
        for pool in self.pools:
            pool.pause(pool.compiled.id in paused)
            for name in pool.compiled.names:
                self.routes.setdefault(name, []).append(pool)
        self.foreign: dict[str, list[Registered]] = {}
        for other in registered:
            # What is kept for nobody yet is no subscription that could be given anything.
            if other.group == group and other.id not in own and other.state != "retired" and not other.name.startswith(INBOUND):
                for name in other.events:
                    self.foreign.setdefault(name, []).append(other)
        self.careful = Careful(lease, store, retrier, means.worker, means.counters, means.tuning.events, pause, stopping)
        self._announcer = Announcer([pool.compiled for pool in self.pools], store, lease, means.worker)
        self._leave: Callable[[], None] | None = None
        self.states = {row.id: row.state for row in registered}

    @property
    def busy(self) -> bool:
        """Whether a handler is under way."""
        return any(pool.busy for pool in self.pools)

    @property
    def waiting(self) -> bool:
        """Whether something waits that could be handled."""
        return any(pool.lanes.waiting and not (pool.paused or pool.stopped or pool.starved) for pool in self.pools)

    async def join(self) -> None:
        """Find out what was told before, and say to the others of this process when somebody here is busy.

        Raises:
            StoreDown: the database cannot be used.
        """
        await self._announcer.inherit()
        self._leave = self._means.company.join(lambda: self.busy)

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Begin to work; return the tasks, which end when they are cancelled."""
        workers = [tasks.create_task(pool.work()) for pool in self.pools for _ in range(pool.compiled.options.concurrency)]
        return [*workers, tasks.create_task(self._watch())]

    async def end(self) -> None:
        """Give up what the workers used; they are cancelled."""
        if self._leave is not None:
            self._leave()
        for pool in self.pools:
            await bounded(pool.settling.close())
        await bounded(self._reads.close())
        await bounded(self._writes.close())

    async def hand(
        self, received: Received, pools: Sequence[Pool], tasks: asyncio.TaskGroup, settled: Callable[[Sequence[Received]], None]
    ) -> None:  # fmt: skip
        """Let these pools handle an event, one after another as long as careful mode lasts."""
        for pool in pools:
            if self.careful.on and await self.careful.handle(received, pool, tasks):
                settled([received])
            else:
                pool.add(received)

    async def drain(self, room: asyncio.Event, *, everything: bool) -> None:
        """Wait until nothing is under way, or with `everything` until nothing waits either; who stops us bounds the time.

        Args:
            room: set whenever something is settled.
        """
        if not everything:
            for pool in self.pools:
                pool.stop()
        while self.busy or self.waiting:
            room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await room.wait()

    async def park_for(self, others: Collection[Registered], received: Received) -> None:
        """Park an event for subscriptions that this process lacks: another deploy has them (invariant 6).

        Raises:
            LeaseLost: another worker reads for the group.
            StoreDown: the database cannot be used.
        """

        def park(connection: Connection) -> None:
            for other in others:
                known = self._store.inbox.standing(connection, other.id, [received.event_key], [received.lane])
                if known.get(0) != 1:
                    self._store.lanes.park(connection, other.id, [parking(received, received.lane, "waiting for code", delay=1.0)])
            if not self._store.leases.holds(connection, self._lease):
                raise LeaseLost(f"another worker reads for {self._lease.reader!r} now")

        await guarded(self._store.transact(park))
        self._means.counters.add("", "waiting for code", len(others))

    async def _watch(self) -> None:
        """Move slow events out of the way of the source; hold back subscriptions that an operator paused, or that have parked too much.

        Tell everybody about breakers that open and close.
        """
        tuning, store = self._means.tuning, self._store
        looked = 0.0
        while True:
            await self._announcer.tell()
            await asyncio.sleep(min(1.0, tuning.slow / 2))
            for pool in self.pools:
                await pool.promote(tuning.slow)
            if elapsed() - looked < 1.0:
                continue
            looked = elapsed()
            self.states = {row.id: row.state for row in await guarded(store.call(store.registry.list, self._means.service))}
            parked = await guarded(store.call(store.lanes.parked, [pool.compiled.id for pool in self.pools]))
            for pool in self.pools:
                full = parked.get(pool.compiled.id, 0) >= tuning.max_parked
                if full and not pool.paused:
                    logger.error(
                        "%s: %d events are parked; the rest stays where it is until there are fewer than %d", pool.compiled.label,
                        parked[pool.compiled.id], tuning.max_parked, extra={"subscription": pool.compiled.label},
                    )  # fmt: skip
                pool.pause(full or self.states.get(pool.compiled.id) == "paused")
