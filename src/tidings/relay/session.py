"""What a relay does on one connection under one lease: it reads, sends, and parks what is refused. All that it has in memory goes with it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from tidings.clock import elapsed
from tidings.consume.deliveries import Retrier
from tidings.consume.execution import Execution, Failed, StoreDown
from tidings.consume.failures import failure_of, remember
from tidings.consume.parking import guarded, parking
from tidings.consume.received import Received, from_row
from tidings.consume.retry import Decision
from tidings.consume.routing import Compiled
from tidings.consume.tenure import Tenure, cause_of, rest, timestamp
from tidings.errors import Refused, Unsendable
from tidings.ids import lane_of
from tidings.observability.logs import about
from tidings.publish.publisher import Publisher
from tidings.relay.encoding import Row
from tidings.relay.flight import Call, Flight, settle
from tidings.relay.line import FIRST_ANOTHER, Line
from tidings.relay.sending import Sending, say_what_failed, system_of
from tidings.stores.base import Batch, Mark, Parking
from tidings.stores.sql.connections import Held
from tidings.stores.sql.errors import UNAVAILABLE, said_by
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Outgoing

if TYPE_CHECKING:
    from tidings.relay.relay import Relay

__all__ = ["Session"]

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


def _received(row: Row) -> Received:
    return from_row(msgspec.structs.astuple(row))


class Session:
    """One connection under one lease. Everything that it has in memory goes with it."""

    def __init__(self, relay: Relay, tenure: Tenure, line: Line) -> None:
        self.tenure = tenure
        self._relay = relay
        self._line = line
        self._store = relay._store
        self._tuning = relay._tuning
        self._compiled = relay.compiled
        self._mark = tenure.again()
        self._progress = tenure.progress
        self._flight: Flight[_Entry] = Flight(relay.transport.failure, relay._tuning.sends, relay._tuning.batch)
        if line.one_by_one:
            # What waits for another one to get through counts as under way, too.
            self._flight.bound(relay._tuning.events, 1)
        self._bytes = 0
        self._room = asyncio.Event()
        self._offset = 0.0
        #: Lanes with something parked, or about to be: what comes behind is parked, too. Only this session parks, so it misses none.
        self._blocked: set[str] = set()
        self._waiting: deque[_Wait] = deque()
        self._parking: list[_Wait] = []
        self._to_park = asyncio.Event()
        self._parked = 0
        #: Of this session alone, and never less than before.
        self._ever_parked = 0
        self._fresh: set[str] = set()
        self._full = False
        self._held_back = False
        self._tasks: asyncio.TaskGroup | None = None
        self._retrier = Retrier(
            [relay.compiled], self._store, relay._publisher, relay._worker, asyncio.Semaphore(16), relay._counters, relay._died, self._sending,
        )  # fmt: skip
        self._decisions: dict[tuple[str, int | None, str], str] = {}
        #: Those of which it is not known where they go.
        self._unknown: set[tuple[str, int | None, str]] = set()

    def stop(self) -> None:
        """Read nothing more."""
        self._retrier.stop()
        self._room.set()
        self._line.news.set()

    @property
    def _paused(self) -> bool:
        return self._full or self._held_back

    def _sending(self, compiled: Compiled, store: SQLStore, publisher: Publisher) -> Execution:
        relay = self._relay
        return Sending(compiled, store, publisher, self._line, relay.transport, relay._routing, relay._encoder)

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
                helpers = [tasks.create_task(work) for work in (self._watch(), self._park_all(), self._line.until_lost())]
                if self._line.one_by_one:
                    tasks.create_task(self._isolate())
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
            raise StoreDown(f"the log cannot be read: {said_by(error)}") from error

    def _add(self, batch: Batch) -> None:
        """Note what was read; what goes to this transport waits for its turn."""
        service, decisions = self._relay._service, self._decisions
        read, add = self._progress.read, self._flight.add
        total = 0
        for found, mark in zip(batch.rows, batch.marks, strict=True):
            row = Row(*found[:10])
            what = (row.name, row.version, row.topic)
            goes = decisions.get(what)
            if goes is None:
                goes = decisions[what] = self._relay._routing.goes(self._relay.transport, *what)
                if goes == "unknown":
                    self._unknown.add(what)
            if row.source == service and goes != "no":
                size = len(row.data) + len(row.headers) + 600
                total += size
                add(row.key, _Entry(row, read(mark, row.position or 0, 1), size))
            else:
                read(mark, row.position or 0, 0)
        self._bytes += total

    async def _wait_for_room(self) -> None:
        tuning = self._tuning
        while (self._paused or len(self._progress) >= tuning.events or self._bytes >= tuning.bytes) and not self._relay._stopping.is_set():
            self._room.clear()
            await self._room.wait()

    # Sending

    def _pump(self) -> None:
        """Send what may be sent now."""
        if self._line.one_by_one:
            self._line.news.set()
            return
        assert self._tasks is not None
        while not (self._paused or self._relay._stopping.is_set()) and (call := self._flight.take()) is not None:
            self._tasks.create_task(self._send(call))

    async def _send(self, call: Call[_Entry]) -> None:
        relay = self._relay
        entries, outgoing = self._prepare(call.items)
        if entries:
            self.tenure.check()
            with self._traced(entries) as failed:
                outcomes = await self._line.publish(outgoing)
                if failed is not None:
                    say_what_failed(outcomes, failed)
            settled = settle(entries, outcomes)
            if settled.confirmed:
                self._finish_each(settled.confirmed)
                relay._counters.add(self._compiled.label, "relayed", len(settled.confirmed))
                self._compiled.lag.since([entry.row.time for entry in settled.confirmed], elapsed() + self._offset)
                relay.reach.worked()
            if settled.lost is not None:
                self._line.lose(settled.lost)
                return
            reasons = {id(entry): reason for entry, reason in settled.refused}
            withheld = {id(entry) for entry in settled.behind}
            for entry in entries if reasons or withheld else ():
                if (reason := reasons.get(id(entry))) is not None:
                    self._refuse(entry, Refused(reason))
                elif id(entry) in withheld:
                    self._park(entry, parking(_received(entry.row), self._lane(entry), "behind"))
        self._flight.done(call)
        self._room.set()
        self._pump()

    def _traced(self, entries: Sequence[_Entry]) -> AbstractContextManager[Callable[[str], None] | None]:
        tracing = self._relay._publisher.tracing
        if tracing is None:
            return nullcontext()
        return tracing.sending(system_of(self._relay.transport), [(entry.row.topic, entry.row.id, entry.row.headers) for entry in entries])

    async def _isolate(self) -> None:
        """Send one message at a time until it is known which of them connections break of. Those that they did break of wait for others first."""
        line, stopping, flight = self._line, self._relay._stopping, self._flight
        others_until = elapsed() + FIRST_ANOTHER
        held: deque[Call[_Entry]] = deque()
        while (line.suspicion.isolating or held) and not stopping.is_set():
            line.news.clear()
            if self._paused:
                await line.news.wait()
            elif held and line.through:
                await self._send(held.popleft())
            elif (call := flight.take()) is not None:
                if line.suspicion.struck(str(call.items[0].row.id)) and not line.through:
                    held.append(call)
                else:
                    await self._send(call)
            elif not held:
                await line.news.wait()
            elif (left := others_until - elapsed()) > 0:
                await rest(left, line.news)
            else:
                # Nobody else has anything to send: this may be how it is found out that the broker is there again.
                await self._send(held.popleft())
        for call in held:
            flight.done(call)
        line.one_by_one = False
        flight.bound(self._tuning.sends, self._tuning.batch)
        self._pump()

    def _prepare(self, entries: Sequence[_Entry]) -> tuple[list[_Entry], list[Outgoing]]:
        """Write what can be sent; park what cannot, and what has to wait behind something parked."""
        sent: list[_Entry] = []
        outgoing: list[Outgoing] = []
        encode, line, blocked, unknown = self._relay._encoder.outgoing, self._line, self._blocked, self._unknown
        for entry in entries:
            row = entry.row
            if blocked and row.key is not None and lane_of(row.key) in blocked:
                self._park(entry, parking(_received(row), lane_of(row.key), "behind"))
            elif unknown and (row.name, row.version, row.topic) in unknown:
                self._park(entry, parking(_received(row), self._lane(entry), "waiting for code", delay=1.0))
            elif row.headers != "{}" and self._expired(row):
                self._relay._counters.add(self._compiled.label, "expired")
                self._finish(entry)
            else:
                try:
                    if line.one_by_one:
                        line.check(str(row.id))
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
        self._line.settled(entry.row.id)

    def _finish_each(self, entries: Sequence[_Entry]) -> None:
        self._bytes -= sum([entry.size for entry in entries])
        self._progress.finish_each([entry.ticket for entry in entries])
        if self._line.suspicion.anything:
            for entry in entries:
                self._line.settled(entry.row.id)

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
            extra=about(received, subscription=self._compiled.label, transport=self._relay.transport.name),
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
                self._ever_parked += len(self._parking)
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
            before = self._ever_parked
            parked = await guarded(self._store.call(self._store.lanes.parked, [self._compiled.id]))
            # What was parked meanwhile may not have been counted: rather too many for a moment than a relay that does not stop.
            self._parked = parked.get(self._compiled.id, 0) + self._ever_parked - before
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
