"""AMQP 0.9.1: what a broker sends all the time is taken from the stream before the client's own machinery sees it.

Confirmations, returned and delivered messages of one channel go to whoever listens, as they arrive; everything else is the client's. It gives
each of their frames a turn of the event loop and each message a task, and a message with properties that it cannot decode ends its connection,
again and again: here such a message is handed on with what can be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

from aiormq.connection import TransportFactory

from tidings.codecs.message import Message
from tidings.transports.rabbitmq.frames import read_properties

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["Content", "Listener", "Tapped"]

_HEAD = Struct(">BHI").unpack_from
_TAG = Struct(">Q").unpack_from
_SIZE = Struct(">Q").unpack_from
_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER, _RETURN, _ACK, _NACK = (bytes((0, 60, 0, number)) for number in (60, 50, 80, 120))
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
# The client looks at its own frames to tell whether the broker is alive; a broker that is busy sends no others.
_ALIVE = 1.0


@dataclass(slots=True)
class Content:
    """A message as it was returned or delivered.

    Attributes:
        tag: of the delivery; 0 for a returned one.
        consumer: who it is delivered to; empty for a returned one.
        fault: why it is not as it was sent, if so.
    """

    topic: str
    tag: int = 0
    consumer: str = ""
    redelivered: bool = False
    message: Message = Message({}, b"")  # noqa: RUF009 - it is frozen
    fault: str = ""


class Listener(Protocol):
    """Whoever wants to know what happens on the channel. Called by the event loop as data arrives: it must not wait, nor raise."""

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None: ...
    def returned(self, content: Content) -> None: ...
    def delivered(self, content: Content) -> None: ...


class Tapped(TransportFactory):
    """Connects for the client, and listens on one channel.

    Args:
        channel: its number.
        most: bytes of a body that are kept; the rest of a larger one is not.
    """

    def __init__(self, listener: Listener, channel: int, most: int) -> None:
        self._listener = listener
        self._channel = channel
        self._most = most
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._paused = False

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream to the broker."""
        provider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = Reader(self._listener, self._channel, self._most)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(lambda: protocol, url.host or "localhost", url.port or 5672, ssl=context, **kwargs)
        self._transport = transport
        self._writer = writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, writer

    async def write(self, frames: bytes) -> None:
        """Send whole frames between those of the client; wait while the broker takes no more.

        Raises:
            OSError: the connection is lost.
        """
        assert self._writer is not None
        self._writer.write(frames)
        await self._writer.drain()

    def pause(self) -> None:
        """Take nothing more from the broker for now."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on."""
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()


class Reader(asyncio.StreamReader):
    """Feeds the client with what nobody else listens to."""

    def __init__(self, listener: Listener, channel: int, most: int) -> None:
        super().__init__()
        self._listener = listener
        self._channel = channel
        self._most = most
        self._rest = b""
        self._content: Content | None = None
        # What belongs to a message whose frames have not all come.
        self._left = 0
        self._body = bytearray()
        self._digest: Any = None
        self._fed = monotonic()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        data = self._rest + bytes(data)
        at, end = 0, len(data)
        # Whoever speaks another version of the protocol begins with its name.
        if data[:4] == b"AMQP":
            super().feed_data(data)
            return
        plain = []
        while end - at >= 7:
            kind, channel, size = _HEAD(data, at)
            following = at + size + 8
            if following > end:
                break
            if channel != self._channel or not self._took(kind, data, at + 7, following - 1):
                plain.append(data[at:following])
            at = following
        self._rest = data[at:]
        if plain or monotonic() - self._fed > _ALIVE:
            self._fed = monotonic()
            super().feed_data(b"".join(plain) or _HEARTBEAT)

    def _took(self, kind: int, data: bytes, at: int, end: int) -> bool:
        """Take a frame, if it is one of ours; `at` and `end` are where its payload begins and ends."""
        if kind == _METHOD:
            method = data[at : at + 4]
            if method in (_ACK, _NACK):
                self._listener.confirmed(_TAG(data, at + 4)[0], bool(data[at + 12] & 1), method == _ACK)
            elif method == _DELIVER:
                self._content = _delivery(data, at + 4)
            elif method == _RETURN:
                self._content = _return(data, at + 4)
            else:
                return False
            return True
        if self._content is None or kind not in (_HEADER, _BODY):
            return False
        if kind == _HEADER:
            self._begin(self._content, data[at:end])
        else:
            self._left -= end - at
            if self._digest is not None:
                self._digest.update(data[at:end])
            if self._digest is None or len(self._body) < self._most:
                self._body += data[at : min(end, at + self._most)]
        if self._left <= 0:
            self._finish(self._content)
        return True

    def _begin(self, content: Content, payload: bytes) -> None:
        (self._left,) = _SIZE(payload, 4)
        self._body = bytearray()
        self._digest = None
        try:
            content.message = read_properties(payload[12:])
        except Exception as error:  # noqa: BLE001 - whatever it is: the message is not ours to choose
            content.message = Message({"amqp-properties": payload[12:]}, b"")
            content.fault = f"its properties cannot be read: {type(error).__name__}"
        if self._left > self._most:
            self._digest = sha256()
            content.fault = f"its body has {self._left:,} bytes, more than {self._most:,}"

    def _finish(self, content: Content) -> None:
        self._content = None
        message = content.message
        if self._digest is not None:
            content.fault += f"; this is its beginning, the sha256 of all of it is {self._digest.hexdigest()}"
        content.message = Message(
            message.headers, bytes(self._body), message.content_type, None, message.id, message.type, message.correlation_id
        )
        if content.tag:
            self._listener.delivered(content)
        else:
            self._listener.returned(content)


def _delivery(data: bytes, at: int) -> Content:
    consumer, at = _short(data, at)
    (tag,) = _TAG(data, at)
    redelivered = bool(data[at + 8] & 1)
    _exchange, at = _short(data, at + 9)
    topic, _ = _short(data, at)
    return Content(topic, tag, consumer, redelivered)


def _return(data: bytes, at: int) -> Content:
    _reason, at = _short(data, at + 2)
    _exchange, at = _short(data, at)
    topic, _ = _short(data, at)
    return Content(topic)


def _short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "backslashreplace"), end
