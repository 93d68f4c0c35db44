"""One connection to a broker: what is under way on it, why it was lost, and whose turn it is while messages go one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tidings.consume.execution import StoreDown
from tidings.consume.tenure import rest
from tidings.errors import TransportDown, Unsendable
from tidings.relay.suspicion import Suspicion
from tidings.transports.base import CONFIRMED, Outcome, Outgoing, unconfirmed
from tidings.transports.base import Publisher as Channel

__all__ = ["FIRST_ANOTHER", "ChannelLost", "Line"]

#: Seconds that a message of which the connection broke waits for another one that gets through before it.
FIRST_ANOTHER = 1.0


class ChannelLost(StoreDown, TransportDown):
    """The connection to the broker is lost; nothing is counted against the events."""


class Line:
    """What a session sends through.

    Attributes:
        one_by_one: whether messages go one at a time, because an earlier connection broke of one.
        through: whether the broker has confirmed something on this connection.
        news: set when there may be more to send one at a time, or no reason any more to do so.
    """

    def __init__(self, channel: Channel, suspicion: Suspicion) -> None:
        self.suspicion = suspicion
        self.one_by_one = suspicion.isolating
        self.through = False
        self.news = asyncio.Event()
        self._channel = channel
        self._under_way: set[str | None] = set()
        self._turn = asyncio.Lock()
        self._another = asyncio.Event()
        self._lost = asyncio.Event()
        self._reason = ""
        self._broken = False

    async def publish(self, outgoing: Sequence[Outgoing]) -> Sequence[Outcome]:
        """Send messages, which bear the ids of their events."""
        if not self.one_by_one:
            return await self._publish(outgoing)
        async with self._turn:
            return await self._publish(outgoing)

    async def again(self, event: str, outgoing: Outgoing) -> Outcome:
        """Send a message that was parked, on its own.

        Raises:
            Unsendable: the connection breaks of it.
        """
        if self.one_by_one and self.suspicion.struck(event):
            await self.another_first()
            self.check(event)
        return (await self.publish([outgoing]))[0]

    async def another_first(self) -> None:
        """Wait a while until something has got through: one after which the connection breaks says little alone."""
        if not self.through:
            await rest(FIRST_ANOTHER, self._another)

    def check(self, event: str) -> None:
        """Refuse a message of which connections break that carry others.

        Raises:
            Unsendable: it is one.
        """
        if self.through and self.suspicion.convicted(event):
            raise Unsendable(f"the connection breaks whenever it is sent, and carries others: {self.suspicion.reason}")

    def settled(self, event: Any) -> None:
        """Say that an event is confirmed or parked."""
        if self.suspicion.anything:
            self.suspicion.settled(str(event))
            self.news.set()

    def lose(self, reason: str, *, broken: bool = False) -> None:
        """End this connection: `until_lost` raises."""
        if not self._lost.is_set():
            self._reason, self._broken = reason, broken
            self._lost.set()

    async def until_lost(self) -> None:
        """Wait until the connection is lost.

        Raises:
            ChannelLost: it is.
        """
        await self._lost.wait()
        raise ChannelLost(self._reason)

    def blame(self) -> None:
        """Note what was under way when the connection broke; nothing, if the broker has said why it takes nothing, or has said nothing at all."""
        if self._broken:
            self.suspicion.broke(self._under_way, self._reason, alone=self.one_by_one, through=self.through)

    async def _publish(self, outgoing: Sequence[Outgoing]) -> Sequence[Outcome]:
        if self._lost.is_set():
            # What is not sent any more was not under way.
            return [unconfirmed(self._reason)] * len(outgoing)
        events = [one.message.id for one in outgoing]
        self._under_way.update(events)
        outcomes = await self._channel.publish(outgoing)
        if self.through and len(outcomes) == len(events) and outcomes.count(CONFIRMED) == len(events):
            self._under_way.difference_update(events)
            return outcomes
        for event, outcome in zip(events, outcomes, strict=False):
            if outcome.kind != "unconfirmed":
                self._under_way.discard(event)
            if outcome.kind == "confirmed" and not self.through:
                self.through = True
                self._another.set()
        if lost := next((outcome for outcome in outcomes if outcome.kind == "unconfirmed"), None):
            self.lose(lost.reason, broken=lost.broken)
        return outcomes
