"""The stream that tells an open page when there is something new: server-sent events, one query for all listeners.

A page says what was the newest when it was made, and a browser that comes again what it was told last (Last-Event-ID, of the HTML standard's
server-sent events): nothing that happens between a page and its stream, or between two streams, is missed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from starlette.responses import Response, StreamingResponse

from tidings.clock import elapsed
from tidings.dashboard.call import Call, Endpoint
from tidings.dashboard.desk import Desk
from tidings.dashboard.outage import DatabaseDown
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql

__all__ = ["followed", "live"]

logger = logging.getLogger("tidings.dashboard")

#: Seconds between two looks, and after which a stream ends: the browser comes again, and a server that stops does not wait for long.
_PAUSE = 2.0
_LONGEST = 20.0


class _Pulse:
    """The state of the store as one short text, asked for at most every two seconds however many listen."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turn = asyncio.Lock()
        self._at = -_PAUSE
        self._last = ""
        self._down: str | None = None

    async def now(self) -> str:
        """Return the text; it differs when something has happened.

        Raises:
            DatabaseDown: it cannot be known, or could not be a moment ago: a connection that nobody answers is not waited for by each listener.
        """
        async with self._turn:
            if elapsed() - self._at >= _PAUSE * 0.9:
                self._down = None
                try:
                    self._last = await self._desk.ask(self._look)
                except DatabaseDown as error:
                    self._down = str(error)
                self._at = elapsed()
            if self._down is not None:
                raise DatabaseDown(self._down)
            return self._last

    def _look(self, connection: Connection) -> str:
        names = self._desk.store.names
        newest = (
            (names.outbox, "max(position)"), (names.deliveries, "max(number)"), (names.audit, "max(number)"), (names.stats, "max(bucket)"),
            (names.checkpoints, "max(moved_at)"), (names.workers, "max(seen_at)"),
        )  # fmt: skip
        columns = ", ".join(f"(select {what} from {table})" for table, what in newest)
        state = repr(run(connection, Command(Sql(f"select {columns}"), ())))
        return hashlib.blake2b(state.encode(), digest_size=8).hexdigest()


_pulses: WeakKeyDictionary[Desk, _Pulse] = WeakKeyDictionary()


def _pulse_of(desk: Desk) -> _Pulse:
    return _pulses.setdefault(desk, _Pulse(desk))


def followed(endpoint: Endpoint) -> Endpoint:
    """Return the endpoint of a page that says what was the newest before it was made."""

    async def answer(call: Call) -> Response:
        call.seen = await _pulse_of(call.desk).now()
        return await endpoint(call)

    return answer


async def live(call: Call) -> Response:
    """Answer with a stream of events, one every two seconds, the first at once.

    `tick` says that something has happened since what the page or the browser has seen, `beat` that nothing has, and `down` that nobody
    can know, because the database cannot be reached.
    """
    pulse = _pulse_of(call.desk)
    known = call.request.headers.get("last-event-id") or call.request.query_params.get("seen")

    async def stream() -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        seen, down = known, False
        end = elapsed() + _LONGEST
        while elapsed() < end:
            try:
                fresh = await pulse.now()
            except DatabaseDown as error:
                if not down:
                    logger.warning("%s %s: %s", call.request.method, call.request.scope["path"], error)
                down = True
                yield "event: down\ndata: 1\n\n"
            else:
                yield f"event: tick\nid: {fresh}\ndata: 1\n\n" if seen and fresh != seen else "event: beat\ndata: 1\n\n"
                seen, down = fresh, False
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await call.desk.closing.wait()
                    return

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"})
