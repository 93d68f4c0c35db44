"""What may be under way to a broker at a time, and what becomes of what was. Pure logic, no I/O.

A failed message must not let a later one of its key overtake it, so what may be sent beside it depends on what the transport says that a
failure means (`transports.base.Failure`). Whatever it is, the messages of one key are in one call at a time: a refused message in one call
says nothing about another call. Within a call, `atomic` and `prefix` take any number of a key, `independent` takes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from tidings.consume.lanes import Lanes, Taken
from tidings.transports.base import CONFIRMED, Failure, Outcome

__all__ = ["Call", "Flight", "Settled", "settle"]

T = TypeVar("T")

#: Calls are not made smaller than this to have more of them.
_WORTH = 100


class Call(NamedTuple, Generic[T]):
    """What goes to the transport together."""

    items: list[T]
    taken: Taken[T]


class Flight(Generic[T]):
    """What waits to be sent, by key, and what of it may be sent now.

    Args:
        failure: what the transport says a failure means.
        calls: most calls that are under way at a time.
        most: most messages of a call.
    """

    def __init__(self, failure: Failure, calls: int, most: int) -> None:
        self._lanes: Lanes[T] = Lanes()
        self._heads = failure == "independent"
        self._calls = calls
        self._most = most
        self.under_way = 0
        #: `add(key, item)`: let an item wait behind those of its key; without a key it waits for nothing.
        self.add = self._lanes.add

    def __len__(self) -> int:
        """Return how many wait, whether they may be sent now or not; those under way are not among them."""
        return self._lanes.waiting

    def take(self) -> Call[T] | None:
        """Return what is to be sent now, in an order that keeps each key's; None when nothing may be.

        What can be sent is shared out among the calls that may be made, so that one is answered while another is written.
        """
        room = self._calls - self.under_way
        if room <= 0 or not self._lanes.ready:
            return None
        takers = max(1, min(room, self._lanes.free // _WORTH))
        taken = self._lanes.take(self._most, takers, heads=self._heads)
        self.under_way += 1
        return Call(taken.items, taken)

    def bound(self, calls: int, most: int) -> None:
        """Let so many calls, of so many messages, be under way at a time from now on."""
        self._calls = calls
        self._most = most

    def done(self, call: Call[T]) -> None:
        """Let the next of its keys be sent: every item of the call is settled."""
        self.under_way -= 1
        self._lanes.give_back(call.taken)


class Settled(NamedTuple, Generic[T]):
    """What became of a call's items.

    Attributes:
        confirmed: may be forgotten.
        refused: have failed, each with its reason; everything behind them has to wait.
        behind: were not sent because of that.
        lost: why nothing is known of the others, which ends the connection; None when all are known.
    """

    confirmed: list[T]
    refused: list[tuple[T, str]]
    behind: list[T]
    lost: str | None


def settle(items: Sequence[T], outcomes: Sequence[Outcome]) -> Settled[T]:
    """Sort what was sent by what became of it, each kind in the order in which it was sent."""
    if len(items) != len(outcomes):
        return Settled([], [], [], f"the transport gave {len(outcomes)} outcomes for {len(items)} messages")
    if outcomes.count(CONFIRMED) == len(outcomes):
        return Settled(list(items), [], [], None)
    settled: Settled[T] = Settled([], [], [], next((outcome.reason for outcome in outcomes if outcome.kind == "unconfirmed"), None))
    for item, outcome in zip(items, outcomes, strict=True):
        if outcome.kind == "confirmed":
            settled.confirmed.append(item)
        elif outcome.kind == "refused":
            settled.refused.append((item, outcome.reason))
        elif outcome.kind == "withheld":
            settled.behind.append(item)
    return settled
