"""The messages of DotNetCore.CAP: headers `cap-*` that are strings, and the JSON of the value alone as the body. Both directions.

https://cap.dotnetcore.xyz/user-guide/en/cap/messaging/ says what the headers mean. The name of a message is its topic, and nothing says which
service published it or in which version, so that comes from what the receiver knows of the topic.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Container, Mapping
from datetime import UTC, datetime, tzinfo

import msgspec

from tidings.codecs.bindings import KAFKA, NATS, Binding
from tidings.codecs.message import LIMITS, CloudEvent, Limits, Message, check_headers, check_json, text_of
from tidings.envelope import RESERVED_HEADERS
from tidings.errors import Undecodable, Unsendable

__all__ = [
    "CALLBACK",
    "ID",
    "SETTABLE",
    "SOURCE",
    "Reply",
    "decode",
    "decode_sns",
    "encode",
    "encode_sns",
    "from_redis",
    "normalized",
    "reply_to",
    "stream_of",
    "to_redis",
]

#: The header that asks for a reply, and names its topic.
CALLBACK = "cap-callback-name"

#: The header with the id that CAP gives a message; it need not be a UUID.
ID = "cap-msg-id"

#: The `source` of events whose publisher does not say one.
SOURCE = "/cap"

#: Headers of CAP that a publisher may set.
SETTABLE = frozenset({CALLBACK, "cap-msg-type", "cap-kafka-key", "cap-pulsar-key", "cap-session-id", "cap-scheduled-enqueue-time-utc"})
# Words of ours for which CAP has none; it hands them through to whoever asks for them.
_EXTRA = ("partitionkey", "sequence", "causationid", "tenantid", "traceparent", "tracestate", "chain", "expires", "scheduledfor")
#: What .NET services read the tenant from that use NetCorePal; its environment is in `x-env`, as ours is.
_TENANT = "x-tenant"
_NOT_PRINTABLE = re.compile(r"[^ -~]")
_COUNT = re.compile(r"[0-9]{1,9}\Z")
_FIGURES = re.compile(r"(\d{1,4})[/.-](\d{1,2})[/.-](\d{1,4}),?\s+(\D*?)\s*(\d{1,2}):(\d{2}):(\d{2})\s*(\D*)\Z", re.ASCII)
_strings = msgspec.json.Decoder(dict[str, str | None]).decode
_text = msgspec.json.Decoder(str).decode
_write = msgspec.json.Encoder().encode


def encode(event: CloudEvent, topic: str, binding: Binding, *, zone: tzinfo | None = None) -> Message:
    """Return the message that CAP would send for this event.

    Args:
        event: its `headers` may hold `cap-callback-name` to ask for a reply, `cap-msg-type`, and what CAP's transports know.
        topic: the full name of the message.
        zone: in which `cap-senttime` is written; this machine's unless given, because the format has none.

    Raises:
        Unsendable: a header cannot be carried: its name is CAP's own, or on NATS its value is not printable ASCII.
    """
    headers: dict[str, str | bytes | None] = {
        "cap-msg-id": event.id,
        "cap-corr-id": event.extensions.get("correlationid", event.id),
        "cap-corr-seq": event.extensions.get("hops", "0"),
        "cap-msg-name": topic,
    }
    if event.time is not None:
        headers["cap-senttime"] = event.time.astimezone(zone).strftime("%m/%d/%Y %H:%M:%S")
    extras: dict[str, str] = dict(event.extensions)
    if event.key is not None:
        extras["partitionkey"] = event.key
    if event.source != SOURCE:
        headers["source"] = event.source
    for name in _EXTRA:
        if name in extras:
            headers[name] = extras[name]
    if "tenantid" in extras:
        headers[_TENANT] = extras["tenantid"]
    for name, value in event.headers.items():
        if name not in SETTABLE:
            binding.check_own(name)
        headers[name] = value
    if binding is NATS:
        for name, sent in headers.items():
            if isinstance(sent, str) and _NOT_PRINTABLE.search(sent):
                raise Unsendable(
                    f"header {name!r} is not printable ASCII, which is all that CAP reads on NATS: put the text into the event"
                )
    key = event.key
    if binding is KAFKA:
        key = event.headers.get("cap-kafka-key", event.id if key is None else key)
    # CAP writes no body for null.
    body = b"" if event.data is None or event.data == b"null" else event.data
    return Message(headers, body, None, key, event.id, topic, str(headers["cap-corr-id"]))


def decode(message: Message, binding: Binding, limits: Limits = LIMITS, *, zone: tzinfo | None = None) -> CloudEvent | None:
    """Return the event that a message of CAP carries, or None when it is none of CAP's.

    The attribute `type` is the message's name; `cap-callback-name` and `cap-msg-type` are among the headers.

    Args:
        zone: of `cap-senttime`; this machine's unless given. A time in no known format is None.

    Raises:
        Undecodable: it has headers of CAP, but not all that it needs, or more than the limits allow.
    """
    check_headers(message, limits)
    given: dict[str, str] = {}
    for name, value in message.headers.items():
        # Elsewhere a header without a value is null, on NATS it is empty.
        if value is None or (binding is NATS and not value):
            continue
        lowered = name.lower()
        if lowered.startswith("cap-"):
            given[lowered] = text_of(value, name)
        else:
            given[name] = value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
    take = given.pop
    event_id, name = take("cap-msg-id", ""), take("cap-msg-name", "")
    if not (event_id and name):
        if event_id or name:
            raise Undecodable("attributes", f"there is no {'cap-msg-name' if event_id else 'cap-msg-id'}")
        return None
    extensions = {"correlationid": take("cap-corr-id", "") or event_id}
    sequence = take("cap-corr-seq", "0")
    extensions["hops"] = str(int(sequence)) if _COUNT.match(sequence) else "1000000"
    sent = take("cap-senttime", "")
    source = take("source", "") or SOURCE
    for extra in _EXTRA:
        if extra in given:
            extensions[extra] = take(extra)
    if "tenantid" not in extensions and _TENANT in given:
        extensions["tenantid"] = given[_TENANT]
    given.pop(_TENANT, None)
    key = extensions.pop("partitionkey", None) or given.get("cap-kafka-key") or given.get("cap-session-id")
    if key is None and message.key is not None and message.key != event_id:
        key = message.key
    own = {
        name: value
        for name, value in given.items()
        if name in SETTABLE or not (name.startswith("cap-") or name.lower() in RESERVED_HEADERS or name.lower() in binding.own)
    }
    body = message.body or b"null"
    check_json(body, limits.depth)
    return CloudEvent(event_id, source, name, body, _sent(sent, zone), None, key, headers=own, extensions=extensions)


class Reply(msgspec.Struct, frozen=True):
    """What a reply to a message has to say.

    Attributes:
        topic: where to publish it.
        correlation_id, sequence: become `cap-corr-id` and `cap-corr-seq`: the extensions `correlationid` and `hops` of the reply.
    """

    topic: str
    correlation_id: str
    sequence: str

    def event(self, event_id: str, source: str, data: bytes, time: datetime | None = None) -> CloudEvent:
        """Return the event that carries the reply."""
        extensions = {"correlationid": self.correlation_id, "hops": self.sequence}
        return CloudEvent(event_id, source, self.topic, data, time, extensions=extensions)


def reply_to(event: CloudEvent, allowed: Container[str]) -> Reply | None:
    """Return how to reply to an event that was read by `decode`, or None when its publisher wants no reply.

    Args:
        allowed: topics that replies may go to: whoever can send messages must not choose freely where we publish.

    Raises:
        Undecodable: `attributes`: the topic is not one of these.
    """
    topic = event.headers.get(CALLBACK)
    if not topic:
        return None
    if topic not in allowed:
        raise Undecodable("attributes", f"{CALLBACK} is {topic[:80]!r}, which is no topic that this service may reply to")
    return Reply(topic, event.id, str(int(event.extensions.get("hops", "0")) + 1))


def to_redis(message: Message) -> dict[str, bytes]:
    """Return the fields of an entry of a stream: `headers` is a JSON object, `body` a JSON string of base64."""
    headers = {name: text_of(value, name) if value is not None else None for name, value in message.headers.items()}
    return {"headers": _write(headers), "body": _write(base64.b64encode(message.body or b"").decode())}


def from_redis(fields: Mapping[str, bytes], limits: Limits = LIMITS) -> Message:
    """Return the message that an entry of a stream carries.

    Raises:
        Undecodable: its fields are not what CAP writes, or longer than the limits allow.
    """
    headers, body = fields.get("headers", b""), fields.get("body", b'""')
    # JSON may need six characters for one, base64 four for three.
    if len(headers) > 6 * limits.total or len(body) > limits.body * 4 // 3 + 8:
        raise Undecodable("too large", f"the fields have {len(headers):,} and {len(body):,} bytes, more than fit")
    try:
        return Message(_strings(headers), base64.b64decode(_text(body), validate=True))
    except (ValueError, RecursionError) as error:
        raise Undecodable("data", f"the fields of the stream's entry are not those of CAP: {error}") from error


def encode_sns(message: Message) -> tuple[str, dict[str, dict[str, str]]]:
    """Return `Message` and `MessageAttributes` for SNS; headers without a value have no place there."""
    attributes = {
        name: {"DataType": "String", "StringValue": text_of(value, name)} for name, value in message.headers.items() if value is not None
    }
    return (message.body or b"").decode(), attributes


class _Attribute(msgspec.Struct):
    Value: str = ""


class _Notification(msgspec.Struct):
    Message: str
    MessageAttributes: dict[str, _Attribute] = {}


_notification = msgspec.json.Decoder(_Notification).decode


def decode_sns(body: bytes, limits: Limits = LIMITS) -> Message:
    """Return the message in the JSON that SNS puts into a queue that is subscribed without raw delivery.

    Raises:
        Undecodable: it is no such JSON, or longer than the limits allow.
    """
    if len(body) > 6 * (limits.body + limits.total):
        raise Undecodable("too large", f"the body has {len(body):,} bytes, more than fit")
    try:
        found = _notification(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable("data", f"the body is no notification of SNS: {error}") from error
    return Message({name: attribute.Value for name, attribute in found.MessageAttributes.items()}, found.Message.encode())


def normalized(name: str, binding: Binding) -> str:
    """Return a group or topic as CAP writes it where dots and the like have a meaning: on NATS, and on SNS and SQS."""
    if binding is NATS:
        return re.sub(r"[. >*]", "_", name)
    if binding.name == "SNS/SQS":
        return name.replace(".", "-").replace(":", "_")[:256]
    return name


def stream_of(topic: str) -> str:
    """Return the name of the stream that CAP gives a topic on NATS: its first word, which it shares with others."""
    return normalized(topic.partition(".")[0], NATS)


def _sent(text: str, zone: tzinfo | None) -> datetime | None:
    """Return the time that a publisher has written without its zone, formerly in the format of its country."""
    time: datetime | None = None
    try:
        time = datetime.fromisoformat(text[:40])
    except ValueError:
        if (found := _FIGURES.match(text[:60])) is not None:
            first, second, third, before, *clock, after = found.groups()
            half = (before or after).strip().lower()
            # 07/01/2026 is the invariant culture's first of July; the year comes first elsewhere. 31/12/2026 and 31.12.2026 leave no doubt.
            year, month, day = (first, second, third) if len(first) == 4 else (third, first, second)
            if int(month) > 12 or "." in text[:6]:
                month, day = day, month
            hour = int(clock[0]) % 12 + 12 if half in ("pm", "下午") else int(clock[0]) % 12 if half in ("am", "上午") else int(clock[0])
            try:
                time = datetime(int(year), int(month), int(day), hour, int(clock[1]), int(clock[2]))  # noqa: DTZ001 - the zone follows
            except ValueError:
                return None
    if time is None:
        return None
    try:
        return (time if time.tzinfo is not None or zone is None else time.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
