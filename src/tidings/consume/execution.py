"""The handler transaction: the inbox row first, then the handler, the proof last; with what it publishes, all or nothing (invariant 4)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.util import greenlet_spawn

from tidings.consume.calling import HandlerFailed, Scope, call
from tidings.consume.deadline import Deadline
from tidings.consume.failures import failure_of
from tidings.consume.guard import Guard
from tidings.consume.pace import Pace
from tidings.consume.received import Received
from tidings.consume.retry import Decision
from tidings.consume.routing import Compiled, Route
from tidings.envelope import Envelope
from tidings.errors import CircularChain, TidingsError, TransactionEnded
from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import Publisher
from tidings.stores.base import Failure, Standing
from tidings.stores.sql.driver import commit, run, send_with_commit, sends_with_commit
from tidings.stores.sql.errors import UNAVAILABLE, kind_of, said_by
from tidings.stores.sql.store import SQLStore

__all__ = ["RUNS", "Attempt", "Execution", "Failed", "Fence", "StoreDown"]

#: How often a deadlock, serialization failure or busy database is run again at once, uncounted.
_RERUNS = 5
#: How often an attempt that lost its connection is. A restart of the database takes one from everybody; but a handler that costs its server
#: process each time must not be run for ever.
_LOST = 2

#: What the server says of an opening script whose event runs.
RUNS = "INSERT 0 1"

_COMMITTED = (
    "the handler committed the transaction by itself: what it did before that stays, what it published is lost. Leave commit and rollback to "
    "Tidings; a transaction of your own inside the handler is session.begin_nested(), or a savepoint of the driver"
)


class StoreDown(TidingsError):
    """The database cannot be used now; nothing is counted against the events."""


class _ConnectionLost(Exception):
    """The connection of a handler transaction was lost, and the handler went on as if nothing had happened."""


class Attempt(msgspec.Struct, gc=False, eq=False):
    """An event that is about to be handled, decoded, with the number of this attempt."""

    received: Received
    route: Route
    event: Any
    envelope: Envelope
    number: int


@dataclass(slots=True)
class Failed:
    """An attempt that failed, and what becomes of the event."""

    received: Received
    error: BaseException
    failure: Failure
    decision: Decision
    number: int


class Fence(Protocol):
    """What proves, at the end of a transaction, that it is still ours. Raises LeaseLost or TransactionEnded."""

    async def begin(self) -> None:
        """A transaction begins."""
        ...

    async def settle(self) -> None:
        """The handlers have run, well or not, and the transaction is about to close or to be rolled back."""
        ...

    def open(self, connection: Connection, subscription_id: int, events: Sequence[Received]) -> dict[int, int]:
        """Insert the inbox rows; return the `Standing` of events that do not run."""
        ...

    def close(self, connection: Connection, subscription_id: int, ran: Sequence[Received], events: Sequence[Received]) -> None:
        """Prove that the inbox rows of what ran are still there, under our lease."""
        ...

    def opening_script(self, subscription_id: int, event: Received) -> str | None:
        """Return what `open` does for one event as a script to go with BEGIN, or None; the server answers `RUNS` if the event runs."""
        ...

    def closing_script(self, subscription_id: int, ran: Sequence[Received]) -> str | None:
        """Return what `close` does as a script to go with COMMIT, or None; what it fails over is for `not_closed`."""
        ...

    def not_closed(self, error: BaseException) -> None:
        """Raise what `close` would have raised, if this error is what a script of `closing_script` has failed over."""
        ...


class Execution:
    """Runs the attempts of one subscription.

    Attributes:
        pace: how many seconds one event takes.
        done: what an event that was run well is counted as.
    """

    done: str = "handled"

    def __init__(self, compiled: Compiled, store: SQLStore, publisher: Publisher) -> None:
        self.compiled = compiled
        self.store = store
        self.publisher = publisher
        self.pace = Pace()

    def attempt(self, received: Received, number: int) -> Attempt | None:
        """Decode an event for its handler; None when this subscription has nothing to do with its version.

        Raises:
            DecodeError: it cannot be understood.
            KeyError: its version is not known to this process.
            CircularChain: too many handlers led to it, one by one.
        """
        route = self.compiled.routes[received.name, received.version]
        if route is None:
            return None
        envelope = received.envelope(number, self.compiled.name)
        if envelope.hops > self.compiled.max_hops:
            raise CircularChain((*envelope.chain, envelope.name), envelope.hops, self.compiled.max_hops)
        return Attempt(received, route, route.decode(received.data), envelope, number)

    async def together(self, attempts: Sequence[Attempt], fence: Fence, deadline: Deadline | None = None) -> dict[int, int]:
        """Run attempts in one transaction; return the `Standing` of those that did not run.

        Args:
            deadline: what bounds the calls, for whoever wants to interrupt them.

        Raises:
            HandlerFailed: a handler raised, or lost the connection; nothing was kept.
            TransactionEnded: a handler ended or broke the transaction; nothing was kept.
            LeaseLost: another worker acts for us; nothing was kept.
            StoreDown: the database cannot be used.
        """
        events = [attempt.received for attempt in attempts]
        opened = committed = False
        scope: Scope | None = None
        await fence.begin()
        try:
            # Alone there is nobody to share round trips with, and a handler that somebody waits for.
            first = fence.opening_script(self.compiled.id, events[0]) if len(events) == 1 else None
            async with self.store.connections.transaction(None, first) as held:
                runs = held.first == RUNS
                standing = {} if runs and self.compiled.claims is None else await held.run(self._open, fence, events, runs)
                opened = True
                todo = [attempt for index, attempt in enumerate(attempts) if index not in standing] if standing else list(attempts)
                together = len(todo) > 1 and self.compiled.options.session_per == "transaction"
                scope = Scope(self.store.connections, self.publisher, held, one_session=together)
                guard = Guard(held.sync)
                try:
                    await self._call_all(todo, scope, deadline)
                except HandlerFailed as failed:
                    if held.sync.invalidated and kind_of(failed.error) != "outage":
                        raise HandlerFailed(_ConnectionLost(str(failed.error))) from failed.error
                    raise
                finally:
                    scope.close()
                    await fence.settle()
                if held.sync.invalidated:
                    raise HandlerFailed(_ConnectionLost("the handler swallowed the loss of its connection"))
                ran = [attempt.received for attempt in todo]
                guard.lift()
                outgoing, after = scope.published(), scope.after
                await held.run(self._close, fence, ran, events, outgoing)
            committed = True
        except UNAVAILABLE as error:
            kind = kind_of(error)
            if opened and kind == "aborted":
                raise TransactionEnded(
                    f"{self.compiled.label}: the handler swallowed a database error that broke its transaction; catch it inside "
                    "session.begin_nested() instead"
                ) from error
            if kind == "conflict" or (opened and isinstance(error, DBAPIError)):
                raise HandlerFailed(error, ran=opened) from error
            raise StoreDown(f"the database cannot be used: {said_by(error)}") from error
        finally:
            if scope is not None and scope.works:
                await scope.end(committed)
        if outgoing:
            self.publisher.committed(outgoing)
        if after:
            # A greenlet, so that what has to be awaited can be.
            await greenlet_spawn(_call_each, after)
        return standing

    async def alone(self, attempt: Attempt, fence: Fence, age: float = 0.0) -> Failed | int:
        """Run one attempt in a transaction of its own; return how it failed, or its `Standing`.

        Conflicts of the database are run again at once, up to five times, and lost connections up to twice; so are failures within the
        policy's immediate attempts.
        """
        reruns = 0
        number = attempt.number
        while True:
            ran = True
            try:
                standing = await self.together([attempt], fence)
            except HandlerFailed as failed:
                error = failed.error
                ran = failed.ran
            except TransactionEnded as ended:
                error = ended
            else:
                return standing.get(0, Standing.RUN)
            kind = "outage" if isinstance(error, _ConnectionLost) else kind_of(error)
            if reruns < {"conflict": _RERUNS, "outage": _LOST}.get(kind or "", 0):
                reruns += 1
                await asyncio.sleep(random.uniform(0, 0.01 * 2**reruns))
                continue
            if not ran:
                raise StoreDown(f"the database is busy: {said_by(error)}") from error
            if isinstance(error, TransactionEnded) and await self._is_known(attempt.received):
                # Another attempt would find the event handled, and nobody would hear of it.
                error = TransactionEnded(_COMMITTED)
                return Failed(attempt.received, error, failure_of(error), Decision("dead"), number)
            decision = self.compiled.retry.decide(error, number, age)
            if decision.state == "retrying" and decision.delay == 0 and number <= self.compiled.retry.immediate:
                number += 1
                attempt = Attempt(
                    attempt.received, attempt.route, attempt.event, attempt.received.envelope(number, self.compiled.name), number
                )
                continue
            return Failed(attempt.received, error, failure_of(error), decision, number)

    async def _is_known(self, received: Received) -> bool:
        try:
            return bool(await self.store.call(self.store.inbox.handled, self.compiled.id, [received.event_key]))
        except UNAVAILABLE as error:
            raise StoreDown(f"the database cannot be used: {said_by(error)}") from error

    async def plain_list(self, attempts: Sequence[Attempt]) -> None:
        """Call a handler of lists that asked for no transaction, once with all of them.

        Raises:
            HandlerFailed: it raised.
        """
        await self._call_all(attempts, Scope(self.store.connections, self.publisher, None))

    def deadline(self) -> Deadline:
        """Return what bounds the calls that this task makes, one after another; to be closed after the last."""
        return Deadline(self.compiled.options.timeout)

    async def plain(self, attempt: Attempt, age: float = 0.0, deadline: Deadline | None = None) -> Failed | None:
        """Run one attempt of a handler that asked for no transaction; return how it failed."""
        number = attempt.number
        while True:
            try:
                await self._call_one(attempt, deadline)
            except Exception as raised:  # noqa: BLE001 - whatever a handler raises
                error = raised
            else:
                return None
            decision = self.compiled.retry.decide(error, number, age)
            if decision.state == "retrying" and decision.delay == 0 and number <= self.compiled.retry.immediate:
                number += 1
                attempt = Attempt(
                    attempt.received, attempt.route, attempt.event, attempt.received.envelope(number, self.compiled.name), number
                )
                continue
            return Failed(attempt.received, error, failure_of(error), decision, number)

    async def _call_one(self, attempt: Attempt, shared: Deadline | None) -> None:
        """Do what `_call_all` does, in less time, for one event and a handler that asked for no transaction."""
        deadline = shared or self.deadline()
        scope = Scope(self.store.connections, self.publisher, None)
        event: Any = attempt.event
        envelope: Any = attempt.envelope
        tracing, context = self.publisher.tracing, None
        if self.compiled.batch is not None:
            event, envelope = [event], [envelope]
        elif tracing is not None:
            (context,) = tracing.carried([envelope])
        made = call if tracing is None or context is not None else tracing.calling(call, self.compiled.label)
        pace = self.pace
        pace.begin()
        deadline.what = attempt.received
        token = None if tracing is None or context is None else tracing.attach(context)
        started = perf_counter()
        try:
            await made(attempt.route.plan, event, envelope, scope, deadline, self.compiled.filters)
        finally:
            if tracing is not None and token is not None:
                tracing.detach(token)
            if shared is None:
                deadline.close()
            now = perf_counter()
            self.compiled.took.observe(now - started)
            pace.end(now - started, 1, now)

    async def _call_all(self, attempts: Sequence[Attempt], scope: Scope, shared: Deadline | None = None) -> None:
        started = before = perf_counter()
        took: list[float] = []
        filters = self.compiled.filters
        tracing = self.publisher.tracing
        made = call if tracing is None else tracing.calling(call, self.compiled.label)
        self.pace.begin()
        deadline = shared or self.deadline()
        try:
            if self.compiled.batch is None:
                contexts = repeat(None) if tracing is None else tracing.carried([attempt.envelope for attempt in attempts])
                attach = None if tracing is None else tracing.attach
                attached = None
                try:
                    for attempt, context in zip(attempts, contexts, strict=False):
                        deadline.what = attempt.received
                        if tracing is not None:
                            # Each replaces the one before; what was there before all of them comes back once.
                            if context is not None and attach is not None:
                                token = attach(context)
                                if attached is None:
                                    attached = token
                            elif attached is not None:
                                tracing.detach(attached)
                                attached = None
                        try:
                            await (made if context is None else call)(
                                attempt.route.plan, attempt.event, attempt.envelope, scope, deadline, filters
                            )
                        finally:
                            now = perf_counter()
                            took.append(now - before)
                            before = now
                finally:
                    if tracing is not None and attached is not None:
                        tracing.detach(attached)
            else:
                for first in range(0, len(attempts), self.compiled.batch):
                    part = attempts[first : first + self.compiled.batch]
                    try:
                        await made(part[0].route.plan, [a.event for a in part], [a.envelope for a in part], scope, deadline, filters)
                    finally:
                        now = perf_counter()
                        took.append(now - before)
                        before = now
            if scope.stands_in_the_way(None):
                with deadline:
                    await scope.finish()
        except Exception as error:
            raise HandlerFailed(error) from error
        finally:
            if shared is None:
                deadline.close()
            self.compiled.took.observe_each(took)
            self.pace.end(perf_counter() - started, len(attempts))

    def _open(self, connection: Connection, fence: Fence, events: Sequence[Received], runs: bool) -> dict[int, int]:
        standing = {} if runs else fence.open(connection, self.compiled.id, events)
        if self.compiled.claims is not None:
            mine = [place for place in range(len(events)) if place not in standing]
            taken = self.compiled.claims.open(connection, [events[place] for place in mine])
            return {**standing, **{mine[place]: Standing.DUPLICATE for place in taken}}
        return standing

    def _close(
        self, connection: Connection, fence: Fence, ran: Sequence[Received], events: Sequence[Received], outgoing: Sequence[Outgoing]
    ) -> None:
        if (script := self._closing(connection, fence, ran, outgoing)) is not None:
            send_with_commit(connection, script)
            try:
                commit(connection)
            except DBAPIError as error:
                fence.not_closed(error)
                raise
            return
        fence.close(connection, self.compiled.id, ran, events)
        if outgoing:
            for command in self.store.publishing.publish(outgoing):
                run(connection, command)
        commit(connection)

    def _closing(self, connection: Connection, fence: Fence, ran: Sequence[Received], outgoing: Sequence[Outgoing]) -> str | None:
        """Return the proof, and what inserts the events behind it, as one script to go with COMMIT; None where that cannot be."""
        if not sends_with_commit(connection) or (proof := fence.closing_script(self.compiled.id, ran)) is None:
            return None
        if not outgoing:
            return proof
        inserts = self.store.publishing.script(outgoing)
        return None if inserts is None else f"{proof};{inserts}"


def _call_each(functions: Sequence[Callable[[], None]]) -> None:
    for function in functions:
        function()
