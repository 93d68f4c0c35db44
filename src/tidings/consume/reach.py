"""How a process stands with a broker: told to everybody through the store, with patience between its attempts to connect, and an end to that."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from tidings.clock import elapsed
from tidings.consume.failures import printable
from tidings.consume.parking import guarded
from tidings.consume.routing import Compiled
from tidings.consume.tenure import rest
from tidings.consume.tuning import Tuning
from tidings.stores.base import Lease
from tidings.stores.sql.breakers import Told
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Transport
from tidings.transports.urls import address_of

__all__ = ["Reach", "reported", "unless_stopped"]

T = TypeVar("T")

#: Attempts that have to fail, one after the other and for as long as a lease lasts, before another process may try.
_ATTEMPTS = 3


class Reach:
    """What one relay, or one subscriber, knows of its broker.

    Args:
        compiled: the subscription that it is told of.
        transport: the broker's name, for logs.
        stopping: ends all waiting.
    """

    def __init__(
        self, compiled: Compiled, transport: str, store: SQLStore, worker: str, tuning: Tuning, stopping: asyncio.Event, logger: logging.Logger
    ) -> None:  # fmt: skip
        self._compiled = compiled
        self._transport = transport
        self._store = store
        self._worker = worker
        self._tuning = tuning
        self._stopping = stopping
        self._logger = logger
        self._told: str | None = None
        self._down_since: float | None = None
        self._delay = tuning.again
        self._failed = 0
        self._failing_since = 0.0
        self._state: Literal["idle", "connected", "down"] = "idle"
        self._since = datetime.now(UTC)
        #: Called when `report` would say another state.
        self.changed: Callable[[], None] = lambda: None
        self._error: str | None = None
        self._error_at: datetime | None = None

    @property
    def told(self) -> str | None:
        """What was told under this lease: why the broker cannot be used, empty when it can, None for nothing yet."""
        return self._told

    @property
    def hopeless(self) -> bool:
        """Whether attempts have failed so often, and for so long, that another process should have the lease: it may be this one that is cut off."""
        return self._failed >= _ATTEMPTS and elapsed() - self._failing_since >= self._tuning.lease

    def report(self) -> dict[str, str | None]:
        """Return how this process stands with the broker: `idle` while another one has the lease. Times are this computer's."""
        return {
            "label": self._compiled.label, "state": self._state, "since": self._since.isoformat(timespec="milliseconds"), "error": self._error,
            "error_at": None if self._error_at is None else self._error_at.isoformat(timespec="milliseconds"),
        }  # fmt: skip

    def over(self) -> None:
        """The lease is gone, and with it the connection."""
        self._become("idle", datetime.now(UTC))

    def _become(self, state: Literal["idle", "connected", "down"], since: datetime) -> None:
        changed = state != self._state
        self._state, self._since = state, since
        if changed:
            self.changed()

    async def begin(self, lease: Lease) -> None:
        """Take over what was told before this lease: since when the broker is down does not depend on who tries.

        Raises:
            StoreDown: the database cannot be used.
        """
        self._told = self._down_since = None
        self._failed = 0
        found = await guarded(self._store.call(self._store.breakers.told, [self._compiled.id]))
        told = found.get(self._compiled.id)
        if told is not None and told.state is not None:
            self._down_since = elapsed() - told.age
            await self._tell(lease, told.reason or "the reason is not known")

    async def connected(self, lease: Lease) -> None:
        """Tell that there is a connection.

        Raises:
            StoreDown: the database cannot be used.
        """
        if self._down_since is not None:
            self._logger.info(
                "%s: connected again after %.0f s", self._compiled.label, elapsed() - self._down_since, extra={"transport": self._transport}
            )  # fmt: skip
        self._down_since = None
        self._become("connected", datetime.now(UTC))
        await self._tell(lease, None)

    def worked(self) -> None:
        """Something got through: the next outage begins with short pauses, and is counted anew."""
        self._delay = self._tuning.again
        self._failed = 0

    async def failed(self, lease: Lease, error: Exception) -> None:
        """Tell that there is no connection any more, and wait before the next attempt.

        Raises:
            StoreDown: the database cannot be used.
        """
        now = elapsed()
        if not self._failed:
            self._failing_since = now
        self._failed += 1
        if self._down_since is None:
            self._down_since = now
        reason = printable(" ".join(str(error).split()) or type(error).__name__, 300)
        self._error, self._error_at = reason, datetime.now(UTC)
        self._become("down", self._error_at - timedelta(seconds=now - self._down_since))
        delay = self._delay * random.uniform(0.5, 1.0)
        self._delay = min(self._delay * 2, self._tuning.again_longest)
        self._logger.warning(
            "%s: the broker cannot be used: %s; trying again in %.1f s", self._compiled.label, reason, delay, extra={"transport": self._transport}
        )  # fmt: skip
        await self._tell(lease, reason)
        await rest(delay, self._stopping)

    async def stand_back(self) -> None:
        """Leave the lease, which is given up, to others for a while: they look for it three times within its length."""
        seconds = self._tuning.lease * random.uniform(0.6, 1.0)
        self._logger.warning(
            "%s: the lease is given up for %.1f s: another process may reach the broker", self._compiled.label, seconds,
            extra={"transport": self._transport},
        )  # fmt: skip
        await rest(seconds, self._stopping)

    async def _tell(self, lease: Lease, reason: str | None) -> None:
        if self._told == (reason or ""):
            return
        self._told = reason or ""
        age = elapsed() - (self._down_since or elapsed())
        told = Told(None, 0.0, "", None) if reason is None else Told("open", age, reason, self._worker)
        await guarded(self._store.call(self._store.breakers.tell, lease, self._compiled.id, told))


def reported(brokers: Iterable[Transport], reaches: Iterable[tuple[Transport, Reach]]) -> str:
    """Return how this process stands with each broker, as `stores.sql.brokers` reads it."""
    held = list(reaches)
    return json.dumps([
        {
            "name": transport.name, "kind": type(transport).__name__, "address": printable(address_of(transport), 500),
            "links": [reach.report() for where, reach in held if where is transport],
        }
        for transport in brokers
    ])  # fmt: skip


async def unless_stopped(work: Coroutine[Any, Any, T], stopping: asyncio.Event) -> T | None:
    """Return what this returns, or None when told to stop: a broker that does not answer may keep us waiting for long."""
    async with asyncio.TaskGroup() as tasks:
        task, stopped = tasks.create_task(_outcome(work)), tasks.create_task(stopping.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            return None
    found = task.result()
    if isinstance(found, Exception):
        raise found
    return found


async def _outcome(work: Coroutine[Any, Any, T]) -> T | Exception:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - it is raised again, out of the task group
        return error
