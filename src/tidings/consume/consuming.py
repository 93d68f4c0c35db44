"""One connection to a broker under one lease: messages become events, events are handled, and what is finished is acknowledged.

Everything in memory goes with the connection: what was not acknowledged comes again, and what of it was finished is a duplicate then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.crew import Crew, Means
from tidings.consume.deliveries import Retrier
from tidings.consume.execution import Execution, Failed
from tidings.consume.opening import Opener
from tidings.consume.parking import guarded
from tidings.consume.progress import Progress
from tidings.consume.received import Received
from tidings.consume.retry import Decision
from tidings.consume.routing import Compiled
from tidings.consume.sources import Feed
from tidings.consume.strangers import gap_parking, stranger_parking
from tidings.consume.tenure import Tenure, cause_of, rest, timestamp
from tidings.errors import LeaseLost, TransportDown, Undecodable
from tidings.observability.logs import received_from
from tidings.stores.base import Lease, Mark, Parking, Registered
from tidings.transports.base import Incoming
from tidings.transports.base import Receiver as Channel

__all__ = ["Session"]

logger = logging.getLogger("tidings.consume")

#: Most messages that are asked for at a time.
_PAGE = 500
#: After so many messages others have their turn: what they ask of the database is answered while the next ones are opened.
_TURN = 50
#: Seconds for which acknowledgements are gathered; up to ten times as long for fewer than `_MANY`: each time costs a look into the store.
_GATHER = 0.005
_MANY = 100
#: Seconds between two looks at whether what was withdrawn is finished, or there is room again.
_LOOK = 0.05
#: Seconds that handlers have to finish when the connection is lost, before they are cancelled.
_FINISH = 10.0
#: Seconds between two looks at the database's clock.
_CLOCK = 60.0


_encode = msgspec.json.Encoder().encode


def _write(place: dict[str, str]) -> str:
    return _encode(place).decode()


class Session:
    """Receives until it is stopped, the connection is lost, or the lease.

    Args:
        tenure: of a reader by position; None when the broker divides the messages.
        settled_after: seconds after which a process that goes on is not one that ends again and again.

    Attributes:
        received: how many messages have come.
    """

    def __init__(
        self, feed: Feed, inbound: Compiled, opener: Opener, means: Means, executions: Sequence[Execution], retrier: Retrier, lease: Lease,
        tenure: Tenure | None, channel: Channel, registered: Sequence[Registered], most: int, settled_after: float,
    ) -> None:  # fmt: skip
        self.received = 0
        self._feed = feed
        self._inbound = inbound
        self._opener = opener
        self._means = means
        self._store = means.store
        self._tuning = means.tuning
        self._lease = lease
        self._tenure = tenure
        self._channel = channel
        self._most = most
        self._settled_after = settled_after
        self._stopping = asyncio.Event()
        self._room = asyncio.Event()
        self._bytes = 0
        self._in_memory = 0
        self._offset = time.time() - elapsed()
        self._place: dict[str, str] = {} if tenure is None or not tenure.progress.mark.place else json.loads(tenure.progress.mark.place)
        #: In the order of reading. By position, the marks are checkpoints; else each is the message itself, None once it is somebody else's.
        self._progress: Progress[Any] = Progress(None) if tenure is None else tenure.progress
        self._done: list[Incoming] = []
        self._to_acknowledge = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._on_the_way = 0
        self._leaving: set[str] = set()
        self._full = False
        #: An operator may hold back the whole group: by the subscription for what nobody understands.
        self._paused = any(row.id == inbound.id and row.state == "paused" for row in registered)
        self._lost: TransportDown | None = None
        self._crew = Crew(
            feed.group, executions, means, retrier, lease, registered, self._settle, self.database_time, self._pause, self._stopping.is_set,
            shared=tenure is None,
        )  # fmt: skip
        self.pools = self._crew.pools

    def stop(self) -> None:
        """Receive nothing more; `run` returns when what is under way is finished and acknowledged."""
        self._stopping.set()
        self._room.set()

    @property
    def idle(self) -> bool:
        """Whether everything that was received is finished, and acknowledged."""
        return not (self._in_memory or self._done or self._on_the_way)

    @property
    def careful(self) -> bool:
        """Whether events are handled one at a time, because of processes that have ended before."""
        return self._crew.careful.on

    def database_time(self) -> float:
        """Return the database's time as a Unix timestamp, as of the last look plus what has passed here."""
        return elapsed() + self._offset

    async def run(self) -> None:
        """Receive and handle.

        Raises:
            TransportDown: the connection is lost.
            LeaseLost: another worker reads for the group, or its subscriptions have changed.
            StoreDown: the database cannot be used.
        """
        crew = self._crew
        await self._look_at_clock()
        await crew.join()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [*crew.start(tasks), tasks.create_task(self._acknowledge_all()), tasks.create_task(self._watch())]
                try:
                    await self._receive_all(tasks)
                except TransportDown as error:
                    self._lost = error
                await crew.careful.finish()
                try:
                    # What is under way is finished although the connection is lost: a call that has been made would be made again.
                    async with asyncio.timeout(None if self._lost is None else _FINISH):
                        await crew.drain(self._room, everything=False)
                except TimeoutError:
                    logger.info("%s: handlers are cancelled: the connection is lost", self._inbound.label)
                await self._flush()
                if self._lost is not None:
                    raise self._lost
                for task in helpers:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        finally:
            await crew.end()

    # Receiving

    async def _receive_all(self, tasks: asyncio.TaskGroup) -> None:
        tuning, careful = self._tuning, self._crew.careful
        while not self._stopping.is_set():
            await self._wait_for_room(tasks)
            if self._stopping.is_set():
                return
            found = await self._channel.receive(max(1, min(_PAGE, tuning.events - self._in_memory)), tuning.longest)
            self._withdraw(tasks)
            self.received += len(found)
            self._means.counters.add(self._inbound.group, "received", len(found))
            strangers: list[tuple[Incoming, Parking, Failed | None]] = []
            for number, incoming in enumerate(found, 1):
                self._leaving.discard(incoming.shard)
                await self._take(incoming, strangers, tasks)
                if number % _TURN == 0:
                    await asyncio.sleep(0)
            await self._park(strangers)
            if careful.on:
                careful.read(to_the_end=not found, progress=self._progress.finished > 0)

    async def _take(self, incoming: Incoming, strangers: list[tuple[Incoming, Parking, Failed | None]], tasks: asyncio.TaskGroup) -> None:
        """Hand an event to whoever wants it; note what nobody understands."""
        crew = self._crew
        if incoming.gap:
            logger.error("%s: messages before %s are missing: %s", self._inbound.label, incoming.coordinates, incoming.gap)
            self._means.counters.add(self._inbound.label, "gaps")
            await self._park([(incoming, gap_parking(incoming, self._feed.transport), None)], settle=False)
        try:
            received = self._opener.open(incoming)
            pools = crew.routes.get(received.name, ())
            if not pools and received.name not in crew.foreign and self._opener.is_stranger(received):
                raise Undecodable("unknown type", f"no contract of this service has an event {received.name[:200]!r}")
        except Undecodable as error:
            item = stranger_parking(incoming, self._feed.transport, error, self._most)
            body = len(incoming.message.body or b"")
            stub = Received.of(
                item.event_id, item.source, item.name, None, item.topic, item.key, item.time, None, "{}", b"", item.event_key
            )
            self._read(stub, incoming, 1, body)
            assert item.failure is not None
            strangers.append((incoming, item, Failed(stub, error, item.failure, Decision("dead"), 1)))
            return
        if logger.isEnabledFor(logging.DEBUG):
            received_from(logger, self._inbound.group, received)
        if received.name in crew.foreign:
            await crew.park_for(crew.foreign[received.name], received)
        self._read(received, incoming, len(pools), 0)
        if not pools:
            self._means.counters.add("", "skipped")
        elif crew.careful.on:
            await crew.hand(received, pools, tasks, self._settle)
        else:
            for pool in pools:
                pool.add(received)

    def _read(self, received: Received, incoming: Incoming, parts: int, more: int) -> None:
        """Note a message that has come."""
        if parts:
            self._in_memory += 1
            self._bytes += received.size + more
        progress = self._progress
        if self._tenure is None:
            received.ticket = progress.read(incoming, 0, parts)
            if not parts:
                self._finished([incoming])
            return
        self._place[incoming.topic] = incoming.position
        received.ticket = progress.read(Mark(None, None, 0, _write(self._place)), 0, parts)

    def _settle(self, events: Sequence[Received]) -> None:
        self._progress.finish_each([received.ticket for received in events])
        over = [received for received in events if received.ticket.parts == 0]
        self._in_memory -= len(over)
        self._bytes -= sum([received.size for received in over])
        if self._tenure is None:
            self._finished([received.ticket.mark for received in over if received.ticket.mark is not None])
        self._room.set()

    def _finished(self, messages: Sequence[Incoming]) -> None:
        if messages:
            self._done += messages
            self._to_acknowledge.set()

    async def _park(self, strangers: Sequence[tuple[Incoming, Parking, Failed | None]], *, settle: bool = True) -> None:
        """Keep what nobody understands, as dead deliveries of the group's own."""
        if not strangers:
            return
        items = [item for _, item, _ in strangers]
        label = self._inbound.label

        def park(connection: Connection) -> None:
            self._store.lanes.park(connection, self._inbound.id, items)
            self._prove(connection)

        await guarded(self._store.transact(park))
        self._means.counters.add(label, "dead", len(items))
        for incoming, item, failed in strangers:
            if failed is None:
                continue
            logger.error(
                "%s: cannot understand %s: %s", label, item.event_id, failed.failure.error_message,
                extra={"subscription": label, "coordinates": incoming.coordinates, "topic": incoming.topic},
            )  # fmt: skip
            if settle:
                self._bytes -= len(incoming.message.body or b"")
                self._settle([failed.received])
            self._means.died(self._inbound, failed)

    def _prove(self, connection: Connection) -> None:
        if not self._store.leases.holds(connection, self._lease):
            raise LeaseLost(f"another worker reads for {self._lease.reader!r} now, or its subscriptions have changed")

    async def _wait_for_room(self, tasks: asyncio.TaskGroup) -> None:
        """Wait while there is too much in memory, or too much that nobody understands: the rest stays with the broker."""
        tuning = self._tuning
        while not self._stopping.is_set() and (
            self._full or self._paused or self._in_memory >= tuning.events or self._bytes >= tuning.bytes
        ):
            self._room.clear()
            await rest(_LOOK, self._room)
            self._withdraw(tasks)
            if self._lost is not None:
                raise self._lost

    # What goes to somebody else

    def _withdraw(self, tasks: asyncio.TaskGroup) -> None:
        """Begin nothing more of what is somebody else's, or is about to be."""
        gone = self._channel.withdrawn()
        if not gone:
            return

        def is_gone(received: Received) -> bool:
            incoming = received.ticket.mark
            return incoming is None or incoming.shard in gone

        for pool in self.pools:
            dropped = pool.drop(is_gone)
            for received in dropped:
                # It is not acknowledged, even where another subscription has handled it.
                received.ticket.mark = None
            self._settle(dropped)
        self._leaving |= gone
        tasks.create_task(self._let_go(gone))

    async def _let_go(self, gone: Collection[str]) -> None:
        """Say that nothing is under way any more of what was withdrawn, as soon as that is so."""

        def is_gone(received: Received) -> bool:
            incoming = received.ticket.mark
            return incoming is not None and incoming.shard in gone

        while any(pool.has(is_gone) for pool in self.pools):
            await rest(_LOOK, self._stopping)
            if self._stopping.is_set():
                await asyncio.sleep(_LOOK)
        await self._flush()
        # What has come back meanwhile is ours again.
        still = {shard for shard in gone if shard in self._leaving}
        self._leaving -= still
        if still:
            self._channel.let_go(still)

    # Acknowledging

    async def _acknowledge_all(self) -> None:
        while True:
            await self._to_acknowledge.wait()
            await self._flush()
            for _ in range(10):
                await asyncio.sleep(_GATHER)
                if len(self._done) >= _MANY:
                    break

    async def _flush(self) -> None:
        """Acknowledge what is finished.

        Raises:
            LeaseLost: the group's subscriptions have changed: what nobody wanted, or one less, may be wanted now, and has to come again.
        """
        # One at a time: who flushes last must not believe that all is done while somebody else is still at it.
        async with self._flushing:
            self._to_acknowledge.clear()
            done, self._done = self._done, []
            self._on_the_way = len(done)
            if not done:
                return
            await guarded(self._store.call(self._prove))
            try:
                await self._channel.acknowledge(done)
            except TransportDown as error:
                # They come again, as duplicates. Whoever receives ends this session.
                self._lost = error
            self._on_the_way = 0

    # Looking around

    async def _watch(self) -> None:
        began = looked = elapsed()
        counted = None
        while True:
            parked = await guarded(self._store.call(self._store.lanes.parked, [self._inbound.id]))
            full = parked.get(self._inbound.id, 0) >= self._tuning.max_parked
            if full and not self._full:
                logger.error(
                    "%s: %d messages that nobody understands are kept; the rest stays at the broker until there are fewer than %d",
                    self._inbound.label, parked[self._inbound.id], self._tuning.max_parked, extra={"subscription": self._inbound.label},
                )  # fmt: skip
            self._full = full
            self._paused = self._crew.states.get(self._inbound.id) == "paused"
            self._room.set()
            await asyncio.sleep(1.0)
            if elapsed() - looked > _CLOCK:
                looked = elapsed()
                await self._look_at_clock()
            if self._tenure is None and counted is None and elapsed() - began > self._settled_after:
                counted = self._progress.finished + len(self._progress)
            if counted is not None and self._progress.finished >= counted >= 0:
                # All that a process which died could have had in memory is behind us.
                counted = -1
                await guarded(self._store.call(self._store.sharing.forgive, self._lease))

    async def _look_at_clock(self) -> None:
        self._offset = timestamp(await guarded(self._store.call(self._store.lanes.clock))) - elapsed()

    async def _pause(self, seconds: float) -> None:
        await rest(seconds, self._stopping)
