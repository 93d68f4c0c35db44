"""From a message of a broker to an event that can be handled, or to the reason why it cannot be. Nothing in a message is trusted, or imported."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from msgspec import convert

from tidings.codecs import cap
from tidings.codecs.cloudevents import name_and_version, type_of
from tidings.codecs.message import JSON, CloudEvent, Limits, Message, check_json, is_json, parsed_time
from tidings.codecs.wire import Format, decode
from tidings.consume.received import Received
from tidings.contracts import EventType
from tidings.envelope import RESERVED_HEADERS
from tidings.errors import Undecodable
from tidings.ids import event_key, uuid_event_key
from tidings.transports.base import Incoming, Transport

__all__ = ["Opener"]

_COUNT = re.compile(r"[0-9]{1,18}\Z")
_SERVICE = re.compile(r"/[^/@ ]{1,100}\Z")
_LONGEST = 101
#: Characters of the attributes of a usual message; no limit is as low.
_SHORT = 255
#: What percent-encoding leaves as it is, and what would not be taken for quoted.
_PLAIN = re.compile(r"[^%\"]*\Z")
_NONE: dict[str, str] = {}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
#: What of a message's attributes has a place of its own here.
_PLACED = frozenset({"sequence", "partitionkey"})
_write = json.JSONEncoder(separators=(",", ":")).encode


class Opener:
    """Reads the messages of one broker.

    Args:
        service: the receiving service: what it has published itself comes back under its own name.
        kinds: the event types of its contracts.
        environment: given to topic namers.
        most: bytes that a message may have.
    """

    def __init__(
        self, transport: Transport, service: str, kinds: Sequence[EventType[Any]], environment: str | None, most: int = 1 << 20
    ) -> None:
        self._transport = transport
        self._service = service
        self._limits = Limits(body=most)
        self._wires: tuple[Format, ...] = ("cloudevents", "cap") if transport.wire == "cap" else ("cloudevents",)
        binding = transport.binding
        self._percent = binding.percent
        self._usually = [binding.header(name) for name in ("specversion", "id", "source", "type", "time", "partitionkey", "sequence")]
        self._reads_cap = "cap" in self._wires
        self._names = {kind.name for kind in kinds}
        self._prefixes = sorted({kind.contract.type_prefix for kind in kinds if kind.contract.type_prefix}, key=len, reverse=True)
        self._types: dict[str, tuple[str, int | None]] = {
            type_of(kind.name, kind.version, kind.contract.type_prefix): (kind.name, kind.version) for kind in kinds
        }
        self._sources = {kind.name: kind.contract.source for kind in kinds if kind.contract.source is not None}
        self._by_topic: dict[str, list[EventType[Any]]] = {}
        for kind in kinds:
            self._by_topic.setdefault(kind.topic(environment), []).append(kind)
        # Topics that are called as their only event is: nothing else has any business there.
        self._own = {topic for topic, there in self._by_topic.items() if {kind.name for kind in there} == {topic}}

    def open(self, incoming: Incoming) -> Received:
        """Return the event.

        Raises:
            Undecodable: there is none, or none that could be handled by anybody, and why.
        """
        if incoming.fault:
            raise Undecodable("unreadable", incoming.fault)
        event = self._usual(incoming.message) or decode(incoming.message, self._transport.binding, self._wires, self._limits)
        if event.data is not None and not is_json(event.content_type):
            raise Undecodable("data", f"the data is {(event.content_type or '')[:80]!r}, and events are JSON")
        from_cap = self._reads_cap and event.type == _text(incoming.message.headers.get("cap-msg-name"))
        name, version = self._from_cap(event) if from_cap else self._types.get(event.type) or self._name(event.type)
        headers, sequence = _headers(event, from_cap=from_cap)
        source = event.source
        if len(source) <= _LONGEST and not (from_cap and source == cap.SOURCE):
            source = _service(source)
        whose = source
        if event.source == self._sources.get(name):
            # In the log, this service's own events bear its name and not the contract's source: both ways to an event must give one inbox row.
            whose = self._service
        time = event.time or datetime.now(UTC)
        data = b"null" if event.data is None else event.data
        if _UUID.match(event.id):
            key, uuid = uuid_event_key(whose, event.id), convert(event.id, UUID)
        else:
            key, uuid = event_key(whose, event.id), None
        return Received(event.id, source, name, version, incoming.topic, event.key, time, sequence, headers, data, key, uuid)

    def _usual(self, message: Message) -> CloudEvent | None:
        """Return what `decode` returns, in half of its time, for a message as a relay of ours sends most of them; None for any other."""
        headers, body = message.headers, message.body
        get = headers.get
        values = [get(name) for name in self._usually]
        if len(headers) != len(values) - values.count(None) or body is None or message.content_type != JSON:
            return None
        try:
            texts = [value.decode() if isinstance(value, bytes) else value for value in values]
        except UnicodeDecodeError:
            return None
        version, event_id, source, kind, time, key, sequence = texts
        if version != "1.0" or not (event_id and source and kind) or sum(map(len, filter(None, texts))) > _SHORT:
            return None
        if len(body) > self._limits.body or (time is not None and time.isdigit()):
            return None
        if self._percent and not _PLAIN.match(f"{event_id}{source}{kind}{time}{key}{sequence}"):
            return None
        check_json(body, self._limits.depth)
        when = None if time is None else parsed_time(time)
        extensions = _NONE if sequence is None else {"sequence": sequence}
        return CloudEvent(event_id, source, kind, body, when, None, message.key if key is None else key, JSON, None, extensions, _NONE)

    def is_stranger(self, received: Received) -> bool:
        """Whether nothing is known of this name, on a topic that belongs to one event: it is no event of some other subscriber's."""
        return received.name not in self._names and received.topic in self._own

    def _name(self, kind: str) -> tuple[str, int | None]:
        for prefix in self._prefixes:
            found = name_and_version(kind, prefix)
            if found[0] in self._names:
                return found
        return name_and_version(kind)

    def _from_cap(self, event: CloudEvent) -> tuple[str, int | None]:
        """Find out what a message of CAP is, which says no more than its topic, and often the name of its class."""
        there = self._by_topic.get(event.type, ())
        if not there:
            return self._types.get(event.type) or self._name(event.type)
        called = event.headers.get("cap-msg-type")
        named = [kind for kind in there if kind.cls.__name__ == called] or list(there)
        if len({kind.name for kind in named}) > 1:
            raise Undecodable(
                "attributes", f"the topic {event.type!r} has several event types, and cap-msg-type={(called or '')[:80]!r} is none of them"
            )
        newest = max(named, key=lambda kind: kind.version or 0)
        return newest.name, newest.version


@lru_cache(512)
def _service(source: str) -> str:
    """Return the name of the service that an attribute `source` stands for; any other source as it is."""
    return source[1:] if _SERVICE.match(source) else source


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _headers(event: CloudEvent, *, from_cap: bool) -> tuple[str, int | None]:
    """Return the headers as the log would have them, and the position in the publisher's log."""
    extensions = event.extensions
    sequence = extensions.get("sequence", "")
    number = int(sequence) if _COUNT.match(sequence) else None
    if not event.headers and event.subject is None and not from_cap and _PLACED.issuperset(extensions):
        return "{}", number
    headers = {name: value for name, value in event.headers.items() if name.lower() not in RESERVED_HEADERS}
    headers.update({name: value for name, value in extensions.items() if name not in _PLACED})
    if event.subject is not None:
        headers["subject"] = event.subject
    if from_cap:
        # Handlers find it here: it is no UUID.
        headers[cap.ID] = event.id
    return _write(headers), number
