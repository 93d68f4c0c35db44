"""What becomes of the events that a worker has taken: handled, skipped as duplicate, or parked. Invariant 4 for one portion of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from sqlalchemy import Connection

from tidings.consume.calling import HandlerFailed
from tidings.consume.counters import Counters
from tidings.consume.execution import Attempt, Execution, Failed, StoreDown
from tidings.consume.failures import remember, said
from tidings.consume.fences import NO_LANE, Handed
from tidings.consume.outcome import Outcome
from tidings.consume.parking import guarded, noticed, parking, record_failure, refusal, to_its_end, undecodable
from tidings.consume.received import Received
from tidings.consume.recording import Recorder
from tidings.consume.retry import Decision
from tidings.errors import CircularChain, DecodeError, LeaseLost, TransactionEnded
from tidings.observability.logs import about, failed_processing
from tidings.stores.base import Claimed, Lease, Parking, Standing
from tidings.stores.sql.connections import Line
from tidings.stores.sql.store import SQLStore

__all__ = ["SHARE", "Settling"]

logger = logging.getLogger("tidings.consume")

#: Most events of one shared transaction.
SHARE = 100
#: Seconds until the first try again after the database could not be used.
_FIRST = 0.1


class Settling:
    """Settles what the workers of one subscription take, under one reader's lease.

    Args:
        slots: bounds the handler transactions of this process, so that the user's connection pool is never exhausted.
        clock: returns the database's time as this process knows it, for events that expire.
        died: called for each event that is dead.
        shared: whether others may have the same events, under the same lease: a broker takes them from who does not know it yet.
        reads, writes: where the inbox of plain handlers is read and written; two, so that neither waits for the other.

    Attributes:
        share: most events of the next shared transaction: half as many after one that failed, and one more after each that succeeds.
    """

    def __init__(
        self, execution: Execution, store: SQLStore, lease: Lease, slots: asyncio.Semaphore, counters: Counters, clock: Callable[[], float],
        died: Callable[[Failed], None], reads: Line, writes: Line, *, shared: bool = False,
    ) -> None:  # fmt: skip
        self.execution = execution
        self.compiled = execution.compiled
        self.share = SHARE
        # A thread cannot be interrupted, and a list is one call.
        asynchronous = all(route.plan.asynchronous for route in self.compiled.routes.values() if route is not None)
        self._interruptible = asynchronous and self.compiled.batch is None
        self._store = store
        self._lease = lease
        self._slots = slots
        self._counters = counters
        self._clock = clock
        self._died = died
        self._reads = reads
        self._writes = writes
        self._shared = shared
        self._recorder: Recorder[Handed] = Recorder(self._write_done)

    async def close(self) -> None:
        """Write nothing down any more; after the workers have ended."""
        await self._recorder.close()

    async def settle(self, handed: Handed) -> None:
        """Settle every one of these events: handled, skipped as duplicate, or parked."""
        delay = _FIRST
        while True:
            try:
                if self.compiled.transactional:
                    async with self._slots:
                        await self._settle_all(handed)
                else:
                    await self._settle_all(handed)
                if delay > _FIRST:
                    self._store.outages.over(self._lease.reader)
                return
            except StoreDown as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    # It came out of writing down what was done when we were cancelled, in place of the cancellation.
                    raise asyncio.CancelledError from error
                # In the reader's name: when it has lost its lease meanwhile, it is the one to tell that this is over.
                noticed(self._store, self._lease.reader, error, subscription=self.compiled.label)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

    async def _settle_all(self, handed: Handed) -> None:
        await handed.settle()
        if handed.is_promoted():
            # Before anything ran, or the store was lost since: whoever claims the lanes goes on.
            await self._hand_back(handed)
            return
        items = handed.items
        handed.withheld = []
        handed.take_turns(())
        attempts, parked, poison = await self._prepare(handed)
        if not self.compiled.transactional:
            parked += await self._plain(attempts, handed)
        elif attempts:
            parked += await self._transactional(attempts, handed)
        if handed.is_promoted():
            await self._hand_back(handed)
            return
        if handed.withheld:
            parked = handed.withhold(handed.withheld, parked)
            left = {item.event_key for item in parked}
            poison = [failed for failed in poison if failed.received.event_key in left]
        if parked:
            # In the order of reading: what was found out later may stand before what was found out first.
            place = {received.event_key: index for index, received in enumerate(items)}
            await self._park(sorted(parked, key=lambda item: place[item.event_key]))
            for failed in poison:
                self._counters.add(self.compiled.label, "dead")
                self._died(failed)

    async def _prepare(self, handed: Handed) -> tuple[list[Attempt], list[Parking], list[Failed]]:
        """Decode, and sort out what cannot be handled: expired events are finished, undecodable ones parked, with their keys behind them.

        Returns what may run, what has to be parked, and what of that is dead because it cannot be understood.
        """
        poison: list[Failed] = []
        attempts: list[Attempt] = []
        parked: list[Parking] = []
        expired: list[str] = []
        blocked: set[str] = set()
        seen: set[str] = set()
        for received in handed.items:
            if received.event_key in seen:
                self._counters.add(self.compiled.label, "duplicates")
                continue
            seen.add(received.event_key)
            expires = received.expires()
            if blocked and handed.lane(received) in blocked:
                parked.append(self._behind(received, handed.lane(received)))
            elif expires is not None and expires.timestamp() <= self._clock():
                expired.append(received.event_key)
            else:
                try:
                    attempt = self.execution.attempt(received, 1)
                except (DecodeError, KeyError, CircularChain) as error:
                    lane = handed.lane(received)
                    known = await guarded(self._reads.run(self._store.inbox.standing, self.compiled.id, [received.event_key], [lane]))
                    if known.get(0) == Standing.DUPLICATE:
                        # Code that understood it has handled it.
                        self._counters.add(self.compiled.label, "duplicates")
                        continue
                    item = self._behind(received, lane) if known else self._not_understood(received, lane, error)
                    parked.append(item)
                    blocked.add(item.lane)
                    if item.state == "dead" and item.failure is not None:
                        poison.append(Failed(received, error, item.failure, Decision("dead"), 1))
                else:
                    if attempt is None:
                        self._counters.add(self.compiled.label, "skipped")
                    else:
                        attempts.append(attempt)
        if expired:
            fresh = await guarded(self._store.transact(self._record_expired, expired))
            self._counters.add(self.compiled.label, "expired", fresh)
            self._counters.add(self.compiled.label, "duplicates", len(expired) - fresh)
            handed.over.update(expired)
        return attempts, parked, poison

    async def _transactional(self, attempts: list[Attempt], handed: Handed) -> list[Parking]:
        parked: list[Parking] = []
        if len(attempts) > 1:
            deadline = self.execution.deadline()
            handed.together = deadline if self._interruptible else None
            try:
                standing = await self.execution.together(attempts, handed, deadline)
            except (HandlerFailed, TransactionEnded):
                self.share = max(1, self.share // 2)
                if handed.is_promoted():
                    return parked
                if deadline.interrupted:
                    # It comes first, with its key: when it is promoted, the others have not had their turn.
                    lane = handed.lane(deadline.what)
                    attempts = sorted(attempts, key=lambda attempt: handed.lane(attempt.received) != lane)
            else:
                self.share = min(SHARE, self.share + 1)
                self._note_all(attempts, standing, parked, handed)
                return parked
            finally:
                handed.together = None
                deadline.close()
        behind: set[str] = set()
        handed.take_turns([attempt.received for attempt in attempts])
        for index, attempt in enumerate(attempts):
            handed.turn(index)
            lane = handed.lane(attempt.received)
            if lane in behind:
                # The key may be free by now: what comes after an event that found it blocked waits behind that one all the same.
                self._note(attempt, Standing.PARKED, parked, handed)
                continue
            result = await self.execution.alone(attempt, handed)
            if isinstance(result, Failed):
                await self._fail(result, handed)
                if self.compiled.circuit.is_open:
                    handed.withheld = [later.received for later in attempts[index + 1 :]]
                    return parked
            else:
                self._note(attempt, result, parked, handed)
                if result == Standing.PARKED:
                    behind.add(lane)
            if handed.is_promoted():
                # What is left of a promoted batch is in its lanes, in order.
                return parked
        return parked

    async def _plain(self, attempts: list[Attempt], handed: Handed) -> list[Parking]:
        parked: list[Parking] = []
        if not attempts:
            return parked
        events = [attempt.received for attempt in attempts]
        keys = [event.event_key for event in events]
        lanes = [handed.lane(event) for event in events]
        standing = await guarded(self._reads.run(self._store.inbox.standing, self.compiled.id, keys, lanes))
        if (claims := self.compiled.claims) is not None and claims.keys(events):
            taken = await guarded(self._reads.run(claims.taken, events))
            standing = {**dict.fromkeys(taken, Standing.DUPLICATE), **standing}
        todo = [attempt for index, attempt in enumerate(attempts) if index not in standing]
        if len(todo) > 1 and self.compiled.batch is not None and await self._plain_list(todo, handed):
            self._note_all(attempts, standing, parked, handed)
            await to_its_end(self._write_done([(handed, [attempt.received for attempt in todo])]))
            return parked
        failed_lanes: set[str] = set()
        handed.take_turns(events)
        recording = self._recorder.recording(handed)
        deadline = self.execution.deadline()
        try:
            for index, attempt in enumerate(attempts):
                if index in standing or lanes[index] in failed_lanes:
                    self._note(attempt, standing.get(index, Standing.PARKED), parked, handed)
                    continue
                if handed.is_promoted():
                    return parked
                handed.turn(index)
                if not recording.take():
                    await recording.room()
                made = False
                try:
                    handed.closing = False
                    try:
                        failed = await self.execution.plain(attempt, deadline=deadline)
                        made = failed is None
                    finally:
                        if not handed.settled():
                            await handed.settle()
                finally:
                    if made:
                        recording.add(attempt.received)
                    else:
                        recording.drop()
                if failed is None:
                    self._note(attempt, Standing.RUN, parked, handed)
                    continue
                if failed.decision.state != "discarded":
                    failed_lanes.add(lanes[index])
                if handed.is_promoted():
                    # It must stand at the head of its lane to be the one that failed.
                    await to_its_end(recording.flush())
                await self._fail(failed, handed)
                if self.compiled.circuit.is_open:
                    handed.withheld = [later.received for later in attempts[index + 1 :]]
                    return parked
        finally:
            deadline.close()
            await recording.close()
        return parked

    async def _plain_list(self, attempts: list[Attempt], handed: Handed) -> bool:
        """Call a handler of lists without transaction; return whether it succeeded. What fails together is called one by one."""
        await handed.begin()
        try:
            await self.execution.plain_list(attempts)
        except HandlerFailed:
            return False
        finally:
            await handed.settle()
        return True

    async def _write_done(self, portions: Sequence[tuple[Handed, list[Received]]]) -> None:
        """Write down the calls of plain handlers, in one statement but for those of promoted events, which are taken off their lanes, too."""
        async with AsyncExitStack() as stack:
            for handed, _ in portions:
                await stack.enter_async_context(handed.writing())
            usual = [(handed, events) for handed, events in portions if not handed.is_promoted()]
            if usual:
                keys = [event.event_key for _, events in usual for event in events]
                line = self._reads if self._writes.busy else self._writes
                if (claims := self.compiled.claims) is not None:
                    # First: a call whose own row is missing afterwards is found here all the same.
                    await guarded(line.run(claims.record, [event for _, events in usual for event in events]))
                await guarded(line.run(self._record, keys, Outcome.HANDLED))
                for handed, events in usual:
                    handed.over.update(event.event_key for event in events)
            for handed, events in portions:
                if handed.is_promoted():
                    await self._store_transact(self._record_done, events, handed)
                    handed.over.update(event.event_key for event in events)

    def _note_all(self, attempts: Sequence[Attempt], standing: Mapping[int, int], parked: list[Parking], handed: Handed) -> None:
        if standing:
            for index, attempt in enumerate(attempts):
                self._note(attempt, standing.get(index, Standing.RUN), parked, handed)
            return
        self._counters.add(self.compiled.label, "handled", len(attempts))
        self.compiled.lag.since([attempt.received.time for attempt in attempts], self._clock())
        self.compiled.circuit.succeeded(len(attempts))
        if self.compiled.transactional:
            handed.over.update(attempt.received.event_key for attempt in attempts)

    def _note(self, attempt: Attempt, standing: int, parked: list[Parking], handed: Handed) -> None:
        if standing == Standing.RUN:
            self._counters.add(self.compiled.label, "handled")
            self.compiled.lag.since_one(attempt.received.time, self._clock())
            self.compiled.circuit.succeeded()
        elif standing == Standing.DUPLICATE:
            self._counters.add(self.compiled.label, "duplicates")
        if standing == Standing.PARKED:
            parked.append(self._behind(attempt.received, handed.lane(attempt.received)))
        elif standing == Standing.DUPLICATE or self.compiled.transactional:
            # A call without transaction is over when the inbox has it.
            handed.over.add(attempt.received.event_key)

    async def _fail(self, failed: Failed, handed: Handed) -> None:
        received = failed.received
        state = failed.decision.state
        if state == "discarded":
            await self._store_transact(self._record_done, [received], handed, Outcome.DISCARDED)
            handed.over.add(received.event_key)
            self._counters.add(self.compiled.label, "discarded")
            logger.info("discarded %s %s: %s", received.name, received.id, failed.failure.error_message, extra=self._extra(received))
            return
        given_up_early = state == "dead" and failed.number < self.compiled.retry.attempts
        reason = "rejected" if given_up_early else "failed"
        if not handed.is_promoted():
            lane = received.event_key if self._sets_aside(state) else handed.lane(received)
            item = parking(
                received, lane, reason, state=state, delay=failed.decision.delay, attempts=failed.number,
                history=remember("[]", failed.number, failed.failure), failure=failed.failure,
            )  # fmt: skip
            await self._park([item])
        else:
            await self._store_transact(self._fail_promoted, failed, reason, handed)
        handed.over.add(received.event_key)
        self._counters.add(self.compiled.label, "failed")
        if not self.compiled.retry.refuses(failed.error):
            self.compiled.circuit.failed(handed.lane(received), said(failed.failure))
        failed_processing(logger, self.compiled.label, failed)
        if state == "dead":
            self._counters.add(self.compiled.label, "dead")
            self._died(failed)

    def _fail_promoted(self, connection: Connection, failed: Failed, reason: str, handed: Handed) -> None:
        assert handed.promoted is not None
        received = failed.received
        lane = handed.promoted.pop(handed.lane(received), None)
        if lane is None:
            raise LeaseLost("another worker has the lane of a slow event now")
        record_failure(connection, self._store, self.compiled, lane, received.event_key, "[]", failed, reason)

    async def _hand_back(self, handed: Handed) -> None:
        """Give up the lanes of a promoted batch: what is left in them is tried by whoever claims them."""
        assert handed.promoted is not None
        for lane in handed.promoted.values():
            release = self._store.lanes.release
            await guarded(self._store.transact(release, lane, state="retrying", attempts=0, delay=0.0))

    def _sets_aside(self, state: str) -> bool:
        return state == "dead" and self.compiled.options.on_dead == "continue"

    def _not_understood(self, received: Received, lane: str, error: Exception) -> Parking:
        failure = undecodable(self.compiled, received, error)
        if failure is None:
            logger.warning(
                "%s %s has version %s, newer than any known here: it waits for newer code", received.name, received.id, received.version,
                extra=self._extra(received),
            )  # fmt: skip
            return parking(received, lane, "waiting for code", state="retrying", delay=5.0)
        reason = refusal(error)
        what = "cannot understand" if reason == "undecodable" else "stopped a chain of events at"
        logger.error("%s %s %s: %s", what, received.name, received.id, failure.error_message, extra=self._extra(received))
        if self._sets_aside("dead"):
            lane = received.event_key
        return parking(received, lane, reason, state="dead", attempts=1, history=remember("[]", 1, failure), failure=failure)

    def _behind(self, received: Received, lane: str) -> Parking:
        return parking(received, lane, "behind")

    async def _park(self, items: Sequence[Parking]) -> None:
        await self._store_transact(self._park_in, items)
        self._counters.add(self.compiled.label, "parked", len(items))

    async def park(self, items: Sequence[Parking], ttl: float = 0.0, owner: str | None = None) -> list[Claimed]:
        """Park events under the reader's lease; with an owner, return the lanes that are new, leased to it for `ttl` seconds.

        Raises:
            LeaseLost: another worker reads for the group.
            StoreDown: the database cannot be used.
        """
        claimed = await guarded(self._store.transact(self._park_in, items, ttl, owner))
        self._counters.add(self.compiled.label, "parked" if owner is None else "promoted", len(items))
        return claimed

    def _park_in(self, connection: Connection, items: Sequence[Parking], ttl: float = 0.0, owner: str | None = None) -> list[Claimed]:
        if self._shared:
            items = self._undecided(connection, items)
            if not items:
                self._hold(connection)
                return []
        aside = [item.event_key for item in items if item.state == "dead" and item.lane == item.event_key]
        if aside:
            # Its key goes on without it: a copy that is read again must not run out of order.
            self._store.inbox.record(connection, self.compiled.id, aside, Outcome.DEAD)
        claimed = self._store.lanes.park(connection, self.compiled.id, items, ttl=ttl, owner=owner)
        self._hold(connection)
        return claimed

    def _undecided(self, connection: Connection, items: Sequence[Parking]) -> list[Parking]:
        """Leave out dead events that somebody else, who was given them too, has handled: such a lane would block its key for nothing.

        Inserting the inbox rows waits for whoever handles them now. Only dead ones matter: the others find their inbox rows when they are tried again.
        """
        dead = [item for item in items if item.state == "dead"]
        if not dead:
            return list(items)
        keys = [item.event_key for item in dead]
        handled = self._store.inbox.open(connection, self.compiled.id, keys, [NO_LANE] * len(keys))
        for index, key in enumerate(keys):
            if index not in handled:
                self._store.history.forget(connection, self.compiled.id, key)
        gone = {keys[index] for index in handled}
        return [item for item in items if item.event_key not in gone]

    def _record(self, connection: Connection, keys: Sequence[str], outcome: int) -> None:
        self._store.inbox.record(connection, self.compiled.id, keys, outcome)

    def _record_expired(self, connection: Connection, keys: Sequence[str]) -> int:
        """Finish events that have expired; return how many of them were not over already."""
        fresh = len(keys) - self._store.inbox.present(connection, self.compiled.id, keys)
        self._record(connection, keys, Outcome.EXPIRED)
        self._hold(connection)
        return fresh

    def _hold(self, connection: Connection) -> None:
        if not self._store.leases.holds(connection, self._lease):
            raise LeaseLost(f"another worker reads for {self._lease.reader!r} now")

    def _record_done(self, connection: Connection, events: Sequence[Received], handed: Handed, outcome: int = Outcome.HANDLED) -> None:
        self._record(connection, [event.event_key for event in events], outcome)
        if self.compiled.claims is not None and outcome == Outcome.HANDLED:
            self.compiled.claims.record(connection, events)
        if handed.is_promoted():
            handed.finish(connection, events)
        elif outcome != Outcome.HANDLED:
            # A call that was made is remembered whoever has the lease. What was only decided is decided by whoever has it.
            self._hold(connection)

    async def _store_transact(self, function: Callable[..., object], *arguments: object) -> None:
        await guarded(self._store.transact(function, *arguments))

    def _extra(self, received: Received) -> dict[str, object]:
        return about(received, subscription=self.compiled.label)
