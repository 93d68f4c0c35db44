"""NATS JetStream: a message with its headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tidings.codecs.message import Message
from tidings.transports.nats.pull import UNREADABLE

if TYPE_CHECKING:
    from nats.aio.msg import Msg

__all__ = ["fault_of", "headers_of", "message_of", "why_no_header"]

_CONTENT_TYPE = "content-type"
_ID = "Nats-Msg-Id"
# What the client takes as the name of a header.
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")


def fault_of(message: Msg) -> str:
    """Return what is wrong with a message, or nothing."""
    return "" if message.headers is None or UNREADABLE not in message.headers else "its headers cannot be read"


def message_of(message: Msg) -> Message:
    """Return what has come, in the form that all transports share."""
    given = dict(message.headers or {})
    # Names of headers are as they were written here; some write this one as HTTP does.
    as_in_http = given.pop("Content-Type", None)
    content_type, message_id = given.pop(_CONTENT_TYPE, as_in_http), given.pop(_ID, None)
    headers: dict[str, str | bytes | None] = {name: value for name, value in given.items() if not name.startswith("Nats-")}
    return Message(headers, message.data, content_type, None, message_id)


def headers_of(message: Message) -> dict[str, str]:
    """Return what is sent with the body."""
    headers = {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value or "" for name, value in message.headers.items()
    }
    if message.content_type is not None:
        headers[_CONTENT_TYPE] = message.content_type
    if message.id is not None:
        headers[_ID] = message.id
    return headers


def why_no_header(headers: Mapping[str, str]) -> str | None:
    """Return why the client would refuse these headers, or None."""
    for name in headers:
        if _NAME.match(name) is None:
            return f"{name[:80]!r} cannot be the name of a header"
    return None
