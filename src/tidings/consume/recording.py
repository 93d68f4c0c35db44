"""Writing down the calls of plain handlers soon after they were made.

A plain handler has no transaction that its inbox row could be part of, so a crash between the call and the row repeats the call. How many
there are is bounded twice: by number, over all workers of a subscription, and by time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidings.consume.execution import StoreDown
from tidings.consume.parking import to_its_end
from tidings.consume.received import Received

__all__ = ["PORTION", "UNRECORDED", "Recording"]

#: Most calls that are made and not yet written down, per subscription: what a crash repeats.
UNRECORDED = 50
#: Most of them that one worker makes: while one writes, another calls. Shared out any finer, each would write two or three rows at a time.
PORTION = UNRECORDED // 2
#: Seconds after which a call is written down even if the next one takes long.
_SECONDS = 0.1


class Recording:
    """The calls of one worker that are to be written down.

    Args:
        write: writes the inbox rows of some events.
        may_write: whether that may begin now, while a handler runs; asked again soon if not.
        most: how many calls may be made before they are written down.
    """

    def __init__(self, write: Callable[[list[Received]], Coroutine[Any, Any, None]], may_write: Callable[[], bool], most: int) -> None:
        self._write = write
        self._may_write = may_write
        self._most = most
        self._done: list[Received] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def room(self) -> None:
        """Make room for one more call.

        Raises:
            StoreDown, LeaseLost: what was done before could not be written down; who has made these calls makes them again.
        """
        if self._writing is not None or len(self._done) >= self._most:
            await to_its_end(self.flush())

    def add(self, received: Received) -> None:
        """A call was made."""
        self._done.append(received)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    async def flush(self) -> None:
        """Write down everything now.

        Raises:
            StoreDown, LeaseLost: it could not be done; who has made these calls makes them again.
        """
        if self._writing is not None:
            try:
                await self._writing
            finally:
                # Only now: what comes due meanwhile is written below, and not by a task that nobody awaits.
                self._writing = None
        if self._done:
            done, self._done = self._done, []
            await self._write(done)

    async def close(self) -> None:
        """Write down the rest, also when the worker was cancelled: these calls have been made, and would be made again."""
        try:
            if self._done or self._writing is not None:
                await to_its_end(self.flush())
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _due(self) -> None:
        self._timer = None
        if not self._done or self._writing is not None:
            return  # all is written, or about to be
        if self._may_write():
            done, self._done = self._done, []
            self._writing = asyncio.ensure_future(self._write_meanwhile(done))
        else:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS / 10, self._due)

    async def _write_meanwhile(self, done: list[Received]) -> None:
        try:
            await self._write(done)
        except StoreDown:
            # Perhaps it can be used again by the time that somebody waits for it.
            self._done = done + self._done
