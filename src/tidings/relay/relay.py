"""The relay of one transport: reads its service's part of the log under a lease, sends it, and moves the checkpoint over what was confirmed.

What can go wrong is of two kinds. The channel fails: what is in memory is thrown away, and when there is a connection again, reading begins at
the checkpoint. A message is refused: it is parked as a delivery of the relay, and so is what comes behind it with its key, until it gets
through or somebody decides; everything else flows.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec
from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.counters import Counters
from tidings.consume.deliveries import Retrier
from tidings.consume.execution import Execution, Failed, StoreDown
from tidings.consume.failures import failure_of, remember
from tidings.consume.parking import guarded, parking
from tidings.consume.reach import Reach, unless_stopped
from tidings.consume.received import Received, from_row
from tidings.consume.retry import Decision
from tidings.consume.routing import Compiled
from tidings.consume.tenure import Tenure, bounded, cause_of, hold, rest, timestamp
from tidings.consume.tuning import Tuning
from tidings.errors import ProvisionError, Refused, TransportDown, Unsendable
from tidings.ids import lane_of
from tidings.publish.publisher import Publisher
from tidings.relay.encoding import Encoder, Row
from tidings.relay.flight import Call, Flight, settle
from tidings.relay.routing import Routing, relay_name
from tidings.relay.sending import ChannelLost, Sending
from tidings.stores.base import Batch, Mark, Parking
from tidings.stores.sql.connections import Held
from tidings.stores.sql.errors import UNAVAILABLE
from tidings.stores.sql.registry import reader_name
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Outgoing, Provision, Transport
from tidings.transports.base import Publisher as Channel

__all__ = ["Relay"]

logger = logging.getLogger("tidings.relay")

#: Seconds between two looks at what operators have changed.
_LOOK = 0.5


class _Entry(msgspec.Struct, gc=False, eq=False):
    """A row of the log on its way."""

    row: Row
    ticket: Any
    size: int


@dataclass(frozen=True, slots=True)
class _Wait:
    """An entry that is to be parked, with what is written down of it."""

    entry: _Entry
    item: Parking
    failed: Failed | None


class Relay:
    """One transport of a service. Acquires the lease of its reader, connects, and sends until one of the two is lost, or it is stopped."""

    def __init__(
        self, service: str, transport: Transport, compiled: Compiled, routing: Routing, store: SQLStore, publisher: Publisher, worker: str,
        counters: Counters, died: Callable[[Compiled, Failed], None], tuning: Tuning, provision: Provision = "create", *, provisioned: bool = False,
        groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        self.transport = transport
        self.compiled = compiled
        self.reader = reader_name(service, relay_name(transport))
        self._service = service
        self._routing = routing
        self._encoder = Encoder(service, routing, transport)
        self._store = store
        self._publisher = publisher
        self._worker = worker
        self._counters = counters
        self._died = died
        self._tuning = tuning
        self._provision: Provision = provision
        self._provisioned = provisioned
        #: Those of this service, made before anything is sent: what nobody is there for would be refused.
        self._groups = groups
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self.reach = Reach(compiled, transport.name, store, worker, tuning, self._stopping, logger)
        self._session: _Session | None = None

    def wake(self) -> None:
        """Look at the log now: something was committed."""
        self._wake.set()

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is under way is settled."""
        self._stopping.set()
        self._wake.set()
        if self._session is not None:
            self._session.stop()

    @property
    def idle(self) -> bool:
        """Whether it is connected, and everything that it has read is confirmed or parked."""
        return self._session is not None and len(self._session.tenure.progress) == 0

    async def run(self) -> None:
        """Relay under the lease whenever it can be had, until stopped."""
        await hold(self.reader, self._store, self._worker, self._tuning, self._stopping, self._act)

    async def _act(self, tenure: Tenure) -> None:
        """Relay under one lease."""
        reach = self.reach
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(tenure.keep())
                await reach.begin(tenure.lease)
                while not (self._stopping.is_set() or reach.hopeless):
                    await self._connected(tenure)
                keeping.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None
        except asyncio.CancelledError:
            await bounded(tenure.leave())
            raise
        await tenure.leave()
        if reach.hopeless:
            await reach.stand_back()

    async def _connected(self, tenure: Tenure) -> None:
        """Connect and send, until that fails; then wait before the next time."""
        try:
            channel = await unless_stopped(self._connect(), self._stopping)
        except (TransportDown, ProvisionError) as error:
            await self.reach.failed(tenure.lease, error)
            return
        if channel is None:
            return
        began = elapsed()
        try:
            # A lease just proved, and a checkpoint behind which nothing was sent by somebody else: overlaps are harmless.
            await tenure.renew()
            await self.reach.connected(tenure.lease)
            self._session = session = _Session(self, tenure, channel)
            if self._stopping.is_set():
                return
            await session.run()
        except ChannelLost as error:
            if elapsed() - began > self._tuning.lease:
                self.reach.worked()
            await self.reach.failed(tenure.lease, error)
        finally:
            self._session = None
            await bounded(channel.close())

    async def _connect(self) -> Channel:
        if not self._provisioned:
            await self.transport.provision(self._routing.topics(self.transport), self._groups, self._provision)
            self._provisioned = True
        return await self.transport.publisher()


