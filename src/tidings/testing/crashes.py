"""Dying at a chosen point: what a killed process leaves behind is what its transactions had committed until then, and nothing more.

A process that has died may not tidy up. So everything that it does on the store goes through connections that refuse once it is dead, and
the work that the engine does when it is cancelled comes to nothing, as it would in a process that is gone.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, get_args

from sqlalchemy import Connection, event

from tidings.consume.calling import Scope
from tidings.consume.deadline import Deadline
from tidings.consume.execution import Attempt, Execution, Failed, Fence
from tidings.consume.received import Received
from tidings.consume.routing import Compiled
from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import Publisher
from tidings.stores.base import Lease, Mark
from tidings.stores.sql.connections import Connections, Held
from tidings.stores.sql.leases import Leases
from tidings.stores.sql.store import SQLStore

__all__ = ["At", "CrashPoint", "Died", "Fate", "Life", "MortalExecution", "mortal"]

P = ParamSpec("P")
R = TypeVar("R")

#: Where a process can die: when the handler has returned and nothing else has happened; when everything has been written, and COMMIT has
#: not been sent; when the handler's transaction is committed, and the reader's checkpoint does not know it yet.
At = Literal["after_handler_before_close", "before_commit", "after_commit_before_checkpoint"]


class Died(BaseException):
    """The process is dead. Not an `Exception`: nobody can survive it."""


class CrashPoint:
    """Where the process will die, once. As a context manager, it sees to it that the process did.

    Attributes:
        reached: whether it has died there.
    """

    def __init__(self, fate: Fate, at: At, subscription: str | None, event_class: type[Any] | None) -> None:
        if at not in get_args(At):
            raise ValueError(f"crash(at={at!r}): there are {', '.join(map(repr, get_args(At)))}")
        self.at = at
        self.reached = False
        self._fate = fate
        self._subscription = subscription
        self._event = event_class

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.check()
        self._fate.armed = None

    def check(self) -> None:
        """Raise if the process has not died there; it will not any more.

        Raises:
            AssertionError: no handler came to this point.
        """
        __tracebackhide__ = True
        if self._fate.armed is self:
            self._fate.armed = None
        if not self.reached:
            raise AssertionError(f"the process should have died {self}, and no handler came so far: this test proves nothing")

    def meets(self, compiled: Compiled, events: Sequence[Any]) -> bool:
        """Return whether a handler of this subscription that has handled these events dies here."""
        if self._subscription not in (None, compiled.name, compiled.label):
            return False
        return any(self._event is None or isinstance(item, self._event) for item in events)

    def __str__(self) -> str:
        which = "" if self._event is None else f" of {self._event.__name__}"
        return f"at {self.at!r}{which}" + ("" if self._subscription is None else f" in {self._subscription!r}")


class Fate:
    """What outlives a process of the service: where the next one dies, and what is known of the attempts of all of them.

    Attributes:
        attempts: the number of the attempt that succeeded, by subscription and event key.
        interrupted: the attempts that were cancelled, as the subscription and the event.
    """

    def __init__(self) -> None:
        self.armed: CrashPoint | None = None
        self.attempts: dict[tuple[str, str], int] = {}
        self.interrupted: list[tuple[str, Any]] = []


class Life:
    """One process of the service."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.dead = False
        self._doomed = False

    def check(self) -> None:
        """Raise if the process is dead."""
        if self.dead:
            raise Died

    def expects(self, at: At, compiled: Compiled, events: Sequence[Any]) -> bool:
        """Return whether the process dies at this point."""
        armed = self.fate.armed
        return armed is not None and armed.at == at and armed.meets(compiled, events)

    def die(self) -> None:
        """End the process."""
        if self.fate.armed is not None:
            self.fate.armed.reached = True
            self.fate.armed = None
        self.dead = True
        raise Died

    def doom(self) -> None:
        """Let the process die before its next checkpoint, and after it has written down what it did."""
        self._doomed = True

    def settle(self) -> None:
        """Note that a checkpoint is about to move, or that everything is finished."""
        if self._doomed:
            self.die()


