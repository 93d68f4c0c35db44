"""RabbitMQ: sending. Confirmations are pipelined."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tidings.codecs.message import Message
from tidings.errors import TransportDown
from tidings.transports.base import CONFIRMED, Outcome, Outgoing, refused, sifted, size_of, unconfirmed
from tidings.transports.rabbitmq.frames import frames
from tidings.transports.rabbitmq.link import CHANNEL, Link

if TYPE_CHECKING:
    from tidings.transports.rabbitmq.stream import Content
    from tidings.transports.rabbitmq.transport import RabbitMQ


__all__ = ["Publisher"]


class _Call:
    """The messages of one `publish` that are under way, with tags that follow one another."""

    __slots__ = ("_below", "_places", "_returned", "done", "first", "last", "left", "outcomes", "sent")

    def __init__(self, sent: Sequence[Outgoing], first: int) -> None:
        self.sent = sent
        self.first = first
        self.last = first + len(sent) - 1
        self.left = len(sent)
        self.outcomes: list[Outcome | None] = [None] * len(sent)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Those before it have an outcome.
        self._below = 0
        self._returned: set[int] = set()
        self._places: dict[object, deque[int]] | None = None

    def confirm(self, tag: int, multiple: bool) -> None:
        """Note that the broker has this one, or all up to it."""
        end = min(tag, self.last) - self.first + 1
        for number in range(self._below if multiple else end - 1, end):
            if self.outcomes[number] is None:
                self.outcomes[number] = _UNROUTABLE if number in self._returned else CONFIRMED
                self.left -= 1
        if multiple:
            self._below = end
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def give_back(self, topic: str, message: Message) -> bool:
        """Note that no queue takes a message; its confirmation is still to come. Return whether it is one of these."""
        if self._places is None:
            self._places = {}
            for number, outgoing in enumerate(self.sent):
                if self.outcomes[number] is None:
                    self._places.setdefault(_identity(outgoing.topic, outgoing.message), deque()).append(number)
        if places := self._places.get(_identity(topic, message)):
            self._returned.add(places.popleft())
            return True
        return False


_UNROUTABLE = refused("no queue is bound to the exchange for its topic")


def _identity(topic: str, message: Message) -> object:
    return (topic, message.id) if message.id is not None else (topic, None, message.body or b"")


class Publisher:
    """Any number of batches under way at once, each message with a confirmation of its own."""

    def __init__(self, transport: RabbitMQ) -> None:
        self._transport = transport
        self._link = Link(transport, self, self._broke)
        self._over: str | None = None
        self._broken = False
        self._turn = asyncio.Lock()
        self._calls: deque[_Call] = deque()
        self._tag = 0

    async def start(self) -> None:
        """Connect."""
        await self._link.open(confirms=True)

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        """Send messages; return what became of each."""
        written: list[bytes] = []
        outcomes = sifted(batch, lambda outgoing: self._write(outgoing, written))
        numbers = [number for number, outcome in enumerate(outcomes) if outcome is None]
        if numbers:
            found = await self._send([batch[number] for number in numbers], b"".join(written))
            for number, outcome in zip(numbers, found, strict=True):
                outcomes[number] = outcome or unconfirmed(self._over or "the connection is lost", broken=self._broken)
        if self._over is not None:
            # What is still under way there must not arrive after what follows on another connection.
            await self._link.close()
        return [outcome for outcome in outcomes if outcome is not None]

    async def close(self) -> None:
        """Give the connection up; what is under way ends as confirmed or unconfirmed."""
        self._lost("the publisher is closed")
        await self._link.close()

    def _write(self, outgoing: Outgoing, written: list[bytes]) -> str | None:
        """Add the message's frames, or return why it cannot be sent."""
        if (size := size_of(outgoing.message)) > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        try:
            # What CAP writes has CAP's headers only.
            slotted = self._transport.wire != "cap"
            written.append(frames(outgoing.message, self._transport.exchange, outgoing.topic, CHANNEL, self._link.most, slotted=slotted))
        except ValueError as error:
            return str(error)
        return None

    async def _send(self, sent: Sequence[Outgoing], payload: bytes) -> Sequence[Outcome | None]:
        call: _Call | None = None
        try:
            async with asyncio.timeout(self._transport.timeout):
                async with self._turn:
                    if self._over is not None:
                        return [None] * len(sent)
                    call = _Call(sent, self._tag + 1)
                    self._tag = call.last
                    self._calls.append(call)
                    try:
                        await self._link.write(payload)
                    except BaseException:
                        # Whether the broker has counted these is not known.
                        self._lost("sending was interrupted")
                        raise
                await call.done
        except TimeoutError:
            self._lost(f"no confirmation within {self._transport.timeout:g} seconds")
        except TransportDown as error:
            self._broke(str(error))
        return [None] * len(sent) if call is None else call.outcomes

    def _broke(self, reason: str) -> None:
        self._broken = self._broken or self._over is None
        self._lost(reason)

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call in self._calls:
            if not call.done.done():
                call.done.set_result(None)
        self._calls.clear()

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """Note what the broker has confirmed, or could not store."""
        if not stored:
            self._lost("the broker could not store a message")
        for call in self._calls:
            if call.first > tag:
                break
            if multiple or tag <= call.last:
                call.confirm(tag, multiple)
        while self._calls and not self._calls[0].left:
            self._calls.popleft()

    def returned(self, content: Content) -> None:
        """Note what no queue takes."""
        any(call.give_back(content.topic, content.message) for call in self._calls)

    def delivered(self, content: Content) -> None:
        """Nobody is subscribed."""
