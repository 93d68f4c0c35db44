"""Writing down the calls of plain handlers soon after they were made, while the next ones run.

A plain handler has no transaction that its inbox row could be part of, so a crash between the call and the row repeats the call. How many
there are is bounded twice: by number, over all workers of a subscription, and by time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidings.consume.parking import to_its_end
from tidings.consume.received import Received

__all__ = ["UNRECORDED", "Recording"]

#: Most calls that are made and not yet written down, per subscription: what a crash repeats.
UNRECORDED = 50
#: How many calls are written down together at most: half of the bound, so that calls go on while the other half is written.
_PORTION = UNRECORDED // 2
#: Seconds after which a call is written down even if the next one takes long.
_SECONDS = 0.1


class Recording:
    """The calls of one worker that are to be written down.

    Args:
        write: writes the inbox rows of some events.
        may_write: whether that may begin now, on its own account; asked again soon if not.
        bound: how many calls of the subscription may still be made before some are written down.
    """

    def __init__(
        self, write: Callable[[list[Received]], Coroutine[Any, Any, None]], may_write: Callable[[], bool], bound: asyncio.Semaphore
    ) -> None:
        self._write = write
        self._may_write = may_write
        self._bound = bound
        self._done: list[Received] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def room(self) -> None:
        """Wait until one more call may be made. It is then either added or given back.

        Raises:
            StoreDown, LeaseLost: what was done before could not be written down.
        """
        if self._writing is not None and self._writing.done():
            await self._written()
        if self._bound.locked():
            await self.flush()
        await self._bound.acquire()

    def give_back(self) -> None:
        """The call needs no row of its own: it did not take place, or it failed and was parked."""
        self._bound.release()

    def add(self, received: Received) -> None:
        """The call was made."""
        self._done.append(received)
        if len(self._done) >= _PORTION:
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    async def flush(self) -> None:
        """Write down everything now.

        Raises:
            StoreDown, LeaseLost: it could not be done; who has made these calls makes them again.
        """
        await self._written()
        while self._done:
            self._start()
            await self._written()

    async def close(self) -> None:
        """Write down the rest, also when the worker was cancelled: these calls have been made, and would be made again."""
        try:
            await to_its_end(self.flush())
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for _ in self._done:
                self._bound.release()
            self._done = []

    def _due(self) -> None:
        self._timer = None
        if not self._done or self._writing is not None:
            return  # what is written next takes it along, or starts the clock anew
        if self._may_write():
            self._start()
        else:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS / 10, self._due)

    def _start(self) -> None:
        if self._writing is None and self._done:
            events, self._done = self._done[:_PORTION], self._done[_PORTION:]
            self._writing = asyncio.ensure_future(self._run(events))

    async def _run(self, events: list[Received]) -> None:
        try:
            await self._write(events)
        finally:
            for _ in events:
                self._bound.release()
            if self._done and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    async def _written(self) -> None:
        """Wait for what is being written now; raise what it raised."""
        writing = self._writing
        if writing is None:
            return
        try:
            await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None
