"""`Harness`: a user's service under test, on a database of its own, run step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from sqlalchemy import Connection, MetaData, orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tidings.publish.context import current_envelope
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import UNSET
from tidings.stores.sql.driver import run
from tidings.stores.sql.store import SQLStore
from tidings.testing.ageing import age
from tidings.testing.crashes import At, CrashPoint, Died, Fate
from tidings.testing.process import Process
from tidings.testing.reading import Reading, pending
from tidings.testing.settling import NotSettled, busy, circle
from tidings.testing.stage import Stage
from tidings.testing.views import Views

if TYPE_CHECKING:
    from tidings.service import Service
    from tidings.testing.blocking import SyncHarness

__all__ = ["Harness"]

#: Most steps of one drain: events that cause one another in a longer chain are taken for a circle.
_STEPS = 100
#: Most times that something falls due in one advance.
_TURNS = 1000


class Harness(Views):
    """Runs a service in a test: `async with Harness(service) as tidings:`; `with` in a synchronous test.

    Inside the block the service belongs to the harness: `service.publish` goes to its database, and starting the service, e.g. by the
    application's lifespan, reads nothing. Handlers run when a method of the harness is awaited, and never in between.

    Args:
        service: the service, which must not be running.
        store: whose database to use, e.g. `service.store`; its tables are made if they are missing. None is a new SQLite file, which is
            removed afterwards.
        tables: the user's own tables, made in that database if they are missing.
        provide: what handlers get instead of what `service.provide` has; values as there.
        concurrent: let handlers run side by side and share transactions, as in production, and not one by one in an order without chance.
        timeout: the most seconds that a drain may take.
        directory: where the new SQLite file is made; a temporary directory of its own unless given.
    """

    def __init__(
        self,
        service: Service,
        *,
        store: SQLStore | None = None,
        tables: MetaData | Sequence[MetaData] = (),
        provide: Mapping[Any, Any] | None = None,
        concurrent: bool = False,
        timeout: float = 10.0,
        directory: Path | None = None,
    ) -> None:
        self.service = service
        self._concurrent = concurrent
        self._timeout = timeout
        self._stage = Stage(service, store, tables, provide or {}, directory)
        self._fate = Fate()
        self._process: Process | None = None
        self._reading: Reading | None = None
        self._delivered: set[UUID] = set()
        self._lock = asyncio.Lock()
        self._blocking: SyncHarness | None = None

    async def __aenter__(self) -> Self:
        await self._stage.set()
        after = (await self.store.call(pending, self.store)).end
        self._reading = Reading(self.service, self.store, self._stage.eyes, after, self._fate.attempts)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._reading = None
        self._end()
        await self._stage.clear()
        if kind is None and self._fate.armed is not None:
            self._fate.armed.check()

    def __enter__(self) -> SyncHarness:
        from tidings.testing.blocking import SyncHarness

        self._blocking = SyncHarness(self)
        return self._blocking.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._blocking is not None
        self._blocking.leave(kind, error, trace)

    @property
    def store(self) -> SQLStore:
        """The store under test."""
        return self._stage.store

    @property
    def sessionmaker(self) -> async_sessionmaker[AsyncSession]:
        """Makes asynchronous sessions on the database under test; the same object each time.

        Raises:
            ConfigurationError: the store that was given has a synchronous engine.
        """
        return self._stage.sessions

    @property
    def sync_sessionmaker(self) -> orm.sessionmaker[orm.Session]:
        """Makes synchronous sessions on the database under test; the same object each time.

        Raises:
            ConfigurationError: the store that was given has an asynchronous engine.
        """
        return self._stage.sync_sessions

    async def publish(
        self,
        event: object,
        /,
        *,
        key: Any = UNSET,
        delay: timedelta | None = None,
        at: datetime | None = None,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Publish an event in a transaction of its own, as the application would; nothing is handled yet. Return its id.

        Raises:
            InvalidEvent: the event does not fit its contract; see `Service.publish`.
        """
        self._read()
        outgoing = self.service.publisher.prepare(event, key=key, delay=delay, at=at, expires=expires, headers=headers)
        await self._insert(outgoing)
        return outgoing.id

    async def deliver(
        self,
        event: object,
        /,
        *,
        times: int = 1,
        key: Any = UNSET,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Let an event come in, and handle it and everything that it causes. Return its id.

        A handler's failure is not raised: it is in `retrying` or `dead`, as in production.

        Args:
            times: how many copies of the event come, one after the other; a subscription has to apply it once.

        Raises:
            InvalidEvent: the event does not fit its contract.
            NotSettled: the handlers did not come to an end.
        """
        if times < 1:
            raise ValueError(f"deliver(times={times}): give at least 1")
        self._read()
        outgoing = self.service.publisher.prepare(event, key=key, expires=expires, headers=headers)
        self._delivered.add(outgoing.id)
        for _ in range(times):
            await self._insert(outgoing)
            await self.drain()
        return outgoing.id

    async def drain(self) -> None:
        """Handle what is in the log, what that causes, and the retries and scheduled events that are due, until all is quiet.

        After a crash this is the restart: the dead process's leases have run out.

        Raises:
            NotSettled: it did not become quiet within the time limit, or events go on causing events.
        """
        async with self._alone():
            await self._settle()

    async def advance(
        self,
        time: timedelta = timedelta(0),
        /,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
    ) -> None:
        """Let time pass for the store, and handle what falls due, each at its time: retries, scheduled events, what expires.

        The clock on the wall stays. What the store remembers becomes older instead, so that leases run out, too; times that envelopes show
        are older afterwards.

        Raises:
            ValueError: the time is negative.
            NotSettled: see `drain`.
        """
        left = time + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        if left < timedelta(0):
            raise ValueError(f"advance({left}): time does not go back")
        async with self._alone():
            await self._settle()
            for _ in range(_TURNS):
                due = None if self._process is None else await self._process.due_in()
                step = left if due is None else min(left, timedelta(milliseconds=ceil(due * 1000)))
                await self.store.transact(age, self.store, step)
                await self._settle()
                left -= step
                if left <= timedelta(0):
                    return
        raise NotSettled(f"something fell due {_TURNS} times, with {left} still to go\n{self.picture()}")

    def crash(self, at: At, *, subscription: str | None = None, event: type[Any] | None = None) -> CrashPoint:
        """Let the process die at a point of the next handler that succeeds. `drain` and the like return then; the next drain is the restart.

        As a context manager it fails if the process did not die in the block: `with t.crash(at="before_commit"): await t.deliver(...)`.
        Otherwise the harness does so in the end.

        Args:
            at: `after_handler_before_close`: the handler has returned, nothing else has happened. `before_commit`: everything is written
                but COMMIT. `after_commit_before_checkpoint`: the effects are there, and the reader will read the event again.
                A handler without transaction (an e-mail) dies before its inbox row is written at the first two.
            subscription: only in this one.
            event: only with an event of this class.

        Raises:
            ValueError: there is no such point.
            RuntimeError: it is to die somewhere else first.
        """
        if self._fate.armed is not None:
            raise RuntimeError(f"the process is to die {self._fate.armed} already: a process dies once")
        self._fate.armed = CrashPoint(self._fate, at, subscription, event)
        return self._fate.armed

    async def _insert(self, outgoing: Outgoing) -> None:
        def insert(connection: Connection) -> None:
            for command in self.store.publishing.publish([outgoing]):
                run(connection, command)

        await self.store.transact(insert)

    async def _settle(self) -> None:
        process = await self._alive()
        first = (await self.store.call(pending, self.store)).end
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                if await process.settle(_STEPS):
                    return
        except Died:
            self._end()
            return
        except TimeoutError:
            if not limit.expired():
                raise
            raise NotSettled(f"not quiet after {self._timeout:g} s: {busy(self._fate)}\n{self.picture()}") from None
        finally:
            await self._stage.callbacks()
        raise NotSettled(f"not quiet after {_STEPS} steps: {circle(self._read().log(), first)}\n{self.picture()}")

    async def _alive(self) -> Process:
        if self._process is None:
            self._process = Process(self._stage.runtime, self._fate, concurrent=self._concurrent)
            await self._process.take_over()
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        self._read()
        if current_envelope.get() is not None:
            raise RuntimeError("a handler cannot wait for all handlers to finish: drain in the test")
        async with self._lock:
            yield

    def _read(self) -> Reading:
        if self._reading is None:
            raise RuntimeError("the harness works inside its block: async with Harness(service) as t")
        return self._reading

    def _put(self) -> set[UUID]:
        return self._delivered
