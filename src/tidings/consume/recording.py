"""Writing down the calls of plain handlers soon after they were made.

A plain handler has no transaction that its inbox row could be part of, so a crash between the call and the row repeats the call. How many
there are is bounded twice: by number, over all workers of a subscription, and by time. All of them share one statement, and while it runs
they go on calling, as group commit does for transactions. A second statement may be under way beside it, but not with calls of the same key:
were the later one written down and not the earlier, a crash would repeat the earlier alone, and its effect would be the last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from tidings.consume.execution import StoreDown
from tidings.consume.parking import to_its_end
from tidings.consume.received import Received

__all__ = ["UNRECORDED", "Recorder", "Recording"]

P = TypeVar("P")

#: Most calls that are under way, or made and not yet written down, per subscription: what a crash repeats.
UNRECORDED = 50
#: After so many calls they are written down at once.
_ENOUGH = UNRECORDED // 2
#: Most statements that are under way at a time: while one waits for the disk, the calls that it has left room for are made and written by the other.
_AT_ONCE = 2
#: Seconds after which a call is written down even if the next one takes long.
_SECONDS = 0.1
#: Most seconds between two tries while the database is away.
_LONGEST = 1.0


class Recorder(Generic[P]):
    """The calls of all workers of a subscription that are to be written down.

    Args:
        write: writes the inbox rows of some events; they come with the portions that they belong to.
        most: how many calls may be under way or unwritten at a time.
    """

    def __init__(self, write: Callable[[Sequence[tuple[P, list[Received]]]], Coroutine[Any, Any, None]], most: int = UNRECORDED) -> None:
        self._write = write
        self._free = most
        self._done: dict[Recording[P], list[Received]] = {}
        #: Of what keys calls are being written down, and how many of the others can be.
        self._keys: set[str] = set()
        self._count = 0
        self._wanted = False
        self._writing: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: Who waits for his calls to be written, and who for room, the first first.
        self._flushing: list[asyncio.Future[None]] = []
        self._queue: deque[asyncio.Future[None]] = deque()

    def recording(self, portion: P) -> Recording[P]:
        """Return what a worker notes the calls of one portion in."""
        return Recording(self, portion)

    def take(self) -> bool:
        """Take room for one call, if there is any."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self, calls: int) -> None:
        """Make room for others: these calls are written down, or need not be."""
        self._free += calls
        self.wake_next()

    def add(self, recording: Recording[P], received: Received) -> None:
        """A call was made."""
        self._done.setdefault(recording, []).append(received)
        if received.key not in self._keys:
            self._count += 1
        if self._count == _ENOUGH:
            self.write_soon()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    def write_soon(self) -> None:
        """Write down what was done, as soon as what is being written is written, or beside it if that is worth a statement."""
        self._wanted = True
        if self._done and (not self._writing or self._worth_another()):
            self._writing.add(asyncio.ensure_future(self._run()))

    async def changed(self) -> None:
        """Wait until something is written, or could not be."""
        waiter = asyncio.get_running_loop().create_future()
        self._flushing.append(waiter)
        await waiter

    async def freed(self) -> None:
        """Wait until there may be room, or something could not be written. One after another: who comes first would take all of it."""
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake_next()
            raise

    def wake_next(self) -> None:
        """Let the next one who waits for room look, if there is any."""
        queue = self._queue
        while queue and self._free > 0:
            waiter = queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def close(self) -> None:
        """Write nothing more: the workers have gone, and what they could not write in their time is called again."""
        self._done.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing:
            for task in self._writing:
                task.cancel()
            await asyncio.wait(self._writing)

    def _worth_another(self) -> bool:
        return self._count >= _ENOUGH and len(self._writing) < _AT_ONCE

    def _due(self) -> None:
        self._timer = None
        self.write_soon()

    async def _run(self) -> None:
        delay = _SECONDS
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._wanted and self._done and (len(self._writing) == 1 or self._count >= _ENOUGH):
                self._wanted = False
                done = self._choose()
                keys = {event.key for events in done.values() for event in events if event.key is not None}
                self._keys |= keys
                self._count = 0
                kept = False
                try:
                    await self._write([(recording.portion, events) for recording, events in done.items()])
                except BaseException as error:
                    self._settled(keys)
                    for recording, events in done.items():
                        kept = self._failed(recording, events, error) or kept
                    if not isinstance(error, Exception):
                        raise
                else:
                    self._settled(keys)
                    delay = _SECONDS
                    for recording, events in done.items():
                        recording.written(len(events))
                        self._free += len(events)
                self._wake()
                if kept:
                    # Whoever waits for room only cannot be told, and would ask a database that is away again and again.
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST)
                    self._wanted = True
        finally:
            self._writing.discard(task)
            self._wake()
            if self._done and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    def _choose(self) -> dict[Recording[P], list[Received]]:
        """Take out what can be written down: everything, but not beside earlier calls of the same key."""
        if not self._keys:
            done, self._done = self._done, {}
            return done
        done, later = {}, {}
        for recording, events in self._done.items():
            if chosen := [event for event in events if event.key not in self._keys]:
                done[recording] = chosen
            if len(chosen) < len(events):
                later[recording] = [event for event in events if event.key in self._keys]
        self._done = later
        return done

    def _settled(self, keys: set[str]) -> None:
        self._keys -= keys
        self._count = sum(event.key not in self._keys for events in self._done.values() for event in events)
        if self._count >= _ENOUGH:
            self._wanted = True

    def _failed(self, recording: Recording[P], events: list[Received], error: BaseException) -> bool:
        """Tell whose calls could not be written down; return whether they are kept to be tried again instead."""
        if isinstance(error, StoreDown) and not recording.waiting:
            # Perhaps the database can be used again by the time that somebody waits for it.
            later = self._done.get(recording, [])
            self._done[recording] = events + later
            self._count += len(events)
            return True
        # Later calls of these keys are made again behind them: written down alone, they would leave an older effect as the last.
        keys = {event.key for event in events if event.key is not None}
        later = self._done.pop(recording, [])
        if kept := [event for event in later if event.key not in keys]:
            self._done[recording] = kept
        lost = len(later) - len(kept)
        self._count -= lost
        recording.written(len(events) + lost, error)
        self._free += len(events) + lost
        # Whose calls these were may stand anywhere in the queue, and is to be told.
        self._flushing += self._queue
        self._queue.clear()
        return False

    def _wake(self) -> None:
        flushing, self._flushing = self._flushing, []
        for waiter in flushing:
            if not waiter.done():
                waiter.set_result(None)
        self.wake_next()


