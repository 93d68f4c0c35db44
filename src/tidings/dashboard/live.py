"""The stream that tells an open page when there is something new: server-sent events, one query for all listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from starlette.responses import Response, StreamingResponse

from tidings.clock import elapsed
from tidings.dashboard.call import Call
from tidings.dashboard.desk import Desk
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql

__all__ = ["live"]

#: Seconds between two looks, and after which a stream ends: the browser comes again, and a server that stops does not wait for long.
_PAUSE = 2.0
_LONGEST = 20.0


class _Pulse:
    """The state of the store as one text, asked for at most every two seconds however many listen."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._turn = asyncio.Lock()
        self._at = -_PAUSE
        self._last = ""

    async def now(self) -> str:
        """Return the text; it differs when something has happened."""
        async with self._turn:
            if elapsed() - self._at >= _PAUSE * 0.9:
                self._last = await self._desk.ask(self._look)
                self._at = elapsed()
            return self._last

    def _look(self, connection: Connection) -> str:
        names = self._desk.store.names
        newest = (
            (names.outbox, "max(position)"), (names.deliveries, "max(number)"), (names.audit, "max(number)"), (names.stats, "max(bucket)"),
            (names.checkpoints, "max(moved_at)"), (names.workers, "max(seen_at)"),
        )  # fmt: skip
        columns = ", ".join(f"(select {what} from {table})" for table, what in newest)
        return repr(run(connection, Command(Sql(f"select {columns}"), ())))


_pulses: WeakKeyDictionary[Desk, _Pulse] = WeakKeyDictionary()


async def live(call: Call) -> Response:
    """Answer with a stream of `tick` events."""
    pulse = _pulses.setdefault(call.desk, _Pulse(call.desk))

    async def stream() -> AsyncIterator[str]:
        yield "retry: 1000\n\n"
        seen = await pulse.now()
        end = elapsed() + _LONGEST
        while elapsed() < end:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE):
                    await call.desk.closing.wait()
                    return
            fresh = await pulse.now()
            # A comment keeps proxies from closing the connection.
            yield ": \n\n" if fresh == seen else "event: tick\ndata: 1\n\n"
            seen = fresh

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"})
