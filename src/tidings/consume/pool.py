"""The workers of one subscription under one reader's lease: they take from the lanes, and have settled what they took."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from math import ceil

from tidings.clock import elapsed
from tidings.consume.company import Company
from tidings.consume.counters import Counters
from tidings.consume.execution import Execution
from tidings.consume.fences import PROMOTED_LEASE, Handed
from tidings.consume.gate import Gate
from tidings.consume.lanes import Lanes, Taken
from tidings.consume.parking import guarded, parking
from tidings.consume.received import Received
from tidings.consume.settling import SHARE, Settling
from tidings.stores.base import Lease
from tidings.stores.sql.store import SQLStore

__all__ = ["Pool"]

logger = logging.getLogger("tidings.consume")

#: Among how many workers the lanes that are ready are shared out at least.
_TAKERS = 4


class Pool:
    """Workers of one subscription.

    Each of them has a transaction of its own, and takes more events at a time the more there are waiting and the faster the handler is.

    Args:
        settling: settles what they take.
        settled: called for events that are finished or parked.
    """

    def __init__(
        self, settling: Settling, store: SQLStore, lease: Lease, counters: Counters, settled: Callable[[Sequence[Received]], None],
        company: Company | None = None,
    ) -> None:  # fmt: skip
        self.settling = settling
        self.execution: Execution = settling.execution
        self.compiled = settling.compiled
        self._store = store
        self._lease = lease
        self._counters = counters
        self._settled = settled
        self._company = company or Company()
        self.lanes: Lanes[Received] = Lanes()
        self._idle: list[asyncio.Future[None]] = []
        self._running: dict[Handed, Taken[Received]] = {}
        self.paused = False
        self.stopped = False
        self.starved = False
        self._renewed = elapsed()

    def add(self, received: Received) -> None:
        """Hand an event to the lane of its key."""
        self.lanes.add(received.key if self.compiled.options.ordered else None, received)
        self._nudge()

    async def work(self) -> None:
        """Take and handle, until cancelled.

        Raises:
            LeaseLost: the reader's lease is lost; nothing of what was under way was kept.
        """
        circuit = self.compiled.circuit
        while True:
            size = self._size()
            if self.paused or self.stopped or not self.lanes.ready:
                await self._rest()
                continue
            if self._company.reserved:
                await self._company.over()
                continue
            pause = circuit.wait(elapsed())
            if pause > 0:
                await asyncio.sleep(min(pause, 1.0))
                continue
            probing = circuit.is_open
            gate = self.compiled.gate
            if gate is not None and not (size := await self._enter(gate, size, probing)):
                continue
            # Lanes are left for others to take, so that the database works on one transaction while the handlers of another run.
            taken = self.lanes.take(size, min(_TAKERS, self.compiled.options.concurrency))
            handed = Handed(self._store, self._lease, taken.items, elapsed(), ordered=self.compiled.options.ordered)
            self._running[handed] = taken
            if self.lanes.ready:
                self._nudge()
            try:
                await self.settling.settle(handed)
            finally:
                del self._running[handed]
                if gate is not None:
                    gate.leave(size - len(taken.items))
            if probing:
                circuit.returned()
            if not handed.is_promoted():
                self._free(taken, handed.withheld)

    async def _enter(self, gate: Gate, wanted: int, probing: bool) -> int:
        """Wait until the limits let this many events be taken; return for how many they do. Much may have happened meanwhile."""
        got = await gate.enter(wanted)
        size = self._size() if self.lanes.ready and not (self.paused or self.stopped or self._company.reserved) else 0
        circuit = self.compiled.circuit
        if got and size and (probing or not circuit.is_open):
            gate.put_back(got - min(got, size))
            return min(got, size)
        if got:
            gate.leave(got)
        if probing:
            circuit.returned()
        if not got:
            # Only in steps: time does not go on by itself.
            self.starved = True
            await self._rest()
        return 0

    @property
    def busy(self) -> bool:
        """Whether a worker is handling something."""
        return bool(self._running)

    def has(self, wanted: Callable[[Received], bool]) -> bool:
        """Whether one of these events is being handled; one that has a lane of its own holds nobody up."""
        return any(wanted(received) for handed in self._running if not handed.is_promoted() for received in handed.items)

    def drop(self, gone: Callable[[Received], bool]) -> list[Received]:
        """Forget what waits and is somebody else's now; return it."""
        return self.lanes.drop(gone)

    def stop(self) -> None:
        """Take nothing more, for good: what waits is in the log, and is read again."""
        self.stopped = True

    def pause(self, paused: bool) -> None:
        """Take nothing more until told otherwise; what is under way goes on."""
        if self.paused and not paused:
            self.paused = False
            for _ in range(self.compiled.options.concurrency):
                self._nudge()
        self.paused = paused

    def _free(self, taken: Taken[Received], withheld: Sequence[Received] = ()) -> None:
        if withheld:
            # The breaker opened before their turn: they wait in memory like what was never taken.
            ordered = self.compiled.options.ordered
            self.lanes.put_back([(received.key if ordered else None, received) for received in withheld])
        self.lanes.give_back(taken)
        self._settled([received for received in taken.items if received not in withheld] if withheld else taken.items)
        if self.lanes.ready:
            self._nudge()

    async def promote(self, slow: float) -> None:
        """Give events that have run for longer than `slow` seconds lanes of their own, so that the source moves on; renew those leases.

        A failed or slow event holds back its own key only (invariant 5). What is promoted finishes under its lane's lease.
        """
        now = elapsed()
        if now - self._renewed > PROMOTED_LEASE / 3:
            self._renewed = now
            for handed in list(self._running):
                # One that fails meanwhile gives its lane up.
                for lane in list((handed.promoted or {}).values()):
                    await guarded(self._store.call(self._store.lanes.renew, lane, PROMOTED_LEASE))
        if self.compiled.transactional and self._store.dialect.name == "sqlite":
            # The handler's transaction holds SQLite's only write lock: there is no one to move on.
            return
        for handed, taken in list(self._running.items()):
            if handed.promoted is None and now - handed.since > slow:
                if handed.together is not None and len({handed.lane(event) for event in handed.items}) > 1 and handed.together.interrupt():
                    # Those that share its transaction would wait for it, whatever their keys. It is promoted when it runs alone.
                    logger.info("%s: a slow event runs again, in a transaction of its own", self.compiled.label)
                    continue
                async with handed.promoting() as possible:
                    if possible and handed in self._running:
                        await self._promote(handed, taken)

    async def _promote(self, handed: Handed, taken: Taken[Received]) -> None:
        untouched = handed.untouched()
        back = {received.event_key for received in untouched}
        slow = [received for received in handed.left() if received.event_key not in back]
        items = [parking(received, handed.lane(received), "slow", attempts=1) for received in slow]
        owner = f"{self._lease.reader}:{self._lease.token}:{id(handed):x}"
        handed.promote(await self.settling.park(items, PROMOTED_LEASE, owner), slow)
        logger.info("%s: %d slow events go on in lanes of their own", self.compiled.label, len(items))
        self._free(taken, untouched)

    async def _rest(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._idle:
                self._idle.remove(waiter)

    def _nudge(self) -> None:
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _size(self) -> int:
        options = self.compiled.options
        if self.compiled.circuit.is_open:
            return 1
        fair = ceil(self.lanes.waiting / options.concurrency)
        fast = self.execution.pace.share()
        if self.compiled.batch is not None:
            # The user chose the size of a call; one transaction holds one.
            return min(self.compiled.batch, max(1, self.lanes.waiting))
        if not self.compiled.transactional:
            return max(1, min(SHARE, fair, fast))
        return max(1, min(self.settling.share, fair, fast)) if options.shared else 1
