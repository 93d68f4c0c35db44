"""NATS JetStream: a consumer's messages, asked for before they are needed, a bounded number of messages and of bytes at a time.

The client asks for a batch, waits for all of it message by message, and only then for the next one; and it knows no bound of bytes. The
protocol: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-37.md and ADR-13.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from tidings.transports.nats.sturdy import Sturdy

__all__ = ["UNREADABLE", "Delivered", "Place", "Pull", "place_of"]

#: Stands for headers that the client cannot read, and holds them.
UNREADABLE = "unreadable-headers"

# Seconds for which the server keeps a request; an answer comes at their end at the latest.
_KEPT = 5.0
#: Bytes that the server may send for one request.
_BYTES = 8 << 20
# Answers that end a request and nothing else: no messages, out of time, too many bytes for it.
_ENDED = ("404", "408")
_TOO_MANY = "exceeds maxbytes"
_ALIVE = "100"


class Delivered(msgspec.Struct, gc=False):
    """A message as it was read.

    Attributes:
        reply: the address for its acknowledgement; empty for what the server itself says.
    """

    reply: str
    data: bytes
    headers: dict[str, str] | None = None


class Place(NamedTuple):
    """Where a message comes from.

    Attributes:
        deliveries: how often it has been delivered, this time included.
        stream: its number in the stream.
        consumer: its number in what the consumer has delivered.
    """

    deliveries: int
    stream: int
    consumer: int


def place_of(reply: str) -> Place:
    """Return the place that the address for its acknowledgement tells: from the third token from its end backwards."""
    tokens = reply.split(".")
    # Newer servers put a domain and an account before the stream, and a random token behind everything.
    first = 4 if len(tokens) == 9 else 6
    return Place(int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2]))


class Pull:
    """Asks for the messages of one consumer.

    Args:
        take: called with each message.
        lost: called with the reason when there will be no more.
        most: messages that are asked for at a time.
        room: tells how many messages more its user has room for.
    """

    def __init__(
        self,
        client: Sturdy,
        stream: str,
        consumer: str,
        take: Callable[[Delivered], None],
        lost: Callable[[str], None],
        most: int,
        room: Callable[[], int],
    ) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._take = take
        self._lost = lost
        self._most = most
        self._room = room
        self._inbox = ""
        # How many messages the request is still good for. One at a time: it is not told which of two a message answers.
        self._left = 0
        self.heard = monotonic()

    async def start(self) -> None:
        """Ask for the first messages."""
        self._inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(self._inbox, cb=_nowhere, pending_msgs_limit=0, pending_bytes_limit=0)
        self._client.deliver(subscription, self._answer)
        await self.ask()

    @property
    def silent(self) -> bool:
        """Whether the server has not kept its word to end a request in time."""
        return self._left > 0 and monotonic() - self.heard > 3 * _KEPT

    async def ask(self) -> None:
        """Ask for as much as there is room for, unless that has been asked for already."""
        wanted = min(self._most, self._room())
        if self._left > 0 or wanted <= 0:
            return
        self._left = wanted
        self.heard = monotonic()
        most = max(_BYTES, 2 * self._client.max_payload)
        request = {"batch": wanted, "max_bytes": most, "expires": int(_KEPT * 1e9)}
        await self._client.publish(self._subject, json.dumps(request).encode(), self._inbox)

    def _answer(self, message: Delivered) -> Awaitable[None] | None:
        self.heard = monotonic()
        if message.reply:
            self._left -= 1
            self._take(message)
        else:
            headers = message.headers or {}
            status, description = headers.get("Status", ""), headers.get("Description", "")
            if status in _ENDED or _TOO_MANY in description.lower():
                self._left = 0
            elif status != _ALIVE:
                self._lost(f"the consumer is gone: {status} {description}".strip())
        return self.ask() if self._left <= 0 else None


async def _nowhere(_: object) -> None:
    """Stand for the callback that the client wants: it is never called."""
