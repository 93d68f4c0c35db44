"""One transaction for everything that belongs together: whoever is called inside it joins it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from greenlet import getcurrent
from sqlalchemy.ext.asyncio import AsyncSession, async_session
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from tidings.errors import ConfigurationError, NoTransaction, TransactionEnded, UnitOfWorkRolledBack
from tidings.publish.session import publish
from tidings.publish.sqlalchemy_state import is_whole

if TYPE_CHECKING:
    from types import TracebackType

    from tidings.domain.dispatch import Domain

__all__ = ["UnitOfWork", "Work", "can_await", "current_work", "drive", "joined", "work_of"]

logger = logging.getLogger("tidings.domain")

R = TypeVar("R")

_works: ContextVar[Mapping[Any, Work]] = ContextVar("tidings.units_of_work", default={})  # noqa: B039 - never changed, only replaced


class Work:
    """What the blocks of one unit of work share.

    Attributes:
        session: as the factory made it.
        sync: the same as a `Session`.
        failure: why it cannot commit any more: what an inner block raised, or a sentence.
        finished: called after the end, with whether it has committed.
    """

    __slots__ = ("_owner", "closed", "factory", "failure", "finished", "running", "session", "sync", "watched")

    def __init__(self, session: Any, factory: Any = None) -> None:
        self.session = session
        self.sync: Session = session.sync_session if isinstance(session, AsyncSession) else session
        self.factory = factory
        self.failure: BaseException | str | None = None
        self.finished: list[Callable[[bool], Coroutine[Any, Any, None]]] = []
        self.closed = False
        #: How many commands that joined it run at the moment.
        self.running = 0
        self.watched = False
        self._owner = _here()

    @property
    def asynchronous(self) -> bool:
        """Whether it has to be awaited."""
        return isinstance(self.session, AsyncSession)

    @property
    def ours(self) -> bool:
        """Whether this task or thread is the one that began it: a session must not be used by two, and a task that outlives it is on its own."""
        return not self.closed and self._owner == _here()

    def fail(self, reason: BaseException | str) -> None:
        """Let it not commit."""
        if self.failure is None:
            self.failure = reason

    def check(self) -> None:
        """Raise if it cannot commit any more.

        Raises:
            UnitOfWorkRolledBack: something failed in it, or it was rolled back, and the program went on.
        """
        failure = self.failure
        if failure is None:
            return
        if isinstance(failure, str):
            raise UnitOfWorkRolledBack(f"nothing was committed: {failure}")
        raise UnitOfWorkRolledBack(
            f"nothing was committed: {type(failure).__name__} came out of an inner block of this unit of work, and was caught before its end. "
            "What may fail and be caught belongs into session.begin_nested(); a command or a block, into a transaction of its own"
        ) from failure

    def close(self) -> None:
        """Let nothing join it any more: its handler has returned."""
        self.closed = True
        if self.running:
            self.fail("a handler has returned while a command that it executes was still running: await it")

    async def end(self, committed: bool) -> None:
        """Tell those who wait for it that it has ended."""
        calls, self.finished = self.finished, []
        for call in calls:
            await call(committed)

    def end_here(self, committed: bool) -> None:
        """Do what `end` does where a session tells of its end: what has gone wrong must not get in its way."""
        try:
            if can_await():
                await_only(self.end(committed))
            else:
                drive(self.end(committed))
        except Exception:
            logger.exception("the end of a command could not be told")

    async def run(self, function: Callable[[Session], R], *, blocking: bool) -> R:
        """Run a function of the `Session`."""
        if self.asynchronous and not blocking:
            result: R = await self.session.run_sync(function)
            return result
        return function(self.sync)


def current_work(domain: Domain) -> Work | None:
    """Return the unit of work that this code runs in."""
    work = _works.get().get(domain)
    return work if work is not None and work.ours else None


@contextmanager
def joined(domain: Domain, work: Work) -> Iterator[None]:
    """Let code join a transaction that somebody else ends.

    Raises:
        NoTransaction: the handler that could do so has returned.
    """
    if work.closed:
        raise NoTransaction("this Execute belongs to a handler that has returned: execute inside the handler, before it returns")
    work.running += 1
    try:
        found = current_work(domain)
        if found is not None and found.sync is work.sync:
            yield
            if found.failure is not None:
                work.fail(found.failure)
            return
        # Another task may call us than the one that made it: the one that waits for this.
        work._owner = _here()
        token = _works.set({**_works.get(), domain: work})
        try:
            yield
        finally:
            _works.reset(token)
    finally:
        work.running -= 1


def work_of(session: Session) -> Work:
    """Return a unit of work around a session that somebody else commits."""
    return Work(async_session(session) or session)


class UnitOfWork:
    """A block with a session, which commits at its end, or rolls back when an exception leaves it.

    A block inside another one joins it: the outermost commits once. If an inner one fails, the whole is rolled back, even if the exception is
    caught in between; the outermost then raises. Other tasks and threads do not join.

    Attributes:
        session: the factory's session. Leave commit and rollback to the block; a part of the work that may fail is `session.begin_nested()`.
    """

    def __init__(self, domain: Domain, factory: Any = None, *, blocking: bool = False) -> None:
        self._domain = domain
        self._factory = factory
        self._blocking = blocking
        self._work: Work | None = None
        self._outermost = False
        self._undone = False
        self._token: Token[Mapping[Any, Work]] | None = None
        self._root: Any = None
        self.session: Any = None

    # What is done in it

    def track(self, aggregate: object, /) -> None:
        """Handle the domain events of an object that is not mapped with this unit of work.

        Raises:
            TypeError: it records no events.
            NoTransaction: the block is over.
        """
        self._domain.track(self._inside().sync, aggregate)

    def record(self, event: object, /) -> None:
        """Record a domain event without an object that it happened to."""
        self._domain.record(self._inside().sync, event)

    def publish(self, event: object, /, **options: Any) -> UUID:
        """Publish an integration event with this unit of work; return its id. The options are those of `Service.publish`."""
        return publish(self._domain.publisher, self._inside().sync, event, **options)

    def rollback(self) -> None:
        """Let nothing be committed. The work is rolled back when the outermost block is left; that raises if it was not the one to say so."""
        self._undone = True
        self._inside().fail("an inner block of the unit of work has asked for the rollback")

    def _inside(self) -> Work:
        if self._work is None or self._work.closed:
            raise NoTransaction("this unit of work is over, or has not begun: use it inside its block")
        return self._work

    # Beginning and ending

    def __enter__(self) -> Self:
        work = self._begin()
        if self._outermost and work.asynchronous:
            self._abandon(work)
            raise ConfigurationError("the session factory is asynchronous: `async with service.unit_of_work() as uow:`")
        self.session = work.sync
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        work = self._leave(error)
        if work is None:
            return
        committed = False
        try:
            if self._may_commit(work, error):
                work.sync.commit()
                committed = True
            else:
                work.sync.rollback()
        except BaseException:
            work.sync.rollback()
            raise
        finally:
            self._forget()
            work.sync.close()
            drive(work.end(committed))
        if error is None and not committed and not self._undone:
            work.check()

    async def __aenter__(self) -> Self:
        work = self._begin()
        if self._outermost and work.asynchronous and self._blocking:
            self._abandon(work)
            raise ConfigurationError("the session factory is asynchronous: `await service.execute(...)`, or attach a sessionmaker")
        if self._outermost and not work.asynchronous and not self._blocking:
            self._abandon(work)
            raise ConfigurationError(
                "the session factory is synchronous, and would block the event loop: `with service.unit_of_work() as uow:`"
            )
        self.session = work.session
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._outermost or self._blocking:
            self.__exit__(kind, error, trace)
            return
        work = self._leave(error)
        assert work is not None
        committed = False
        try:
            if self._may_commit(work, error):
                await work.session.commit()
                committed = True
            else:
                await work.session.rollback()
        except BaseException:
            await work.session.rollback()
            raise
        finally:
            self._forget()
            # As its own block would: closed to the end, even when cancelled.
            await work.session.__aexit__(None, None, None)
            await work.end(committed)
        if error is None and not committed and not self._undone:
            work.check()

    def _begin(self) -> Work:
        if self._work is not None:
            raise ConfigurationError("this unit of work has begun already: make a new one, service.unit_of_work(), for each block")
        work = current_work(self._domain)
        if work is not None:
            if self._factory is not None and work.factory is not None and work.factory is not self._factory:
                raise ConfigurationError("this block would join a unit of work of another session factory: leave that one first")
            self._work = work
            return work
        factory = self._domain.factory(self._factory)
        session = factory()
        work = self._work = Work(session, factory)
        if work.sync.in_transaction():
            raise ConfigurationError(
                "the scoped session has a transaction already, which would be committed with this unit of work: end it first"
            )
        work.sync.begin()
        self._root = work.sync.get_transaction()
        self._outermost = True
        self._token = _works.set({**_works.get(), self._domain: work})
        return work

    def _leave(self, error: BaseException | None) -> Work | None:
        """Return what is to be ended, if it is for this block to end it."""
        work = self._inside()
        if error is not None:
            work.fail(error)
        return work if self._outermost else None

    def _may_commit(self, work: Work, error: BaseException | None) -> bool:
        if error is not None or work.failure is not None:
            return False
        if not is_whole(work.sync, self._root):
            raise TransactionEnded(
                "the session of a unit of work was committed, rolled back or closed inside its block, or a database error that has broken its "
                "transaction was swallowed. Leave its end to the block; a part that may fail or be rolled back is session.begin_nested()"
            )
        return True

    def _abandon(self, work: Work) -> None:
        """Leave nothing behind of a beginning that was wrong: a scoped session is the next one's, too. It has no connection yet."""
        self._forget()
        work.sync.close()

    def _forget(self) -> None:
        if self._token is not None:
            _works.reset(self._token)
            self._token = None
        if self._work is not None and self._outermost:
            self._work.closed = True


def can_await() -> bool:
    """Return whether somebody up the stack awaits for us: whether we are called from an `AsyncSession`."""
    return bool(getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False))


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine that has nothing to wait for, without an event loop.

    Raises:
        ConfigurationError: it waits for something.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: R = done.value
        return result
    coroutine.close()
    raise ConfigurationError(
        "something that was called synchronously awaits: in an asynchronous program use `await service.execute(...)`, else write handlers, "
        "validators and behaviours so that they wait for nothing"
    )


def _here() -> tuple[int, Any]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), None if task is None else id(task)
