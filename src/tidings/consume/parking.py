"""Parking: what is written down of an event that failed, and of a lane whose head failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from sqlalchemy import Connection

from tidings.consume.execution import Failed, StoreDown
from tidings.consume.failures import failure_of, printable, remember
from tidings.consume.outcome import Outcome
from tidings.consume.received import Received
from tidings.consume.routing import Compiled
from tidings.errors import CircularChain, LeaseLost, TransportDown
from tidings.stores.base import Claimed, Failure, Parking
from tidings.stores.sql.errors import UNAVAILABLE, said_by
from tidings.stores.sql.store import SQLStore

__all__ = ["guarded", "parking", "record_failure", "refusal", "to_its_end", "undecodable"]

R = TypeVar("R")

#: Most characters of a key that a delivery keeps: every key that can be published, so that a handler sees it again as it was.
MAX_KEY = 1024

logger = logging.getLogger("tidings.consume")

#: Seconds that something already under way may take once its task was cancelled.
_SECONDS = 5.0


def record_failure(
    connection: Connection, store: SQLStore, compiled: Compiled, lane: Claimed, event_key: str, history: str, failed: Failed, reason: str
) -> None:
    """Write down that the head of a claimed lane failed, say when the lane is due again, and give its lease up.

    Raises:
        LeaseLost: another worker has the lane.
    """
    decision = failed.decision
    lost = LeaseLost(f"another worker has the lane of key {lane.key!r} now")
    aside = decision.state == "dead" and compiled.options.on_dead == "continue" and lane.lane.replace("-", "") != event_key.replace("-", "")
    if aside:
        if not store.lanes.detach(connection, lane, event_key, failed.number):
            raise lost
        # Its key goes on without it: a copy that is read again must not run out of order.
        store.inbox.record(connection, compiled.id, [event_key], Outcome.DEAD)
    elif not store.lanes.release(connection, lane, state=decision.state, attempts=failed.number, delay=decision.delay):
        raise lost
    store.lanes.explain(
        connection, lane, event_key, reason, failed.number, remember(history, failed.number, failed.failure), failed.failure
    )


def parking(received: Received, lane: str, reason: str, **rest: Any) -> Parking:
    """Return a received event as it is parked: bytes as they came, text bounded and printable."""
    return Parking(
        received.event_key, lane, None if received.key is None else printable(received.key, MAX_KEY), printable(received.id, 255),
        printable(received.source, 255), printable(received.name, 255), received.version, printable(received.topic, 255), received.time,
        received.sequence, _bytes(received.headers), _bytes(received.data), reason, **rest,
    )  # fmt: skip


async def guarded(work: Awaitable[R]) -> R:
    """Await work of ours on the store.

    Raises:
        StoreDown: the database could not be used.
    """
    try:
        return await work
    except UNAVAILABLE as error:
        raise StoreDown(f"the database cannot be used: {said_by(error)}") from error


def noticed(store: SQLStore, part: str, error: Exception, **fields: str) -> None:
    """Say that a part of the service cannot go on for now, and tries again: once for a database that all of them cannot use."""
    if isinstance(error, TransportDown):
        logger.warning("%s: %s", part, error, extra=fields)
    else:
        store.outages.met(part, error, fields)


async def to_its_end(work: Coroutine[Any, Any, R]) -> R:
    """Await work that must not be broken off: what it writes down has happened. A cancellation comes out when it is done, or takes too long."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_SECONDS)
        if not task.done():
            task.cancel()
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.info("what was done could not be written down before we were stopped: %s", error)
        raise


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def refusal(error: Exception) -> str:
    """Return the reason for which a delivery is dead whose event is never given to its handlers."""
    return "cycle" if isinstance(error, CircularChain) else "undecodable"


def undecodable(compiled: Compiled, received: Received, error: Exception) -> Failure | None:
    """Return why an event that could not be decoded, or has come in a circle, is dead; None when it only waits for code that knows its version."""
    if not isinstance(error, KeyError):
        return failure_of(error)
    if isinstance(received.version, int) and received.version > compiled.newest.get(received.name, 0):
        return None
    known = ", ".join(str(version) for name, version in compiled.routes if name == received.name)
    message = f"version {received.version} of {received.name!r} is unknown here; known: {known}"
    return Failure("tidings.errors.DecodeError", printable(message, 2000), "", "unknown-version")
