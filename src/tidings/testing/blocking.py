"""`SyncHarness`: the harness for synchronous tests, on an event loop that runs only while one of its methods does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import orm

from tidings.publish.publish import UNSET
from tidings.testing.crashes import At, CrashPoint
from tidings.testing.reading import Reading
from tidings.testing.views import Views

if TYPE_CHECKING:
    from tidings.stores.sql.store import SQLStore
    from tidings.testing.harness import Harness

__all__ = ["SyncHarness"]

T = TypeVar("T")


class SyncHarness(Views):
    """What `with Harness(service) as t:` gives: the same methods, and nothing to await."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.service = harness.service
        # With a factory of its own the runner leaves the thread's event loop alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    @property
    def store(self) -> SQLStore:
        """The store under test."""
        return self._harness.store

    @property
    def sessionmaker(self) -> orm.sessionmaker[orm.Session]:
        """Makes sessions on the database under test.

        Raises:
            ConfigurationError: the store that was given has an asynchronous engine.
        """
        return self._harness.sync_sessionmaker

    def publish(
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
        """See `Harness.publish`."""
        return self._run(self._harness.publish(event, key=key, delay=delay, at=at, expires=expires, headers=headers))

    def deliver(
        self,
        event: object,
        /,
        *,
        times: int = 1,
        key: Any = UNSET,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """See `Harness.deliver`."""
        return self._run(self._harness.deliver(event, times=times, key=key, expires=expires, headers=headers))

    def drain(self) -> None:
        """See `Harness.drain`."""
        self._run(self._harness.drain())

    def advance(
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
        """See `Harness.advance`."""
        self._run(self._harness.advance(time, days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds))

    def crash(self, at: At, *, subscription: str | None = None, event: type[Any] | None = None) -> CrashPoint:
        """See `Harness.crash`."""
        return self._harness.crash(at, subscription=subscription, event=event)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the harness's event loop, e.g. `t.run(service.operations.redrive())`."""
        return self._run(work)

    def enter(self) -> SyncHarness:
        """Set the service up."""
        self._run(self._harness.__aenter__())
        return self

    def leave(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Put everything back."""
        try:
            self._run(self._harness.__aexit__(kind, error, trace))
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._runner.run(work)
        work.close()
        raise RuntimeError("an event loop is running in this thread: use `async with Harness(service) as t` and await its methods")

    def _read(self) -> Reading:
        return self._harness._read()

    def _put(self) -> set[UUID]:
        return self._harness._put()
