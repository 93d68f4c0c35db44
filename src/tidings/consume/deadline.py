"""Bounding the time of handler calls that follow one another in one task.

`asyncio.timeout` arms a timer for each call and takes it down again, which costs as much as a small handler. Here one timer serves them all:
it is moved on when it fires too early, and fires too late never.
"""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Any, Self

__all__ = ["Deadline"]


class Deadline:
    """Cancels the task that made it when a call takes too long. Each call stands in a `with deadline:` of its own.

    Args:
        seconds: how long one call may take; None for as long as it likes.

    Attributes:
        what: what the call is for, as noted by whoever makes it.
        interrupted: whether a call was ended by `interrupt`.

    Raises:
        TimeoutError: at the end of a `with` block that was cancelled for taking too long, or that swallowed that cancellation.
        asyncio.CancelledError: at the end of a `with` block that swallowed a cancellation of somebody else's, or made another error of it
            (invariant 11).
        RuntimeError: the block was left by a CancelledError although nobody cancelled the task: something that it awaited was cancelled.
    """

    __slots__ = ("_before", "_expired", "_loop", "_seconds", "_task", "_timer", "_when", "interrupted", "what")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline bounds what a task does: make it in one")
        self._task: asyncio.Task[Any] = task
        self._loop = task.get_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.what: Any = None
        self.interrupted = False
        #: When the current call has to end; None between calls.
        self._when: float | None = None
        self._expired = False
        self._before = 0

    def __enter__(self) -> Self:
        self._expired = False
        self._before = self._task.cancelling()
        if self._seconds is None:
            self._when = inf
        else:
            self._when = self._loop.time() + self._seconds
            if self._timer is None:
                self._timer = self._loop.call_at(self._when, self._fire)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._when = None
        cancelling = self._task.cancelling()
        if kind is None and not cancelling and not self._expired:
            return
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        if self._expired:
            cancelling = self._task.uncancel()
            if cancelling <= self._before and (kind is None or cancelled):
                raise TimeoutError from error
        if cancelling and (kind is None or issubclass(kind, Exception)):
            raise asyncio.CancelledError from error
        if cancelled and cancelling == 0:
            raise RuntimeError("the handler ended in CancelledError without having been cancelled") from None

    def close(self) -> None:
        """No call follows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def interrupt(self) -> bool:
        """End the call that is under way as if its time were over; return whether there is one."""
        if self._when is None or self._expired:
            return False
        self._expired = self.interrupted = True
        self._task.cancel()
        return True

    def _fire(self) -> None:
        self._timer = None
        if self._when is None or self._expired:
            return  # between two calls: the next one arms it again
        if self._loop.time() < self._when:
            self._timer = self._loop.call_at(self._when, self._fire)
            return
        self._expired = True
        self._task.cancel()
