"""Which handlers of a process run beside one another: one that may end the process is run alone, so that nobody else is taken for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tidings.clock import elapsed

__all__ = ["ALONE_SECONDS", "Company", "Stay"]

#: Seconds between two looks at whether everybody else has finished. Only in a process whose predecessors were killed.
_LOOK = 0.01
#: Seconds for which somebody is alone at most.
ALONE_SECONDS = 8.0


@dataclass(slots=True)
class Stay:
    """Somebody's time alone.

    Attributes:
        alone: whether it lasts.
    """

    alone: bool = True


class Company:
    """Everything that handles events in one process.

    Attributes:
        reserved: whether somebody is alone, or about to be: nothing new begins.
    """

    def __init__(self) -> None:
        self.reserved = False
        self._busy: list[Callable[[], bool]] = []
        self._present = 0
        self._turn = asyncio.Lock()
        self._over = asyncio.Event()

    def join(self, busy: Callable[[], bool]) -> Callable[[], None]:
        """Add somebody who says when it is busy, and begins nothing while `reserved`; returns what removes it."""
        self._busy.append(busy)
        return lambda: self._busy.remove(busy)

    async def over(self) -> None:
        """Wait until nobody is alone."""
        while self.reserved:
            await self._over.wait()

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """Run something beside others."""
        await self.over()
        self._present += 1
        try:
            yield
        finally:
            self._present -= 1

    @asynccontextmanager
    async def alone(self, seconds: float = ALONE_SECONDS) -> AsyncIterator[Stay]:
        """Run something while nothing else does, for at most `seconds`: then others go on, as a slow event holds back its own key only.

        If others do not end within that time either, it has company from the beginning.
        """
        await self._turn.acquire()
        self.reserved = True
        self._over.clear()
        stay = Stay()

        def end() -> None:
            stay.alone = False
            self._present += 1
            self._end()

        timer: asyncio.TimerHandle | None = None
        try:
            deadline = elapsed() + seconds
            while self._others():
                if elapsed() >= deadline:
                    break
                await asyncio.sleep(_LOOK)
            if self._others():
                end()
            else:
                timer = asyncio.get_running_loop().call_later(seconds, end)
            yield stay
        finally:
            if timer is not None:
                timer.cancel()
            if stay.alone:
                self._end()
            else:
                self._present -= 1

    def _others(self) -> bool:
        return self._present > 0 or any(busy() for busy in self._busy)

    def _end(self) -> None:
        self.reserved = False
        self._over.set()
        self._turn.release()
