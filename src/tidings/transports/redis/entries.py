"""Redis Streams: a message as the fields of an entry."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from tidings.codecs import cap
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire

__all__ = ["fields_of", "message_of"]


def fields_of(message: Message, wire: Wire) -> dict[str, str | bytes]:
    """Return the fields that carry a message."""
    if wire == "cap":
        return {**cap.to_redis(message)}
    fields: dict[str, str | bytes] = {name: value for name, value in message.headers.items() if value is not None}
    if message.content_type is not None:
        fields["content-type"] = message.content_type
    fields["data"] = message.body or b""
    return fields


def message_of(fields: Mapping[bytes, bytes]) -> Message:
    """Return the message that these fields carry."""
    headers: dict[str, str | bytes | None] = {_known(name) or _name(name): value for name, value in fields.items()}
    if b"data" not in fields and b"headers" in fields and b"body" in fields:
        with contextlib.suppress(ValueError):
            return cap.from_redis({"headers": fields[b"headers"], "body": fields[b"body"]})
    headers.pop("data", None)
    headers.pop("content-type", None)
    content_type = fields.get(b"content-type")
    return Message(headers, fields.get(b"data", b""), None if content_type is None else _known(content_type) or _name(content_type))


#: Most entries have the same few names. Bounded: they come from outside.
_names: dict[bytes, str] = {}
_known = _names.get


def _name(data: bytes) -> str:
    name = data.decode("utf-8", "backslashreplace")
    if len(_names) < 512 and len(data) < 64:
        _names[data] = name
    return name
