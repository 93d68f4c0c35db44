"""Lanes in memory: per-key order with concurrency across keys, fair to all keys. Pure logic, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["Lanes"]

T = TypeVar("T")

#: In place of a lane's item: none waits.
_NONE: Any = object()


class _Several(deque[T]):
    """The items of a lane that has had more than one waiting; a type of its own, because an item may be a deque."""

    __slots__ = ()


class Lanes(Generic[T]):
    """What waits for one subscription. Invariant 5: a lane belongs to one taker at a time, and gives its items in order.

    Lanes that are free to run wait in one queue and are served in turn, so that a key with many events does not hold up the others.
    An item without key is a lane of its own.

    Mostly there are as many lanes as items: an item stands for its lane until a second one comes, so that no object is made for it.
    """

    def __init__(self) -> None:
        #: By key: an item, several, or none.
        self._lanes: dict[Hashable, Any] = {}
        #: Keys of the lanes that are free to run; None for each item without key.
        self._ready: deque[Hashable | None] = deque()
        self._keyless: deque[T] = deque()
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
            self._keyless.append(item)
            self._ready.append(None)
        elif key not in self._lanes:
            self._lanes[key] = item
            self._ready.append(key)
        else:
            found = self._lanes[key]
            if found is _NONE:
                self._lanes[key] = item
            elif type(found) is _Several:
                found.append(item)
            else:
                self._lanes[key] = _Several((found, item))

    def take(self, limit: int, takers: int = 1, *, heads: bool = False) -> Taken[T]:
        """Take up to `limit` items: one from each lane in turn, then further ones from the same lanes, each lane's in order.

        Args:
            takers: leave lanes for so many others: take from one part in `takers` of those that are ready.
            heads: take no further ones.
        """
        lanes, ready = self._lanes, self._ready
        keys: list[Hashable] = []
        items: list[T] = []
        several: list[_Several[T]] = []
        for _ in range(min(limit, -(-len(ready) // takers))):
            key = ready.popleft()
            if key is None:
                items.append(self._keyless.popleft())
                continue
            keys.append(key)
            found = lanes[key]
            if type(found) is _Several:
                items.append(found.popleft())
                several.append(found)
            else:
                items.append(found)
                lanes[key] = _NONE
        more = [] if heads else [lane for lane in several if lane]
        while more and len(items) < limit:
            left = []
            for lane in more:
                if len(items) == limit:
                    break
                items.append(lane.popleft())
                if lane:
                    left.append(lane)
            more = left
        self.waiting -= len(items)
        return Taken(items, keys)

    def put_back(self, items: Sequence[tuple[Hashable | None, T]]) -> None:
        """Put items with their keys, taken but not settled, back to the heads of their lanes, in this order; before `give_back`."""
        self.waiting += len(items)
        for key, item in reversed(items):
            if key is None:
                self._keyless.append(item)
                self._ready.append(None)
                continue
            found = self._lanes[key]
            if found is _NONE:
                self._lanes[key] = item
            elif type(found) is _Several:
                found.appendleft(item)
            else:
                self._lanes[key] = _Several((item, found))

    def give_back(self, taken: Taken[T]) -> None:
        """Free the lanes of what was taken: everything in it is settled, or put back."""
        lanes = self._lanes
        for key in taken.keys:
            if _waits(lanes[key]):
                self._ready.append(key)
            else:
                del lanes[key]

    def drop(self, gone: Callable[[T], bool]) -> list[T]:
        """Forget what waits and is `gone`; return it. What is taken stays taken."""
        dropped: list[T] = []
        lanes = self._lanes
        for key, found in lanes.items():
            if type(found) is _Several:
                kept: _Several[T] = _Several()
                for item in found:
                    (dropped if gone(item) else kept).append(item)
                lanes[key] = kept
            elif found is not _NONE and gone(found):
                dropped.append(found)
                lanes[key] = _NONE
        ready: deque[Hashable | None] = deque()
        keyless: deque[T] = deque()
        for key in self._ready:
            if key is not None:
                if _waits(lanes[key]):
                    ready.append(key)
                else:
                    del lanes[key]
            elif gone(item := self._keyless.popleft()):
                dropped.append(item)
            else:
                keyless.append(item)
                ready.append(None)
        self._ready, self._keyless = ready, keyless
        self.waiting -= len(dropped)
        return dropped

    def clear(self) -> None:
        """Forget what waits. Lanes that are taken now must not be given back."""
        self._lanes.clear()
        self._ready.clear()
        self._keyless.clear()
        self.waiting = 0


def _waits(found: object) -> bool:
    """Return whether a lane has an item waiting."""
    return bool(found) if type(found) is _Several else found is not _NONE


class Taken(Generic[T]):
    """Items that run now, in an order that keeps each lane's, and the keys of the lanes that they hold."""

    __slots__ = ("items", "keys")

    def __init__(self, items: list[T], keys: list[Hashable]) -> None:
        self.items = items
        self.keys = keys