class MortalExecution(Execution):
    """The engine's own execution of attempts, in a process that may die at the points between its steps."""

    def __init__(self, compiled: Compiled, store: SQLStore, publisher: Publisher, life: Life) -> None:
        super().__init__(compiled, store, publisher)
        self._life = life
        self._events: dict[str, Any] = {}

    async def together(self, attempts: Sequence[Attempt], fence: Fence, deadline: Deadline | None = None) -> dict[int, int]:
        """Run attempts in one transaction; die after its commit."""
        mine = {attempt.received.event_key: attempt.event for attempt in attempts}
        self._events.update(mine)
        try:
            standing = await super().together(attempts, fence, deadline)
        finally:
            for event_key in mine:
                self._events.pop(event_key, None)
        ran = [attempt for index, attempt in enumerate(attempts) if index not in standing]
        self._note(ran)
        if self._life.expects("after_commit_before_checkpoint", self.compiled, [attempt.event for attempt in ran]):
            self._life.die()
        return standing

    async def plain(self, attempt: Attempt, age: float = 0.0, deadline: Deadline | None = None) -> Failed | None:
        """Run an attempt without transaction; die before or after it has been written down."""
        failed = await super().plain(attempt, age, deadline)
        if failed is None:
            if any(self._life.expects(at, self.compiled, [attempt.event]) for at in ("after_handler_before_close", "before_commit")):
                self._life.die()
            if self._life.expects("after_commit_before_checkpoint", self.compiled, [attempt.event]):
                self._life.doom()
        return failed

    async def _call_all(self, attempts: Sequence[Attempt], scope: Scope, shared: Deadline | None = None) -> None:
        try:
            await super()._call_all(attempts, scope, shared)
        except asyncio.CancelledError:
            self._life.fate.interrupted += [(self.compiled.label, attempt.event) for attempt in attempts]
            raise
        if scope.held is None:
            self._note(attempts)

    def _close(
        self, connection: Connection, fence: Fence, ran: Sequence[Received], events: Sequence[Received], outgoing: Sequence[Outgoing]
    ) -> None:
        handled = [self._events[received.event_key] for received in ran]
        if self._life.expects("after_handler_before_close", self.compiled, handled):
            self._life.die()
        with self._dying_at_commit(connection, handled):
            super()._close(connection, fence, ran, events, outgoing)

    @contextmanager
    def _dying_at_commit(self, connection: Connection, handled: Sequence[Any]) -> Iterator[None]:
        if not self._life.expects("before_commit", self.compiled, handled):
            yield
            return

        def die(_: Connection) -> None:
            # SQLAlchemy takes a transaction for ended whatever becomes of its commit, and would keep the connection as it is.
            connection.connection.rollback()
            self._life.die()

        event.listen(connection, "commit", die)
        try:
            yield
        finally:
            event.remove(connection, "commit", die)

    def _note(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self._life.fate.attempts[self.compiled.label, attempt.received.event_key.replace("-", "")] = attempt.number


def mortal(store: SQLStore, life: Life) -> SQLStore:
    """Return the store as a process that may die sees it."""
    seen = copy.copy(store)
    seen.connections = _MortalConnections(store, life)
    seen.leases = _MortalLeases(store, life)
    return seen


class _MortalHeld(Held):
    def __init__(self, held: Held, life: Life) -> None:
        vars(self).update(vars(held))
        self._life = life

    async def run(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        self._life.check()
        return await super().run(function, *arguments, **keywords)


class _MortalConnections(Connections):
    def __init__(self, store: SQLStore, life: Life) -> None:
        super().__init__(store.connections.engine)
        self._life = life

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Held]:
        self._life.check()
        async with super().autocommit() as held:
            yield _MortalHeld(held, self._life)

    @asynccontextmanager
    async def transaction(self, isolation_level: str | None = None, first: str | None = None) -> AsyncIterator[Held]:
        self._life.check()
        async with super().transaction(isolation_level, first) as held:
            yield _MortalHeld(held, self._life)


class _MortalLeases(Leases):
    def __init__(self, store: SQLStore, life: Life) -> None:
        super().__init__(store.names, store.dialect)
        self._life = life

    def move(self, connection: Connection, lease: Lease, mark: Mark, high: int, *, same_window: bool) -> bool:
        self._life.settle()
        return super().move(connection, lease, mark, high, same_window=same_window)
