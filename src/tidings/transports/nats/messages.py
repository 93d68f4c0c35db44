"""NATS JetStream: a message with its headers."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from tidings.codecs.message import Message
from tidings.transports.nats.pull import UNREADABLE

if TYPE_CHECKING:
    from tidings.transports.nats.pull import Delivered

__all__ = ["fault_of", "head_of", "message_of"]

_CONTENT_TYPE, _AS_IN_HTTP = "content-type", "Content-Type"
_PLACED = (_CONTENT_TYPE, _AS_IN_HTTP)
_ID = "Nats-Msg-Id"
# What the client takes as the name of a header.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
# What it makes of line breaks in a value, which would end it.
_BREAKS = str.maketrans("\r\n", "  ")


def fault_of(message: Delivered) -> str:
    """Return what is wrong with a message, or nothing."""
    return "" if message.headers is None or UNREADABLE not in message.headers else "its headers cannot be read"


def message_of(message: Delivered) -> Message:
    """Return what has come, in the form that all transports share."""
    given = message.headers or {}
    headers: dict[str, str | bytes | None] = {
        name: value for name, value in given.items() if name not in _PLACED and not name.startswith("Nats-")
    }
    # Names of headers are as they were written here; some write this one as HTTP does.
    content_type, message_id = given.get(_CONTENT_TYPE, given.get(_AS_IN_HTTP)), given.get(_ID)
    return Message(headers, message.data, content_type, None, message_id)


def head_of(message: Message) -> bytes:
    """Return the headers as they are sent before the body, as the client would write them, one after the other, in several times as long.

    Raises:
        ValueError: a header cannot have its name, or cannot be written at all; the text says why.
    """
    parts = ["NATS/1.0"]
    for name, value in message.headers.items():
        parts += (_named(name), (value if isinstance(value, str) else _text(value)).strip())
    if message.content_type is not None:
        parts += (_named(_CONTENT_TYPE), message.content_type.strip())
    if message.id is not None:
        parts += (_named(_ID), message.id.strip())
    head = "".join(parts)
    if not head.count("\r") == head.count("\n") == len(parts) // 2:
        parts[2::2] = [value.translate(_BREAKS) for value in parts[2::2]]
        head = "".join(parts)
    try:
        return f"{head}\r\n\r\n".encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"it cannot be written: {error}") from error


@lru_cache(1024)
def _named(name: str) -> str:
    """Return what stands before a header's value."""
    if _NAME.match(name) is None:
        raise ValueError(f"{name[:80]!r} cannot be the name of a header")
    return f"\r\n{name}: "


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")