def _received(row: Row) -> Received:
    return from_row(msgspec.structs.astuple(row))


class _Session:
    """One connection under one lease. Everything that it has in memory goes with it."""

    def __init__(self, relay: Relay, tenure: Tenure, channel: Channel) -> None:
        self.tenure = tenure
        self._relay = relay
        self._channel = channel
        self._store = relay._store
        self._tuning = relay._tuning
        self._compiled = relay.compiled
        self._mark = tenure.again()
        self._progress = tenure.progress
        self._flight: Flight[_Entry] = Flight(relay.transport.failure, relay._tuning.sends, relay._tuning.batch)
        self._bytes = 0
        self._room = asyncio.Event()
        self._offset = 0.0
        #: Lanes with something parked, or about to be: what comes behind is parked, too. Only this session parks, so it misses none.
        self._blocked: set[str] = set()
        self._waiting: deque[_Wait] = deque()
        self._parking: list[_Wait] = []
        self._to_park = asyncio.Event()
        self._parked = 0
        self._fresh: set[str] = set()
        self._full = False
        self._held_back = False
        self._lost = asyncio.Event()
        self._reason = ""
        self._tasks: asyncio.TaskGroup | None = None
        self._retrier = Retrier(
            [relay.compiled], self._store, relay._publisher, relay._worker, asyncio.Semaphore(16), relay._counters, relay._died, self._sending,
        )  # fmt: skip
        self._decisions: dict[tuple[str, int | None, str], str] = {}

    def stop(self) -> None:
        """Read nothing more."""
        self._retrier.stop()
        self._room.set()

    @property
    def _paused(self) -> bool:
        return self._full or self._held_back

    def _sending(self, compiled: Compiled, store: SQLStore, publisher: Publisher) -> Execution:
        relay = self._relay
        return Sending(compiled, store, publisher, self._channel, relay.transport, relay._routing, relay._encoder, self._lose)

    async def run(self) -> None:
        """Read and send until stopped.

        Raises:
            ChannelLost: the connection is lost.
            LeaseLost: another worker relays now.
            StoreDown: the database cannot be used.
        """
        self._blocked = await guarded(self._store.call(self._store.lanes.of, self._compiled.id))
        self._parked = len(self._blocked)
        await self._look()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                helpers = [tasks.create_task(work) for work in (self._watch(), self._park_all(), self._until_lost())]
                retrying = tasks.create_task(self._retrier.run())
                await self._feed()
                await self._drain()
                await retrying
                for task in helpers:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise cause_of(group) from None

    # Reading

    async def _feed(self) -> None:
        relay, tuning = self._relay, self._tuning
        mark = self._mark
        quiet_since = elapsed()
        page = 100
        async with self._store.connections.autocommit() as held:
            while not relay._stopping.is_set():
                relay._wake.clear()
                batch = await self._next(held, mark, page)
                if batch.clock is not None:
                    self._offset = timestamp(batch.clock) - elapsed()
                mark = batch.end
                self._add(batch)
                if batch.rows:
                    quiet_since = elapsed()
                    mean = max(self._bytes // max(len(self._progress), 1), 600)
                    page = max(1, min(tuning.page, tuning.bytes // 4 // mean))
                    self._pump()
                else:
                    self._progress.reach(batch.end)
                more = batch.more
                # The rows are not needed while their events are sent.
                del batch
                await self._wait_for_room()
                if not more:
                    await rest(min(tuning.longest, max(tuning.shortest, (elapsed() - quiet_since) / 20)), relay._wake)

    async def _next(self, held: Held, mark: Mark, page: int) -> Batch:
        try:
            return await held.run(self._store.log.read, mark, page)
        except UNAVAILABLE as error:
            raise StoreDown(f"the log cannot be read: {str(error).partition(chr(10))[0]}") from error

    def _add(self, batch: Batch) -> None:
        """Note what was read; what goes to this transport waits for its turn."""
        service, decisions, flight = self._relay._service, self._decisions, self._flight
        read = self._progress.read
        for found, mark in zip(batch.rows, batch.marks, strict=True):
            row = Row(*found[:10])
            what = (row.name, row.version, row.topic)
            goes = decisions.get(what)
            if goes is None:
                goes = decisions[what] = self._relay._routing.goes(self._relay.transport, *what)
            mine = row.source == service and goes != "no"
            ticket = read(mark, row.position or 0, 1 if mine else 0)
            if mine:
                size = len(row.data) + len(row.headers) + 600
                self._bytes += size
                flight.add(row.key, _Entry(row, ticket, size))

    async def _wait_for_room(self) -> None:
        tuning = self._tuning
        while (self._paused or len(self._progress) >= tuning.events or self._bytes >= tuning.bytes) and not self._relay._stopping.is_set():
            self._room.clear()
            await self._room.wait()

    # Sending

    def _pump(self) -> None:
        """Send what may be sent now."""
        assert self._tasks is not None
        while not (self._paused or self._relay._stopping.is_set()) and (call := self._flight.take()) is not None:
            self._tasks.create_task(self._send(call))

    async def _send(self, call: Call[_Entry]) -> None:
        relay = self._relay
        entries, outgoing = self._prepare(call.items)
        if entries:
            self.tenure.check()
            outcomes = await self._channel.publish(outgoing)
            settled = settle(entries, outcomes)
            for entry in settled.confirmed:
                self._finish(entry)
            if settled.confirmed:
                relay._counters.add(self._compiled.label, "handled", len(settled.confirmed))
                relay.reach.worked()
            if settled.lost is not None:
                self._lose(settled.lost)
                return
            reasons = {id(entry): reason for entry, reason in settled.refused}
            withheld = {id(entry) for entry in settled.behind}
            for entry in entries:
                if (reason := reasons.get(id(entry))) is not None:
                    self._refuse(entry, Refused(reason))
                elif id(entry) in withheld:
                    self._park(entry, parking(_received(entry.row), self._lane(entry), "behind"))
        self._flight.done(call)
        self._room.set()
        self._pump()

    def _prepare(self, entries: Sequence[_Entry]) -> tuple[list[_Entry], list[Outgoing]]:
        """Write what can be sent; park what cannot, and what has to wait behind something parked."""
        sent: list[_Entry] = []
        outgoing: list[Outgoing] = []
        encode = self._relay._encoder.outgoing
        for entry in entries:
            row = entry.row
            if self._blocked and row.key is not None and lane_of(row.key) in self._blocked:
                self._park(entry, parking(_received(row), lane_of(row.key), "behind"))
            elif self._decisions[row.name, row.version, row.topic] == "unknown":
                self._park(entry, parking(_received(row), self._lane(entry), "waiting for code", delay=1.0))
            elif row.headers != "{}" and self._expired(row):
                self._relay._counters.add(self._compiled.label, "expired")
                self._finish(entry)
            else:
                try:
                    outgoing.append(encode(row))
                except Unsendable as error:
                    self._refuse(entry, error)
                else:
                    sent.append(entry)
        return sent, outgoing

    def _expired(self, row: Row) -> bool:
        # Most events do not expire: look for the word before paying for more.
        if isinstance(row.headers, str) and "expires" not in row.headers:
            return False
        expires = _received(row).expires()
        return expires is not None and expires <= datetime.fromtimestamp(elapsed() + self._offset, UTC)

    def _finish(self, entry: _Entry) -> None:
        self._bytes -= entry.size
        self._progress.finish(entry.ticket)

    def _lose(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._lost.set()

    async def _until_lost(self) -> None:
        await self._lost.wait()
        raise ChannelLost(self._reason)

    async def _drain(self) -> None:
        """Wait until nothing is under way; what was not sent is in the log."""
        while self._flight.under_way or self._waiting or self._parking:
            self._room.clear()
            await rest(0.1, self._room)
        self._retrier.stop()

    # Parking

    def _refuse(self, entry: _Entry, error: Refused | Unsendable) -> None:
        received = _received(entry.row)
        decision: Decision = self._compiled.retry.decide(error, 1)
        failure = failure_of(error)
        failed = Failed(received, error, failure, decision, 1)
        item = parking(
            received, self._lane(entry), "failed", state=decision.state, delay=decision.delay, attempts=1, history=remember("[]", 1, failure),
            failure=failure,
        )  # fmt: skip
        logger.warning(
            "%s: %s %s was not sent (%s): %s", self._compiled.name, received.name, received.id, decision.state, failure.error_message[:300],
            extra={"transport": self._relay.transport.name, "event_id": received.id, "event_name": received.name, "key": received.key},
        )  # fmt: skip
        self._park(entry, item, failed)

    def _park(self, entry: _Entry, item: Parking, failed: Failed | None = None) -> None:
        if entry.row.key is not None:
            self._blocked.add(item.lane)
            self._fresh.add(item.lane)
        self._waiting.append(_Wait(entry, item, failed))
        self._to_park.set()

    def _lane(self, entry: _Entry) -> str:
        return _received(entry.row).lane

    async def _park_all(self) -> None:
        """Write down what has to be parked, in the order in which it was found out."""
        tuning, counters, label = self._tuning, self._relay._counters, self._compiled.label
        while True:
            await self._to_park.wait()
            self._to_park.clear()
            while self._waiting:
                self._parking = [self._waiting.popleft() for _ in range(min(len(self._waiting), tuning.page))]
                await guarded(self._store.transact(self._write, [waiting.item for waiting in self._parking]))
                self._parked += len(self._parking)
                for waiting in self._parking:
                    self._finish(waiting.entry)
                    if waiting.failed is not None:
                        counters.add(label, "failed")
                        if waiting.failed.decision.state == "dead":
                            counters.add(label, "dead")
                            self._relay._died(self._compiled, waiting.failed)
                self._parking = []
                self._limit(self._parked >= tuning.max_parked, self._held_back)
                self._room.set()
                self._retrier.wake()

    def _write(self, connection: Connection, items: Sequence[Parking]) -> None:
        self._store.lanes.park(connection, self._compiled.id, items)
        if not self._store.leases.holds(connection, self.tenure.lease):
            raise self.tenure.lost

    # What operators do

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self._look()
            await self._unblock()

    async def _look(self) -> None:
        """Hold back while an operator has paused the relay, or too much is parked."""
        registered = await guarded(self._store.call(self._store.registry.list, self._relay._service))
        state = next((row.state for row in registered if row.id == self._compiled.id), "active")
        if self._parked:
            parked = await guarded(self._store.call(self._store.lanes.parked, [self._compiled.id]))
            self._parked = parked.get(self._compiled.id, 0)
        self._limit(self._parked >= self._tuning.max_parked, state == "paused")

    def _limit(self, full: bool, held_back: bool) -> None:
        if full and not self._full:
            logger.error(
                "%s: %d events are parked; the rest stays in the log until there are fewer than %d", self._compiled.name, self._parked,
                self._tuning.max_parked, extra={"transport": self._relay.transport.name},
            )  # fmt: skip
        was, self._full, self._held_back = self._paused, full, held_back
        if was and not self._paused:
            self._room.set()
            self._pump()

    async def _unblock(self) -> None:
        """Send the keys again of which nothing is parked any more: it got through, or somebody gave it up."""
        if not self._blocked:
            return
        known = set(self._blocked)
        # What is being parked while we ask may be parked behind what we are told is gone.
        self._fresh = {waiting.item.lane for waiting in (*self._parking, *self._waiting)}
        there = await guarded(self._store.call(self._store.lanes.of, self._compiled.id))
        self._blocked -= known - there - self._fresh
