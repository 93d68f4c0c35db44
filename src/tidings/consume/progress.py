"""How far a checkpoint may move: the longest finished prefix, by the order of reading.

Positions go backwards from one window of the log to the next, so prefixes are kept by read number and never by position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

__all__ = ["Progress"]

M = TypeVar("M")


class _Read(msgspec.Struct, Generic[M], gc=False, eq=False):
    # As many as events are in memory: kept from the garbage collector, for which none of them is part of a cycle.
    mark: M
    parts: int
    position: int


class Progress(Generic[M]):
    """Tracks what was read and what of it is finished.

    Every `read` gives a ticket that has to be finished once for each of its parts. `mark` is the checkpoint after the longest prefix of
    finished tickets, `high` the highest position in it, `finished` how many tickets were ever part of it.
    """

    def __init__(self, mark: M, high: int = 0) -> None:
        self.mark = mark
        self.high = high
        self.finished = 0
        self._open: deque[_Read[M]] = deque()

    def __len__(self) -> int:
        """Return how many tickets are not part of the finished prefix."""
        return len(self._open)

    def read(self, mark: M, position: int, parts: int) -> _Read[M]:
        """Note one event in the order of reading; `mark` is the checkpoint once it and everything before it is finished."""
        ticket = _Read(mark, parts, position)
        self._open.append(ticket)
        if parts == 0:
            self._advance()
        return ticket

    def reach(self, mark: M) -> None:
        """Note that nothing more lies between the last event read and this mark."""
        if self._open:
            self._open[-1].mark = mark
        else:
            self.mark = mark

    def finish(self, ticket: _Read[M]) -> None:
        """Finish one part of a ticket."""
        ticket.parts -= 1
        if ticket.parts == 0:
            self._advance()

    def finish_each(self, tickets: Iterable[_Read[M]]) -> None:
        """Finish one part of each of these tickets: what `finish` does one by one, in less time."""
        for ticket in tickets:
            ticket.parts -= 1
        self._advance()

    def _advance(self) -> None:
        tickets = self._open
        ticket = None
        high = self.high
        finished = 0
        while tickets and tickets[0].parts <= 0:
            ticket = tickets.popleft()
            finished += 1
            if ticket.position > high:
                high = ticket.position
        if ticket is not None:
            self.mark = ticket.mark
            self.high = high
            self.finished += finished


Ticket = _Read
