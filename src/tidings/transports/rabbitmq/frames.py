"""AMQP 0.9.1: a message as the frames that carry it, written and read in one go.

The client does the same with an object for each frame and each property, which takes several times as long as the rest; and what a hostile sender
has put into a message's properties ends its connection. https://www.rabbitmq.com/amqp-0-9-1-protocol describes frames in section 4.2, and the properties of class `basic` in its reference.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from tidings.codecs.message import Message
from tidings.ids import slot_of
from tidings.transports.base import as_header

__all__ = ["SLOT", "SLOTS", "TooLong", "acknowledgement", "frames", "read_properties"]

#: The header that says which slot a message's key has, by which groups spread their messages over several queues; and how many slots there are.
SLOT = "tidings-slot"
SLOTS = 64

_FRAME = Struct(">BHI").pack
_CONTENT = Struct(">HHQH").pack
_LONG = Struct(">cI").pack
_SIZE = Struct(">I").pack
_TAG = Struct(">Q").pack
_FLAGS = Struct(">H").unpack_from
_LENGTH = Struct(">I").unpack_from
# A long string, or a byte array.
_TEXT = frozenset(b"Sx")
_METHOD, _HEADER, _BODY, _END = 1, 2, 3, b"\xce"
_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"
_BASIC = 60
_PERSISTENT = b"\x02"
# Which properties there are, in the order in which they are written.
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE, _CORRELATION_ID, _MESSAGE_ID, _TYPE = 1 << 15, 1 << 13, 1 << 12, 1 << 10, 1 << 7, 1 << 5
_MANDATORY = b"\x01"


class TooLong(ValueError):
    """Something of a message does not fit where AMQP carries it; the text says what."""


def frames(message: Message, exchange: str, topic: str, channel: int, most: int, *, slotted: bool = False) -> bytes:
    """Return the frames that publish a message, mandatory and persistent.

    Args:
        channel: its number.
        most: bytes that a frame may have, as agreed with the broker.
        slotted: whether a header says which slot its key has; without a key, its id.

    Raises:
        TooLong: a name, or a property besides the headers, has more than 255 bytes, or the headers do not fit into one frame.
    """
    body = message.body or b""
    flags = _DELIVERY_MODE | _HEADERS
    head = b""
    tail = b""
    if message.content_type is not None:
        flags |= _CONTENT_TYPE
        head = _short(message.content_type, "the content type")
    if message.correlation_id is not None:
        flags |= _CORRELATION_ID
        tail = _short(message.correlation_id, "the correlation id")
    if message.id is not None:
        flags |= _MESSAGE_ID
        tail += _short(message.id, "the id")
    if message.type is not None:
        flags |= _TYPE
        tail += _short(message.type, "the type")
    parts = []
    for name, value in message.headers.items():
        parts.append(_name(name))
        if value is None:
            parts.append(b"V")
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(_LONG(b"S", len(data)))
            parts.append(data)
    if slotted and (spread := message.key if message.key is not None else message.id) is not None:
        parts.append(_SLOT[slot_of(spread) % SLOTS])
    table = b"".join(parts)
    header = b"".join((_CONTENT(_BASIC, 0, len(body), flags), head, _SIZE(len(table)), table, _PERSISTENT, tail))
    if len(header) > most - 8:
        raise TooLong(f"the headers have {len(header):,} bytes, more than the {most - 8:,} of a frame")
    written = [_publish(exchange, topic, channel), _FRAME(_HEADER, channel, len(header)), header, _END]
    for first in range(0, len(body), most - 8):
        piece = body[first : first + most - 8]
        written += (_FRAME(_BODY, channel, len(piece)), piece, _END)
    return b"".join(written)


@lru_cache(256)
def _publish(exchange: str, topic: str, channel: int) -> bytes:
    method = b"".join((_PUBLISH, _short(exchange, "the exchange"), _short(topic, "the topic"), _MANDATORY))
    return _FRAME(_METHOD, channel, len(method)) + method + _END


@lru_cache(1024)
def _name(name: str) -> bytes:
    return _short(name, f"the name of header {name[:80]!r}")


def _slot(number: int) -> bytes:
    value = str(number).encode()
    return b"".join((_short(SLOT, "the slot"), _LONG(b"S", len(value)), value))


def _short(text: str, what: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise TooLong(f"{what} has {len(data):,} bytes, more than 255")
    return bytes((len(data),)) + data


def acknowledgement(tag: int, multiple: bool, channel: int) -> bytes:
    """Return the frame that acknowledges one message, or all up to it."""
    return _FRAME(_METHOD, channel, 13) + b"\x00\x3c\x00\x50" + _TAG(tag) + (b"\x01" if multiple else b"\x00") + _END


def read_properties(payload: bytes) -> Message:
    """Return a message without its body from what a content header holds, behind the body's size; headers as text, or as bytes.

    Raises:
        Exception: whatever it is that a hostile sender has made of them.
    """
    (flags,) = _FLAGS(payload)
    if flags & 1:
        raise ValueError("there are more properties than AMQP 0.9.1 has")
    at = 2
    found: dict[int, str] = {}
    headers: dict[str, str | bytes | None] = {}
    for flag in range(15, 1, -1):
        if not flags & (1 << flag):
            continue
        if 1 << flag == _HEADERS:
            (size,) = _LENGTH(payload, at)
            headers = _table(payload[at + 4 : at + 4 + size])
            at += 4 + size
        else:
            # The mode, the priority and the time are numbers, which nobody asks for.
            width = {12: 1, 11: 1, 6: 8}.get(flag)
            if width is None:
                width = payload[at] + 1
                found[1 << flag] = payload[at + 1 : at + width].decode("utf-8", "backslashreplace")
            at += width
    if at > len(payload):
        raise ValueError("the properties end too soon")
    take = found.get
    return Message(headers, b"", take(_CONTENT_TYPE), None, take(_MESSAGE_ID), take(_TYPE), take(_CORRELATION_ID))


def _table(data: bytes) -> dict[str, str | bytes | None]:
    headers: dict[str, str | bytes | None] = {}
    at, end = 0, len(data)
    while at < end:
        start = at + 1
        at = start + data[at]
        name = data[start:at].decode("utf-8", "backslashreplace")
        kind = data[at]
        if kind in _TEXT:
            (size,) = _LENGTH(data, at + 1)
            start = at + 5
            at = start + size
            value = data[start:at]
            try:
                headers[name] = value.decode()
            except UnicodeDecodeError:
                headers[name] = value
        else:
            from pamqp.decode import embedded_value

            size, other = embedded_value(data[at:])
            headers[name] = as_header(other)
            at += size
    if at > end:
        raise ValueError("the headers end too soon")
    return headers


_SLOT = [_slot(number) for number in range(SLOTS)]
