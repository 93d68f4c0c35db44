"""What the demo did, noted beside the database, so that the sums at the end can be checked against it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

__all__ = ["ATLANTIS", "THULE", "Carrier", "Ledger", "Unreachable"]

#: A place that the carrier reaches at the third attempt, and one that it never reaches.
THULE = "Thule"
ATLANTIS = "Atlantis"


class Unreachable(Exception):
    """The carrier cannot take this parcel now."""


@dataclass(slots=True)
class Carrier:
    """The carrier of the demo; knows how often it refused which order."""

    refused: dict[str, int] = field(default_factory=dict)
    collected: list[str] = field(default_factory=list)
    _refusal: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def collect(self, order_id: str, city: str) -> None:
        """Take a parcel.

        Raises:
            Unreachable: to Thule, the first two times; to Atlantis, always.
        """
        before = self.refused.get(order_id, 0)
        if city == ATLANTIS or (city == THULE and before < 2):
            self.refused[order_id] = before + 1
            async with self._refusal:
                self._refusal.notify_all()
            raise Unreachable("there is no such place" if city == ATLANTIS else "the ferry has not come in")
        self.collected.append(order_id)

    async def refusal(self, order_id: str) -> None:
        """Wait until it has refused an order."""
        async with self._refusal:
            await self._refusal.wait_for(lambda: order_id in self.refused)

    @property
    def late(self) -> int:
        """How many orders it took after having refused them."""
        return len(self.refused.keys() & set(self.collected))


@dataclass(slots=True)
class Ledger:
    """What the customers did.

    Attributes:
        committed: events published in transactions that committed, except `cancelled`.
        gone: events published in transactions or savepoints that rolled back.
        cancelled: scheduled events that were cancelled before they were due.
        old: how many of the committed ones were published as an old version.
        expired: how many events ended before anybody could handle them.
        blocked: orders that can never be shipped; `behind`: events that wait behind them.
        repeated: how many deliveries were read again on purpose.
    """

    committed: list[UUID] = field(default_factory=list)
    gone: list[UUID] = field(default_factory=list)
    cancelled: list[UUID] = field(default_factory=list)
    old: int = 0
    expired: int = 0
    blocked: int = 0
    behind: int = 0
    repeated: int = 0
