"""Trying parked events again: claims lanes that are due, runs their heads in order, and records what became of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from sqlalchemy import Connection

from tidings.consume.calling import HandlerFailed
from tidings.consume.company import ALONE_SECONDS, Company, Stay
from tidings.consume.counters import Counters
from tidings.consume.execution import Attempt, Execution, Failed, StoreDown
from tidings.consume.failures import failure_of, said
from tidings.consume.fences import LaneFence
from tidings.consume.outcome import Outcome
from tidings.consume.parking import guarded, noticed, record_failure, refusal, to_its_end, undecodable
from tidings.consume.received import Received, from_delivery
from tidings.consume.retry import Decision, Retry
from tidings.consume.routing import Compiled
from tidings.consume.suspects import given_up, suspected
from tidings.errors import CircularChain, DecodeError, LeaseLost, ProcessEnded, TransactionEnded
from tidings.observability.logs import about, failed_processing
from tidings.publish.publisher import Publisher
from tidings.stores.base import ALONE, Claimed, Delivery, Standing
from tidings.stores.sql.store import SQLStore

__all__ = ["Retrier"]

logger = logging.getLogger("tidings.consume")

#: Most lanes that one process works on at once, and most deliveries of a lane read at once.
_LANES = 16
_PAGE = 100
#: Seconds that a lane's lease lasts; renewed while its worker runs.
_LEASE = 30.0
#: What those who look after parked events are called where they say that the store is down.
_PART = "parked events"
#: Seconds until what went wrong by a mistake of ours is tried again.
_AGAIN = 5.0


class Retrier:
    """Claims lanes of the subscriptions that this process has, never of others: their code is elsewhere."""

    def __init__(
        self, subscriptions: Sequence[Compiled], store: SQLStore, publisher: Publisher, worker: str, slots: asyncio.Semaphore,
        counters: Counters, died: Callable[[Compiled, Failed], None], execution: Callable[[Compiled, SQLStore, Publisher], Execution] = Execution,
        company: Company | None = None,
    ) -> None:  # fmt: skip
        self._executions = {compiled.id: execution(compiled, store, publisher) for compiled in subscriptions}
        self._store = store
        self._worker = worker
        self._slots = slots
        self._counters = counters
        self._died = died
        self._company = company or Company()
        self._alone: dict[int, Stay] = {}
        self._queuing: set[int] = set()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def lease_seconds(self) -> float:
        """How long the lease of a lane lasts; it is renewed while its worker runs."""
        return _LEASE

    def wake(self) -> None:
        """Look for lanes that are due now."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; `run` returns when the lanes under way are finished or handed back."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Claim and work until stopped."""
        working: set[asyncio.Task[None]] = set()
        queuing: set[asyncio.Task[None]] = set()
        delay = 0.1
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                await self._company.over()
                self._wake.clear()
                pause = 1.0
                try:
                    if len(working) < _LANES:
                        mine = await guarded(self._store.call(self._store.lanes.unpaused, list(self._executions)))
                        free = [id_ for id_ in mine if self._executions[id_].compiled.gate is None]
                        claimed = await guarded(
                            self._store.transact(self._store.lanes.claim, free, _LANES - len(working), _LEASE, self._worker)
                        )
                        if len(free) < len(mine):
                            limited = [id_ for id_ in mine if id_ not in free and id_ not in self._queuing]
                            for id_ in await guarded(self._store.call(self._store.lanes.due_of, limited)):
                                self._queuing.add(id_)
                                queuing.add(tasks.create_task(self._queue(id_, tasks, working)))
                            queuing = {task for task in queuing if not task.done()}
                        for lane in await self._one_suspect(claimed):
                            task = tasks.create_task(self.work(lane))
                            working.add(task)
                            task.add_done_callback(working.discard)
                            task.add_done_callback(lambda _: self._wake.set())
                        # Who queues at a gate looks for itself.
                        due = await guarded(self._store.call(self._store.lanes.next_due, [id_ for id_ in mine if id_ not in self._queuing]))
                        pause = 1.0 if due is None else min(max(due, 0.01), 1.0)
                    delay = 0.1
                    self._store.outages.over(_PART)
                except StoreDown as error:
                    noticed(self._store, _PART, error)
                    pause = delay
                    delay = min(delay * 2, 5.0)
                except Exception:
                    # A mistake of ours, or tables that were changed under us, must not end the whole service.
                    logger.exception("parked events cannot be claimed; trying again in %.0f s", _AGAIN)
                    pause = _AGAIN
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
            for task in queuing:
                task.cancel()

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _queue(self, subscription_id: int, tasks: asyncio.TaskGroup, working: set[asyncio.Task[None]]) -> None:
        """Pass the gate of a limited subscription and claim one of its lanes, as long as some are due: nobody has a lane while it waits."""
        gate = self._executions[subscription_id].compiled.gate
        assert gate is not None
        try:
            while not self._stopping.is_set():
                if not (got := await gate.enter()):
                    return
                lane: list[Claimed] = []
                try:
                    await self._company.over()
                    if not self._stopping.is_set():
                        lane = await guarded(self._store.transact(self._store.lanes.claim, [subscription_id], 1, _LEASE, self._worker))
                finally:
                    if not lane:
                        gate.leave(got)
                if not lane:
                    return
                if suspected(lane[0], self._executions[subscription_id].compiled.retry):
                    # The next one is not claimed before this one has run, alone.
                    try:
                        await self.work(lane[0])
                    finally:
                        gate.leave()
                else:
                    task = tasks.create_task(self.work(lane[0]))
                    working.add(task)
                    task.add_done_callback(working.discard)
                    task.add_done_callback(lambda _: gate.leave())
                    task.add_done_callback(lambda _: self._wake.set())
                if not await guarded(self._store.call(self._store.lanes.due_of, [subscription_id])):
                    return
        except StoreDown as error:
            noticed(self._store, _PART, error, subscription=self._executions[subscription_id].compiled.label)
        except Exception:
            # As in `run`: it must not end the whole service. Who finds a lane due queues again.
            logger.exception("%s: parked events cannot be claimed", self._executions[subscription_id].compiled.label)
            await self._rest(_AGAIN)
        finally:
            self._queuing.discard(subscription_id)
            self._wake.set()

    async def work_due(self) -> int:
        """Work on the lanes that are due now, one after another, until none is; return how many there were.

        Raises:
            StoreDown: the lanes cannot be read.
        """
        count = 0
        while True:
            mine = await guarded(self._store.call(self._store.lanes.unpaused, list(self._executions)))
            limited = [id_ for id_ in mine if self._executions[id_].compiled.gate is not None]
            free = [id_ for id_ in mine if id_ not in limited]
            claimed = await guarded(self._store.transact(self._store.lanes.claim, free, 1, _LEASE, self._worker))
            if claimed:
                await self.work(claimed[0])
                count += 1
            elif not limited or not await self._work_limited(limited):
                return count
            else:
                count += 1

    async def _work_limited(self, limited: Sequence[int]) -> bool:
        """Work on one lane that is due and may be worked on now; return whether there was one."""
        for id_ in await guarded(self._store.call(self._store.lanes.due_of, limited)):
            gate = self._executions[id_].compiled.gate
            assert gate is not None
            if got := await gate.enter():
                try:
                    for lane in await guarded(self._store.transact(self._store.lanes.claim, [id_], 1, _LEASE, self._worker)):
                        got = 0
                        await self.work(lane)
                        return True
                finally:
                    gate.leave(got)
        return False

    async def _one_suspect(self, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Return what of the claimed lanes is worked on now: of those that may have ended a process, one, which runs alone."""
        chosen: list[Claimed] = []
        suspect = False
        for lane in claimed:
            if not suspected(lane, self._executions[lane.subscription_id].compiled.retry):
                chosen.append(lane)
            elif not suspect:
                suspect = True
                chosen.append(lane)
            else:
                # It would be counted as tried if the one that runs alone ends the process.
                await guarded(self._store.call(self._store.lanes.restore, lane))
        return chosen

    @asynccontextmanager
    async def _turn(self, lane: Claimed, retry: Retry) -> AsyncIterator[None]:
        if not suspected(lane, retry):
            async with self._company.present(), self._slots:
                yield
            return
        async with self._company.alone(ALONE_SECONDS) as stay, self._slots:
            if stay.alone:
                await guarded(self._store.call(self._store.lanes.name, lane, self._worker + ALONE))
                self._alone[lane.token] = stay
            try:
                yield
            finally:
                self._alone.pop(lane.token, None)

    async def work(self, lane: Claimed) -> None:
        """Run a claimed lane from its head, as long as that goes well and its lease is ours; alone if it may have ended a process."""
        execution = self._executions[lane.subscription_id]
        keeper = asyncio.create_task(self._keep(lane))
        began = False
        try:
            async with self._turn(lane, execution.compiled.retry):
                began = True
                await self._run_lane(lane, execution)
        except asyncio.CancelledError:
            if not began:
                await self._hand_back(lane, lane.attempts - 1, 0.0)
            raise
        except LeaseLost as error:
            logger.info("%s: %s", execution.compiled.label, error)
        except StoreDown as error:
            noticed(self._store, _PART, error, subscription=execution.compiled.label)
        except Exception:
            # A mistake of ours must not stop the other lanes; this one is tried again when its lease has run out.
            logger.exception("%s: a lane could not be worked on", execution.compiled.label)
        finally:
            keeper.cancel()

    async def _keep(self, lane: Claimed) -> None:
        while True:
            await asyncio.sleep(_LEASE / 3)
            try:
                if not await self._store.call(self._store.lanes.renew, lane, _LEASE):
                    return
                if (stay := self._alone.get(lane.token)) is not None and not stay.alone:
                    # It has company by now, and is not to blame for what happens to the process.
                    del self._alone[lane.token]
                    await self._store.call(self._store.lanes.name, lane, self._worker)
            except Exception as error:  # noqa: BLE001 - without the lease the work is repeated, not lost
                logger.info("could not renew the lease of a lane: %s", error)

    async def _run_lane(self, lane: Claimed, execution: Execution) -> None:
        number = lane.attempts
        gate = execution.compiled.gate
        first = True
        try:
            while True:
                deliveries = await guarded(self._store.call(self._store.lanes.load, lane, _PAGE))
                if not deliveries:
                    # A lane that has nothing left is gone; one that got something meanwhile is due at once.
                    await guarded(self._store.transact(self._store.lanes.recount, lane))
                    return
                head, rest = deliveries[0], deliveries[1:]
                if not first and gate is not None and not gate.more(1):
                    # The next one queues for its turn again, and its lane with it.
                    await self._hand_back(lane, 0, 0.0)
                    return
                first = False
                if given_up(lane, number, execution.compiled.retry):
                    await self._end(lane, execution, head, number)
                    return
                if not await self._run_head(lane, execution, head, number):
                    return
                number = 1
                if not lane.interrupted:
                    # The one that ended a process must not do so together with others, which would be tried again with it.
                    await self._run_rest(lane, execution, rest if gate is None else rest[: gate.more(len(rest))])
                if self._stopping.is_set():
                    await self._hand_back(lane, 0, 0.0)
                    return
        except (asyncio.CancelledError, StoreDown):
            # Neither a success nor a failure: the attempt is given back (invariant 11).
            await self._hand_back(lane, number - 1, 0.0)
            raise

    async def _run_head(self, lane: Claimed, execution: Execution, delivery: Delivery, number: int) -> bool:
        """Run the head of a lane alone; return whether the lane can go on."""
        received = from_delivery(delivery)
        expires = received.expires()
        if expires is not None and expires <= await guarded(self._store.call(self._store.lanes.clock)):
            await guarded(self._store.transact(self._finish, lane, execution.compiled.id, [received], Outcome.EXPIRED))
            self._counters.add(execution.compiled.label, "expired")
            return True
        try:
            attempt = execution.attempt(received, number)
        except (DecodeError, KeyError, CircularChain) as error:
            await self._not_understood(lane, execution, delivery, number, error)
            return False
        if attempt is None:
            await guarded(self._store.transact(self._finish, lane, execution.compiled.id, [received], Outcome.DISCARDED))
            return True
        fence = LaneFence(self._store, lane, _LEASE)
        age = _age(delivery)
        if execution.compiled.transactional:
            result = await execution.alone(attempt, fence, age)
        else:
            result = await self._plain(lane, execution, attempt, age)
        if isinstance(result, Failed):
            return await self._failed(lane, execution, delivery, result)
        duplicate = result == Standing.DUPLICATE
        self._counters.add(execution.compiled.label, "duplicates" if duplicate else execution.done)
        if not duplicate:
            execution.compiled.lag.since((received.time,))
        if number > 1 and not duplicate:
            self._counters.add(execution.compiled.label, "retried")
        execution.compiled.circuit.succeeded()
        return True

    async def _plain(self, lane: Claimed, execution: Execution, attempt: Attempt, age: float) -> Failed | int:
        compiled = execution.compiled
        keys = [attempt.received.event_key]
        present = await guarded(self._store.call(self._store.inbox.handled, compiled.id, keys))
        if not present and compiled.claims is not None:
            present = len(await guarded(self._store.call(compiled.claims.taken, [attempt.received])))
        failed = None if present else await execution.plain(attempt, age)
        if failed is not None:
            return failed
        # The call has been made, and would be made again.
        await to_its_end(guarded(self._store.transact(self._finish_plain, lane, compiled, attempt.received)))
        return Standing.DUPLICATE if present else Standing.RUN

    async def _run_rest(self, lane: Claimed, execution: Execution, rest: Sequence[Delivery]) -> None:
        """Run what waited behind the head in one transaction, as long as nothing is the matter with it."""
        if not execution.compiled.transactional or not execution.compiled.options.shared or len(rest) < 2:
            return
        attempts: list[Attempt] = []
        for delivery in rest:
            received = from_delivery(delivery)
            try:
                attempt = execution.attempt(received, 1)
            except (DecodeError, KeyError, CircularChain):
                break
            if attempt is None or received.expires() is not None:
                break
            attempts.append(attempt)
        if len(attempts) < 2:
            return
        with suppress(HandlerFailed, TransactionEnded):
            # What fails together is run one by one from the head.
            standing = await execution.together(attempts, LaneFence(self._store, lane, _LEASE))
            handled = [attempt.received.time for index, attempt in enumerate(attempts) if index not in standing]
            self._counters.add(execution.compiled.label, "duplicates", len(standing))
            self._counters.add(execution.compiled.label, execution.done, len(handled))
            execution.compiled.lag.since(handled)

    async def _failed(self, lane: Claimed, execution: Execution, delivery: Delivery, failed: Failed) -> bool:
        received = failed.received
        label = execution.compiled.label
        if failed.decision.state == "discarded":
            await guarded(self._store.transact(self._finish, lane, execution.compiled.id, [received], Outcome.DISCARDED))
            self._counters.add(label, "discarded")
            return True
        await self._record(lane, execution, delivery, failed, "failed")
        if not execution.compiled.retry.refuses(failed.error):
            execution.compiled.circuit.failed(lane.lane, said(failed.failure))
        self._counters.add(label, "failed")
        failed_processing(logger, label, failed)
        if failed.decision.state == "dead":
            self._counters.add(label, "dead")
            self._died(execution.compiled, failed)
        return False

    async def _not_understood(self, lane: Claimed, execution: Execution, delivery: Delivery, number: int, error: Exception) -> None:
        received = from_delivery(delivery)
        failure = undecodable(execution.compiled, received, error)
        if failure is None:
            await self._hand_back(lane, max(number - 1, 0), 5.0)
            return
        reason = refusal(error)
        what = "cannot understand" if reason == "undecodable" else "stopped a chain of events at"
        logger.error(
            "%s %s %s: %s", what, delivery.name, delivery.event_id, failure.error_message,
            extra=about(received, subscription=execution.compiled.label),
        )  # fmt: skip
        failed = Failed(received, error, failure, Decision("dead"), number)
        await self._record(lane, execution, delivery, failed, reason)
        self._counters.add(execution.compiled.label, "dead")
        self._died(execution.compiled, failed)

    async def _end(self, lane: Claimed, execution: Execution, delivery: Delivery, number: int) -> None:
        """Let an event be dead that ends the process whenever it is handled."""
        received = from_delivery(delivery)
        error = ProcessEnded(
            f"the process ended during each of the {number - 1} attempts (it was killed, or the handler ended it); in the last one nothing "
            "else was handled beside it"
        )
        failed = Failed(received, error, failure_of(error), Decision("dead"), number - 1)
        await self._record(lane, execution, delivery, failed, "failed")
        label = execution.compiled.label
        logger.error(
            "%s: %s %s is dead: %s", label, received.name, received.id, error,
            extra=about(received, subscription=label),
        )  # fmt: skip
        self._counters.add(label, "failed")
        self._counters.add(label, "dead")
        self._died(execution.compiled, failed)

    async def _record(self, lane: Claimed, execution: Execution, delivery: Delivery, failed: Failed, reason: str) -> None:
        await guarded(
            self._store.transact(
                record_failure, self._store, execution.compiled, lane, delivery.event_key, delivery.history, failed, reason
            )
        )

    def _finish_plain(self, connection: Connection, lane: Claimed, compiled: Compiled, received: Received) -> None:
        if compiled.claims is not None:
            compiled.claims.record(connection, [received])
        self._finish(connection, lane, compiled.id, [received], Outcome.HANDLED)

    def _finish(self, connection: Connection, lane: Claimed, subscription_id: int, events: Sequence[Received], outcome: int) -> None:
        keys = [event.event_key for event in events]
        self._store.inbox.revive(connection, subscription_id, keys)
        self._store.inbox.record(connection, subscription_id, keys, outcome)
        if not self._store.lanes.finish(connection, lane, keys, _LEASE):
            raise LeaseLost(f"another worker has the lane of key {lane.key!r} now")

    async def _hand_back(self, lane: Claimed, attempts: int, delay: float) -> None:
        work = self._store.transact(self._store.lanes.release, lane, state="retrying", attempts=max(attempts, 0), delay=delay)
        try:
            await asyncio.shield(asyncio.wait_for(work, 5.0))
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            logger.info("could not hand a lane back: %s; its lease runs out in %d s", error, _LEASE)


def _age(delivery: Delivery) -> float:
    """Return the seconds since the first attempt that is remembered."""
    try:
        past = json.loads(delivery.history)
        first = datetime.fromisoformat(past[0]["at"])
    except (ValueError, LookupError, TypeError):
        return 0.0
    return max(0.0, (datetime.now(UTC) - first).total_seconds())
