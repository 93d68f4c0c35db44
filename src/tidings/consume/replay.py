"""Replay: handling part of the log again for one subscription, on purpose past the inbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from tidings.clock import check_aware, elapsed
from tidings.consume.calling import HandlerFailed
from tidings.consume.counters import Counters
from tidings.consume.execution import Attempt, Execution, Failed
from tidings.consume.failures import remember
from tidings.consume.gate import Gate
from tidings.consume.outcome import Outcome
from tidings.consume.parking import guarded, parking
from tidings.consume.received import Received, from_row
from tidings.consume.routing import Compiled
from tidings.errors import CircularChain, ConfigurationError, DecodeError, LeaseLost, TransactionEnded
from tidings.stores.base import Lease
from tidings.stores.sql.store import SQLStore

__all__ = ["Interval", "Progress", "Replay", "subscription_to_replay"]

logger = logging.getLogger("tidings.consume")

_PAGE = 100
#: Where each event may have to wait for its turn: so many are handled again after a crash.
_LIMITED_PAGE = 10
_LEASE = 30.0


class Interval(NamedTuple):
    """Which part of the log: by time of publishing (aware), and of one key. None leaves a bound out."""

    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None

    def checked(self) -> Interval:
        """Return itself.

        Raises:
            ConfigurationError: a bound has no time zone.
        """
        check_aware(since=self.since, until=self.until)
        return self


async def subscription_to_replay(compiled: Sequence[Compiled], which: str, service: str, store: SQLStore) -> Compiled:
    """Return the subscription of that name, `group/name` or the name alone, as the store knows it.

    Raises:
        ConfigurationError: there is none, or there are several.
    """
    registered = {(row.group, row.name): row.id for row in await store.call(store.registry.list, service)}
    found = [item for item in compiled if which in (item.name, item.label) and (item.group, item.name) in registered]
    if len(found) > 1:
        raise ConfigurationError(f"several groups have a subscription {which!r}: say group/name")
    if not found:
        there = ", ".join(sorted(item.label for item in compiled if (item.group, item.name) in registered))
        raise ConfigurationError(f"there is no subscription {which!r}; there {f'are {there}' if there else 'is none'}")
    found[0].id = registered[found[0].group, found[0].name]
    return found[0]


class Progress(NamedTuple):
    """How far a replay has come: the position in the log, the last position that it will reach, and how many events ended how."""

    position: int
    end: int
    handled: int
    failed: int


class _Fence:
    """Handlers run whether the event was handled before or not; the inbox row is there afterwards either way."""

    def __init__(self, store: SQLStore, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    async def begin(self) -> None:
        """The replay's lease is all there is."""

    async def settle(self) -> None:
        """The replay's lease is all there is."""

    def open(self, connection: Connection, subscription_id: int, events: Sequence[Received]) -> dict[int, int]:
        """Insert the inbox rows that are missing; everything runs."""
        self._store.inbox.record(connection, subscription_id, [event.event_key for event in events], Outcome.HANDLED)
        return {}

    def opening_script(self, subscription_id: int, event: Received) -> None:
        """Return None: what is there already runs, too."""

    def closing_script(self, subscription_id: int, ran: Sequence[Received]) -> None:
        """Return None: the rows need not be of this transaction."""

    def not_closed(self, error: BaseException) -> None:
        """Nothing is closed by a script."""

    def close(self, connection: Connection, subscription_id: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
        """Prove that the inbox rows are there, and that the lease is ours."""
        keys = [event.event_key for event in ran]
        if self._store.inbox.present(connection, subscription_id, keys) != len(set(keys)):
            raise TransactionEnded("the handler committed, rolled back, or swallowed a database error outside begin_nested()")
        if not self._store.leases.holds(connection, self._lease):
            raise LeaseLost(f"another worker runs {self._lease.reader!r} now")


class Replay:
    """One replay; resumable under its name, because its position is a checkpoint of its own.

    While it runs, an ordered subscription is paused: old events after new ones would be an inversion by definition.

    Args:
        name: what the replay is resumed by.
        worker: who runs it.
    """

    def __init__(
        self, name: str, execution: Execution, store: SQLStore, service: str, interval: Interval, worker: str, counters: Counters
    ) -> None:
        self.reader = f"{service}/{execution.compiled.label}@replay:{name}"
        self._execution = execution
        self._store = store
        self._service = service
        self._interval = interval
        self._worker = worker
        self._counters = counters

    async def run(self, progress: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Handle the interval again from where the replay stopped last; return how it ended.

        Raises:
            ConfigurationError: another worker runs this replay.
            LeaseLost: another worker took it over.
        """
        store, compiled = self._store, self._execution.compiled
        end = await guarded(store.transact(store.history.begin, self.reader, self._service, compiled.group))
        lease = await guarded(store.call(store.leases.acquire, self.reader, self._worker, _LEASE))
        if lease is None:
            raise ConfigurationError(f"the replay {self.reader!r} is run by another worker: wait for it, or choose another name")
        paused = compiled.options.ordered and await guarded(store.transact(store.repair.pause, self._service, compiled.label, paused=True))
        handled = failed = 0
        position = lease.mark.position
        renewed = elapsed()
        page = _PAGE if compiled.gate is None else _LIMITED_PAGE
        try:
            while True:
                rows = await guarded(store.call(store.history.page, position, end, compiled.names, self._interval, page))
                if not rows:
                    break
                events = [from_row(row) for row in rows]
                good, bad = await self._handle(events, lease)
                handled, failed = handled + good, failed + bad
                position = int(rows[-1][0])
                if not await guarded(
                    store.call(store.leases.move, lease, msgspec.structs.replace(lease.mark, position=position), position, same_window=True)
                ):
                    raise LeaseLost(f"another worker runs {self.reader!r} now")
                progress(Progress(position, end, handled, failed))
                if elapsed() - renewed > _LEASE / 3:
                    renewed = elapsed()
                    await guarded(store.call(store.leases.renew, lease, _LEASE))
        finally:
            if paused:
                await guarded(store.transact(store.repair.pause, self._service, compiled.label, paused=False))
            await guarded(store.call(store.leases.release, lease))
        await guarded(store.transact(store.history.end, self.reader))
        return Progress(end, end, handled, failed)

    async def _handle(self, events: Sequence[Received], lease: Lease) -> tuple[int, int]:
        fence = _Fence(self._store, lease)
        attempts: list[Attempt] = []
        for event in events:
            try:
                attempt = self._execution.attempt(event, 1)
            except (DecodeError, KeyError, CircularChain) as error:
                logger.error("replay cannot handle %s %s: %s", event.name, event.id, error)
                continue
            if attempt is not None:
                attempts.append(attempt)
        undecoded = len(events) - len(attempts)
        gate = self._execution.compiled.gate
        if gate is None:
            return await self._run(attempts, fence, undecoded)
        handled = failed = 0
        while attempts:
            got = await self._enter(gate, len(attempts), lease)
            try:
                good, bad = await self._run(attempts[:got], fence, 0)
            finally:
                gate.leave()
            handled, failed = handled + good, failed + bad
            attempts = attempts[got:]
        return handled, failed + undecoded

    async def _enter(self, gate: Gate, wanted: int, lease: Lease) -> int:
        """Wait for what the subscription's limits allow; the lease must not run out meanwhile."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LEASE / 3):
                    return await gate.enter(wanted)
            if not await guarded(self._store.call(self._store.leases.renew, lease, _LEASE)):
                raise LeaseLost(f"another worker runs {self.reader!r} now")

    async def _run(self, attempts: Sequence[Attempt], fence: _Fence, undecoded: int) -> tuple[int, int]:
        if not self._execution.compiled.transactional:
            return await self._one_by_one(attempts, fence, undecoded)
        try:
            if attempts:
                await self._execution.together(attempts, fence)
        except (HandlerFailed, TransactionEnded):
            return await self._one_by_one(attempts, fence, undecoded)
        return len(attempts), undecoded

    async def _one_by_one(self, attempts: Sequence[Attempt], fence: _Fence, failures: int) -> tuple[int, int]:
        handled = 0
        for attempt in attempts:
            if self._execution.compiled.transactional:
                result: Failed | int | None = await self._execution.alone(attempt, fence)
            else:
                result = await self._execution.plain(attempt)
            if isinstance(result, Failed):
                failures += 1
                await guarded(self._store.transact(self._park, result))
            else:
                handled += 1
        return handled, failures

    def _park(self, connection: Connection, failed: Failed) -> None:
        """Park what failed, to be tried again like any other failure; the inbox must not take it for handled then."""
        received = failed.received
        compiled = self._execution.compiled
        self._store.history.forget(connection, compiled.id, received.event_key)
        lane = received.lane if compiled.options.ordered else received.event_key
        history = remember("[]", failed.number, failed.failure)
        item = parking(
            received, lane, "failed", state=failed.decision.state, delay=failed.decision.delay, attempts=failed.number, history=history,
            failure=failed.failure,
        )  # fmt: skip
        self._store.lanes.park(connection, compiled.id, [item])
