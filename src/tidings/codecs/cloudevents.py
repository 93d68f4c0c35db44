"""CloudEvents 1.0.2: binary mode (attributes in headers, data in the body), structured mode and lists (all of it as JSON in the body).

Pure functions over messages. The specification is at https://github.com/cloudevents/spec; its bindings differ in `Binding` only.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from tidings.codecs.bindings import AMQP, Binding
from tidings.codecs.message import (
    JSON,
    LIMITS,
    CloudEvent,
    Limits,
    Message,
    check_headers,
    check_json,
    is_json,
    parsed_time,
    written_time,
)
from tidings.envelope import RESERVED_HEADERS
from tidings.errors import Undecodable, Unsendable

__all__ = [
    "BATCH",
    "STRUCTURED",
    "Template",
    "decode",
    "decode_batch",
    "encode_batch",
    "encode_binary",
    "encode_structured",
    "name_and_version",
    "type_of",
]

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
#: JSON too: what the SDK for Go writes on NATS.
_UNSAID = "application/cloudevents"

_VERSION = re.compile(r"(?s)(.+)\.v([1-9][0-9]{0,4})\Z")
_NAME = re.compile(r"[a-z0-9]+\Z")
_KNOWN = RESERVED_HEADERS - {"data"}
_QUOTE = ord('"')
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_events = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_write = msgspec.json.Encoder().encode

#: JSON numbers that an attribute may have; CloudEvents' own integers have 32 bits.
_NUMBER_LENGTH = 20


def type_of(name: str, version: int | None, prefix: str | None = None) -> str:
    """Return the attribute `type` of an event type: `order.placed.v2`, behind the contract's prefix if it has one."""
    return f"{prefix or ''}{name}" if version is None else f"{prefix or ''}{name}.v{version}"


def name_and_version(type: str, prefix: str | None = None) -> tuple[str, int | None]:  # noqa: A002 - the attribute's name
    """Return the event name and version that an attribute `type` stands for; version None when it ends with none.

    A prefix that it does not have is not removed.
    """
    name = type.removeprefix(prefix or "")
    found = _VERSION.match(name)
    return (name, None) if found is None or int(found[2]) > 32767 else (found[1], int(found[2]))


def encode_binary(event: CloudEvent, binding: Binding) -> Message:
    """Return a message with the attributes in its headers and the data as its body.

    Raises:
        Unsendable: one of the publisher's headers has a name that this binding cannot carry, or there are too many.
    """
    header, encoded = binding.header, binding.encoded
    event_id = encoded(event.id)
    headers: dict[str, str | bytes | None] = {
        header("specversion"): "1.0",
        header("id"): event_id,
        header("source"): encoded(event.source),
        header("type"): encoded(event.type),
    }
    if event.time is not None:
        headers[header("time")] = written_time(event.time)
    if event.subject is not None:
        headers[header("subject")] = encoded(event.subject)
    if event.dataschema is not None:
        headers[header("dataschema")] = encoded(event.dataschema)
    if event.key is not None:
        headers[header("partitionkey")] = encoded(event.key)
    for name, value in event.extensions.items():
        headers[header(name)] = encoded(value)
    for name, value in event.headers.items():
        binding.check_own(name)
        headers[name] = encoded(value)
    if binding.most is not None and len(headers) > binding.most:
        raise Unsendable(f"{len(headers)} headers are more than the {binding.most} of {binding.name}: use structured mode")
    return Message(headers, event.data, event.content_type, event.key, event.id, event.type)


class Template:
    """What the messages of one event type have in common, written once.

    `message` writes what `encode_binary` does for an event without headers of its own, in less time. For bindings without a bound on headers.
    """

    __slots__ = ("_common", "_encoded", "_id", "_key", "_sequence", "_time", "_type")

    def __init__(self, binding: Binding, source: str, type: str, dataschema: str | None = None) -> None:  # noqa: A002 - the attribute's name
        header = binding.header
        self._encoded = binding.encoded if binding.percent else None
        self._type = type
        self._common = {
            header("specversion"): "1.0",
            header("source"): binding.encoded(source),
            header("type"): binding.encoded(type),
            **({} if dataschema is None else {header("dataschema"): binding.encoded(dataschema)}),
        }
        self._id, self._time, self._key, self._sequence = header("id"), header("time"), header("partitionkey"), header("sequence")

    def message(self, event_id: str, time: datetime | None, key: str | None, sequence: int | None, data: bytes) -> Message:
        """Return the message of one event. The id is a UUID."""
        headers: dict[str, str | bytes | None] = {**self._common, self._id: event_id}
        if time is not None:
            headers[self._time] = written_time(time)
        if key is not None:
            headers[self._key] = key if self._encoded is None else self._encoded(key)
        if sequence is not None:
            headers[self._sequence] = str(sequence)
        return Message(headers, data, JSON, key, event_id, self._type)