class Recording(Generic[P]):
    """The calls that a worker makes of one portion of events. Every `take` or `room` needs an `add` or a `drop`.

    Attributes:
        portion: what the events belong to.
        waiting: whether the worker waits for its calls to be written, and can be told that they are not.
    """

    __slots__ = ("_error", "_recorder", "_unwritten", "portion", "take", "waiting")

    def __init__(self, recorder: Recorder[P], portion: P) -> None:
        self.portion = portion
        self.waiting = False
        self._recorder = recorder
        self._unwritten = 0
        self._error: BaseException | None = None
        self.take = recorder.take

    async def room(self) -> None:
        """Wait for room for one more call.

        Raises:
            StoreDown, LeaseLost: what was done before could not be written down; who has made these calls makes them again.
        """
        while self._error is None and not self.take():
            await self._wait(self._recorder.freed)
        # There may be room for others, too.
        self._recorder.wake_next()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def add(self, received: Received) -> None:
        """The call was made, and is to be written down."""
        self._unwritten += 1
        self._recorder.add(self, received)

    def drop(self) -> None:
        """The call was not made, or will be written down by somebody else."""
        self._recorder.give_back(1)

    async def flush(self) -> None:
        """Wait until all of these calls are written down.

        Raises:
            StoreDown, LeaseLost: it could not be done; who has made these calls makes them again.
        """
        while self._unwritten and self._error is None:
            await self._wait(self._recorder.changed)
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    async def close(self) -> None:
        """Flush, also when the worker was cancelled: these calls have been made, and would be made again."""
        if self._unwritten or self._error is not None:
            await to_its_end(self.flush())

    def written(self, calls: int, error: BaseException | None = None) -> None:
        """So many of the calls are written down, or cannot be."""
        self._unwritten -= calls
        self._error = self._error or error

    async def _wait(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.waiting = True
        try:
            self._recorder.write_soon()
            await change()
        finally:
            self.waiting = False
