"""What wire formats are about: an event with its CloudEvents attributes on one side, a message that any broker can carry on the other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from tidings.codecs.faults import DEPTH
from tidings.errors import Undecodable

__all__ = [
    "JSON",
    "LIMITS",
    "CloudEvent",
    "Limits",
    "Message",
    "check_headers",
    "check_json",
    "is_json",
    "parsed_time",
    "text_of",
    "written_time",
]

JSON = "application/json"


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as a broker carries it, whichever broker that is.

    Attributes:
        headers: names and values; None where a broker knows a header without a value. The content type is not among them.
        body: the bytes; None for a message without any (Kafka's tombstones).
        content_type: of the body, where the format says one.
        key: what the broker keeps order by.
        id: what the broker may recognise copies by.
        type: what the message is, for brokers with a place for that.
        correlation_id: the same.
    """

    headers: Mapping[str, str | bytes | None]
    body: bytes | None
    content_type: str | None = None
    key: str | None = None
    id: str | None = None
    type: str | None = None
    correlation_id: str | None = None


class CloudEvent(msgspec.Struct, frozen=True):
    """An event with its attributes, as CloudEvents 1.0.2 names them. Ids, sources and types are as somebody wrote them: nothing is trusted.

    Attributes:
        data: JSON text in UTF-8, or whatever `content_type` says; None for an event without data.
        time: aware, or None.
        key: the extension `partitionkey`.
        extensions: the other extensions.
        headers: what is no attribute: the publisher's own headers.
    """

    id: str
    source: str
    type: str
    data: bytes | None
    time: datetime | None = None
    subject: str | None = None
    key: str | None = None
    content_type: str | None = JSON
    dataschema: str | None = None
    extensions: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}


class Limits(NamedTuple):
    """What a received message may have at most; more is refused before anything is decoded.

    Attributes:
        body: bytes of the body.
        headers: how many headers, or attributes.
        name: characters of a header's name.
        value: characters, or bytes, of a header's value.
        total: characters, or bytes, of all names and values.
        depth: levels of JSON.
        batch: events in a list.
    """

    body: int = 1 << 20
    headers: int = 128
    name: int = 256
    value: int = 1 << 16
    total: int = 1 << 20
    depth: int = DEPTH
    batch: int = 1000


LIMITS = Limits()

_write = msgspec.json.Encoder().encode
_IS_JSON = re.compile(r"[^/;\s]+/(?:[^/;\s]+\+)?json\s*(?:;|\Z)", re.IGNORECASE)
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def is_json(content_type: str | None) -> bool:
    """Tell whether a media type stands for JSON; none at all does (CloudEvents 1.0.2, section 3.1.1 of the JSON format)."""
    return content_type is None or content_type == JSON or _IS_JSON.match(content_type) is not None


def check_headers(message: Message, limits: Limits) -> None:
    """Refuse a message with too many, or too long, headers, or with too long a body.

    Raises:
        Undecodable: `too large`, or `headers`.
    """
    if message.body is not None and len(message.body) > limits.body:
        raise Undecodable("too large", f"the body has {len(message.body):,} bytes, more than {limits.body:,}")
    if len(message.headers) > limits.headers:
        raise Undecodable("headers", f"{len(message.headers)} headers are more than {limits.headers}")
    total = sum(map(len, message.headers)) + sum(map(len, filter(None, message.headers.values())))
    if total > min(limits.name, limits.value):
        for name, value in message.headers.items():
            if len(name) > limits.name or (value is not None and len(value) > limits.value):
                raise Undecodable("headers", f"header {name[:80]!r} has {len(name):,} + {len(value or ''):,} characters, more than fit")
    if total > limits.total:
        raise Undecodable("headers", f"the headers have {total:,} characters, more than {limits.total:,}")


def check_json(data: bytes, limit: int) -> None:
    """Refuse JSON that is nested too deeply, in a time that grows with its length only. It need not be valid.

    Raises:
        Undecodable: `too deep`.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return
    # Which kind of bracket it is does not matter here: a decoder reports those that do not match.
    brackets = _STRINGS.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(limit):
        if b"[" * (limit + 1) in brackets:
            break
        # The innermost pairs: one level less each time.
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return
        brackets = inner
    if brackets:
        raise Undecodable("too deep", f"the data is nested deeper than {limit} levels")


def text_of(value: str | bytes, what: str) -> str:
    """Return a header's value as text.

    Raises:
        Undecodable: `attributes`, when it is not valid UTF-8.
    """
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Undecodable("attributes", f"{what} is not valid UTF-8") from None


def written_time(time: datetime) -> str:
    """Return an aware time as RFC 3339 writes it, in UTC."""
    # As JSON it is written the same, in a fraction of the time that `isoformat` takes.
    return _write(time if time.tzinfo is UTC else time.astimezone(UTC))[1:-1].decode()


def parsed_time(text: str) -> datetime:
    """Return the time that RFC 3339 text stands for, in UTC.

    Raises:
        Undecodable: `attributes`, when it is none.
    """
    if not text.isascii() or len(text) > 64:
        text = ""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time if time.tzinfo is UTC else time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Undecodable("attributes", f"the time {text[:80]!r} is not a time of RFC 3339")