def encode_structured(event: CloudEvent, binding: Binding) -> Message:
    """Return a message whose body is all of the event; only the publisher's own headers, and what brokers route by, are headers.

    Raises:
        Unsendable: one of the publisher's headers has a name that this binding cannot carry.
    """
    headers: dict[str, str | bytes | None] = {}
    for name, value in event.headers.items():
        binding.check_own(name)
        headers[name] = binding.encoded(value)
    members = _as_json(event)
    for name in binding.routed:
        if isinstance(text := members.get(name), str):
            headers[binding.header(name)] = binding.encoded(text)
    return Message(headers, _write(members), STRUCTURED, event.key, event.id, event.type)


def encode_batch(events: Sequence[CloudEvent]) -> Message:
    """Return a message whose body is a list of events; the publishers' own headers have no place there and are left out."""
    return Message({}, _write([_as_json(event) for event in events]), BATCH)


def decode(message: Message, binding: Binding, limits: Limits = LIMITS) -> CloudEvent | None:
    """Return the event that a message carries in binary or structured mode, or None when it says nothing of CloudEvents.

    Raises:
        Undecodable: it says so, but is none, or more than the limits allow.
    """
    check_headers(message, limits)
    if message.content_type is not None and message.content_type[:23].lower() == "application/cloudevents":
        media = message.content_type.partition(";")[0].strip().lower()
        if media == BATCH:
            raise Undecodable("unknown format", f"{BATCH} is a list, and events are read here one in a message ({STRUCTURED})")
        if media not in (STRUCTURED, _UNSAID):
            raise Undecodable("unknown format", f"{media!r} is not read here; {STRUCTURED} is")
        return _structured(message, binding, limits)
    attributes: dict[str, str] = {}
    own: dict[str, str | bytes | None] = {}
    known, decoded = binding.known, binding.decoded if binding.percent else None
    attribute: str | None = None
    try:
        for name, value in message.headers.items():
            attribute = known.get(name) or binding.attribute(name)
            if attribute is None:
                own[name] = value
            elif value is not None:
                text = value if isinstance(value, str) else value.decode()
                if decoded is not None and ("%" in text or text[:1] == '"'):
                    text = decoded(text, attribute)
                if attributes.setdefault(attribute, text) != text:
                    raise Undecodable("attributes", f"there are two different headers for {attribute!r}")
    except UnicodeDecodeError:
        raise Undecodable("attributes", f"{attribute} is not valid UTF-8") from None
    if "specversion" not in attributes:
        bare = binding.bare and message.content_type is None and not attributes and b'"specversion"' in (message.body or b"")
        return _structured(message, binding, limits) if bare and not any(name.startswith("cap-") for name in own) else None
    if binding is AMQP and (time := attributes.get("time", "")).isascii() and time.isdigit():
        attributes["time"] = _from_milliseconds(time)
    if "datacontenttype" in attributes or "data" in attributes:
        raise Undecodable("attributes", "the data and its content type have places of their own in binary mode")
    if message.body is not None and is_json(message.content_type):
        check_json(message.body, limits.depth)
    return _event(attributes, message.body, message.content_type, _own(own, binding) if own else {}, message.key)


def _structured(message: Message, binding: Binding, limits: Limits) -> CloudEvent:
    attributes, data, content_type = _members_of(message.body or b"", limits)
    # Attributes may stand in headers, too; those in the body count.
    others = {name: value for name, value in message.headers.items() if binding.attribute(name) is None}
    return _event(attributes, data, content_type, _own(others, binding), message.key)


