"""RabbitMQ: receiving what a group's queues have."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import msgspec

from tidings.errors import TransportDown
from tidings.transports.base import Incoming
from tidings.transports.rabbitmq.frames import SLOT, acknowledgement
from tidings.transports.rabbitmq.link import CHANNEL, Link, reason_of

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

    from tidings.transports.rabbitmq.stream import Content
    from tidings.transports.rabbitmq.transport import RabbitMQ

__all__ = ["Receiver"]

# Bytes that may wait for whoever receives before the broker has to wait, too.
_MOST_WAITING = 64 << 20


class Receiver:
    """Takes what the broker delivers, as much as the prefetch allows."""

    def __init__(self, transport: RabbitMQ, group: str) -> None:
        self._transport = transport
        self._group = group
        self._link = Link(transport, self, self._lost)
        self._waiting: deque[Content] = deque()
        self._bytes = 0
        # What has been delivered and not been acknowledged, in the order in which it was.
        self._open: dict[int, None] = {}
        self._queues: dict[str, str] = {}
        self._news = asyncio.Event()
        self._over: str | None = None

    async def start(self) -> None:
        """Connect, and begin to receive."""
        channel = await self._link.open(confirms=False)
        await channel.basic_qos(prefetch_count=self._transport.prefetch)
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        for queue in self._transport.shards(self._group):
            self._queues[queue] = queue
            await channel.basic_consume(queue, _nobody, consumer_tag=queue)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        """Return messages as soon as there are any, or none after that time."""
        if not self._waiting and self._over is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if self._over is not None:
            raise self._transport._down(self._over)
        found = [self._incoming(self._waiting.popleft()) for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._news.clear()
            self._bytes = 0
            self._link.resume()
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Say that these need not be delivered again."""
        if self._over is not None:
            raise self._transport._down(self._over)
        tags = sorted(tag for owner, tag in (one.receipt for one in incoming) if owner is self and tag in self._open)
        for tag in tags:
            self._open.pop(tag, None)
        # Up to the first that is still being handled one frame says it for all; the others are acknowledged one by one.
        first = next(iter(self._open), None)
        several = [tag for tag in tags if first is None or tag < first]
        payload = [acknowledgement(several[-1], True, CHANNEL)] if several else []
        payload += [acknowledgement(tag, False, CHANNEL) for tag in tags[len(several) :]]
        if payload:
            try:
                async with asyncio.timeout(self._transport.timeout):
                    await self._link.write(b"".join(payload))
            except (TransportDown, TimeoutError) as error:
                self._lost(reason_of(error))
        if self._over is not None:
            raise self._transport._down(self._over)

    def withdrawn(self) -> frozenset[str]:
        """Nothing is ever withdrawn."""
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        """Give the connection up, and with it what was not acknowledged."""
        self._lost("the receiver is closed")
        await self._link.close()

    def delivered(self, content: Content) -> None:
        """Keep a message for whoever receives."""
        self._open[content.tag] = None
        self._waiting.append(content)
        self._bytes += len(content.message.body or b"")
        if self._bytes > _MOST_WAITING:
            self._link.pause()
        self._news.set()

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def returned(self, content: Content) -> None:
        """Nothing is published here."""

    def _cancelled(self, _frame: object) -> None:
        self._lost(f"a queue of group {self._group!r} is gone")

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._news.set()

    def _incoming(self, content: Content) -> Incoming:
        message = content.message
        count = None
        if "x-delivery-count" in message.headers or SLOT in message.headers:
            headers = dict(message.headers)
            headers.pop(SLOT, None)
            count = headers.pop("x-delivery-count", None)
            message = msgspec.structs.replace(message, headers=headers)
        queue = self._queues.get(content.consumer, self._group)
        # A queue has no numbers to tell its messages by; their own ids have to do.
        coordinates = f"{queue}/{message.id or content.tag}"
        again = content.redelivered or count not in (None, "0")
        return Incoming(content.topic, message, coordinates, (self, content.tag), queue, again, content.fault)


async def _nobody(_delivered: DeliveredMessage) -> None:
    """Whoever is subscribed listens to the stream itself."""
