"""Lanes in memory: per-key order with concurrency across keys, fair to all keys. Pure logic, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

__all__ = ["Lanes"]

T = TypeVar("T")


class _Lane(Generic[T]):
    __slots__ = ("items", "key")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.items: deque[T] = deque()


class Lanes(Generic[T]):
    """What waits for one subscription. Invariant 5: a lane belongs to one taker at a time, and gives its items in order.

    Lanes that are free to run wait in one queue and are served in turn, so that a key with many events does not hold up the others.
    An item without key is a lane of its own.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, _Lane[T]] = {}
        self._ready: deque[_Lane[T] | T] = deque()
        self.waiting = 0

    def __len__(self) -> int:
        """Return how many items wait, whether they may run now or not."""
        return self.waiting

    @property
    def ready(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._ready)

    @property
    def free(self) -> int:
        """How many lanes `take` could take from."""
        return len(self._ready)

    def add(self, key: Hashable | None, item: T) -> None:
        """Append an item to the lane of its key."""
        self.waiting += 1
        if key is None:
            self._ready.append(item)
            return
        found = self._lanes.get(key)
        if found is None:
            found = self._lanes[key] = _Lane(key)
            self._ready.append(found)
        found.items.append(item)

    def take(self, limit: int, takers: int = 1, *, heads: bool = False) -> Taken[T]:
        """Take up to `limit` items: one from each lane in turn, then further ones from the same lanes, each lane's in order.

        Args:
            takers: leave lanes for so many others: take from one part in `takers` of those that are ready.
            heads: take no further ones.
        """
        lanes: list[_Lane[T]] = []
        items: list[T] = []
        most = min(limit, -(-len(self._ready) // takers))
        while self._ready and len(items) < most:
            lane = self._ready.popleft()
            if isinstance(lane, _Lane):
                lanes.append(lane)
                items.append(lane.items.popleft())
            else:
                items.append(lane)
        more = [] if heads else [lane for lane in lanes if lane.items]
        while more and len(items) < limit:
            left = []
            for lane in more:
                if len(items) == limit:
                    break
                items.append(lane.items.popleft())
                if lane.items:
                    left.append(lane)
            more = left
        self.waiting -= len(items)
        return Taken(items, lanes)

    def put_back(self, items: Sequence[tuple[Hashable | None, T]]) -> None:
        """Put items with their keys, taken but not settled, back to the heads of their lanes, in this order; before `give_back`."""
        self.waiting += len(items)
        for key, item in reversed(items):
            if key is None:
                self._ready.append(item)
            else:
                self._lanes[key].items.appendleft(item)

    def give_back(self, taken: Taken[T]) -> None:
        """Free the lanes of what was taken: everything in it is settled, or put back."""
        for lane in taken.lanes:
            if lane.items:
                self._ready.append(lane)
            else:
                del self._lanes[lane.key]

    def drop(self, gone: Callable[[T], bool]) -> list[T]:
        """Forget what waits and is `gone`; return it. What is taken stays taken."""
        dropped: list[T] = []
        ready: deque[_Lane[T] | T] = deque()
        for lane in self._lanes.values():
            kept: deque[T] = deque()
            for item in lane.items:
                (dropped if gone(item) else kept).append(item)
            lane.items = kept
        for entry in self._ready:
            if isinstance(entry, _Lane):
                if entry.items:
                    ready.append(entry)
                else:
                    del self._lanes[entry.key]
            elif gone(entry):
                dropped.append(entry)
            else:
                ready.append(entry)
        self._ready = ready
        self.waiting -= len(dropped)
        return dropped

    def clear(self) -> None:
        """Forget what waits. Lanes that are taken now must not be given back."""
        self._lanes.clear()
        self._ready.clear()
        self.waiting = 0


class Taken(Generic[T]):
    """Items that run now, in an order that keeps each lane's, and the lanes that they hold."""

    __slots__ = ("items", "lanes")

    def __init__(self, items: list[T], lanes: list[_Lane[T]]) -> None:
        self.items = items
        self.lanes = lanes