def decode_batch(body: bytes, limits: Limits = LIMITS) -> list[CloudEvent]:
    """Return the events of a list (`BATCH`).

    Raises:
        Undecodable: it is none, one of them is no event, or there are more than the limits allow.
    """
    if len(body) > limits.body:
        raise Undecodable("too large", f"the body has {len(body):,} bytes, more than {limits.body:,}")
    check_json(body, limits.depth + 2)
    try:
        raw = _events(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable("data", f"the body is no JSON list: {error}") from error
    if len(raw) > limits.batch:
        raise Undecodable("too large", f"{len(raw):,} events are more than {limits.batch:,}")
    return [_event(*_members_of(bytes(item), limits), {}, None) for item in raw]


def _as_json(event: CloudEvent) -> dict[str, str | msgspec.Raw]:
    members: dict[str, str | msgspec.Raw] = {"specversion": "1.0", "id": event.id, "source": event.source, "type": event.type}
    if event.time is not None:
        members["time"] = written_time(event.time)
    if event.subject is not None:
        members["subject"] = event.subject
    if event.dataschema is not None:
        members["dataschema"] = event.dataschema
    if event.key is not None:
        members["partitionkey"] = event.key
    for name, value in event.extensions.items():
        if not _NAME.match(name) or name == "data":
            raise Unsendable(f"{name!r} is no name of a CloudEvents attribute: lower-case letters and digits")
        members[name] = value
    if event.content_type is not None:
        members["datacontenttype"] = event.content_type
    if event.data is not None:
        if is_json(event.content_type):
            members["data"] = msgspec.Raw(event.data)
        else:
            members["data_base64"] = base64.b64encode(event.data).decode()
    return members


def _members_of(body: bytes, limits: Limits) -> tuple[dict[str, str], bytes | None, str | None]:
    """Return the attributes, the data and its content type of an event in JSON."""
    check_json(body, limits.depth + 1)
    try:
        body.decode()  # the decoder skips over texts that it does not return without looking whether they are UTF-8
        members = _members(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable("data", f"the body is no JSON object: {error}") from error
    if len(members) > limits.headers:
        raise Undecodable("attributes", f"{len(members)} attributes are more than {limits.headers}")
    data = members.pop("data", None)
    encoded = members.pop("data_base64", None)
    attributes: dict[str, str] = {}
    for name, raw in members.items():
        value = bytes(raw)
        if name not in _KNOWN and (not _NAME.match(name) or len(name) > limits.name):
            raise Undecodable("attributes", f"{name[:80]!r} is no name of an attribute")
        if len(value) > limits.value:
            raise Undecodable("attributes", f"attribute {name!r} has {len(value):,} bytes, more than {limits.value:,}")
        if value[0] == _QUOTE:
            attributes[name] = _string(value) if b"\\" in value else value[1:-1].decode()
        elif value != b"null":
            attributes[name] = _number(name, value)
    content_type = attributes.pop("datacontenttype", None)
    if data is None:
        if encoded is None or bytes(encoded) == b"null":
            return attributes, None, content_type
        try:
            return attributes, base64.b64decode(_string(encoded), validate=True), content_type
        except ValueError as error:
            raise Undecodable("data", f"data_base64 is not base64: {error}") from error
    if encoded is not None:
        raise Undecodable("data", "there are both data and data_base64")
    raw_data = bytes(data)
    if not is_json(content_type) and raw_data.startswith(b'"'):
        return attributes, _string(raw_data).encode(), content_type
    return attributes, raw_data, content_type


def _number(name: str, raw: bytes) -> str:
    if raw in (b"true", b"false") or (raw[:1] not in b"[{" and len(raw) <= _NUMBER_LENGTH):
        return raw.decode()
    raise Undecodable("attributes", f"attribute {name!r} is neither a text nor a small number nor a truth value")


def _from_milliseconds(text: str) -> str:
    """Return as RFC 3339 what AMQP 1.0 calls a timestamp; a sender may use its own type for a time."""
    try:
        return datetime.fromtimestamp(int(text[:16]) / 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        raise Undecodable("attributes", f"the time {text[:80]!r} is not a number of milliseconds since 1970") from None


def _own(headers: Mapping[str, str | bytes | None], binding: Binding) -> dict[str, str]:
    """Return the publisher's own headers; without names that mean something to us, which nobody has said by them."""
    own: dict[str, str] = {}
    if not binding.foreign:
        return own
    for name, value in headers.items():
        if value is None or name.lower() in RESERVED_HEADERS or name.lower() in binding.own:
            continue
        text = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
        if binding.percent and "%" in text:
            with suppress(Undecodable):  # what is not ours stays as it is
                text = binding.decoded(text, name)
        own[name] = text
    return own


def _event(
    attributes: dict[str, str], data: bytes | None, content_type: str | None, headers: Mapping[str, str], key: str | None
) -> CloudEvent:
    take = attributes.pop
    version = take("specversion", None)
    if version != "1.0":
        raise Undecodable(
            "unknown format", f"CloudEvents {'without a version' if version is None else version[:20]!r} is not read here; 1.0 is"
        )
    event_id, source, event_type = take("id", ""), take("source", ""), take("type", "")
    if not (event_id and source and event_type):
        missing = [name for name, value in (("id", event_id), ("source", source), ("type", event_type)) if not value]
        raise Undecodable("attributes", f"{' and '.join(missing)} must be there, and not be empty")
    time = take("time", None)
    partition_key = take("partitionkey", None)
    return CloudEvent(
        event_id,
        source,
        event_type,
        data,
        None if time is None else parsed_time(time),
        take("subject", None),
        partition_key if partition_key is not None else key,
        content_type,
        take("dataschema", None),
        attributes,
        headers,
    )
