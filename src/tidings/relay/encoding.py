"""From a row of the log to the message that leaves the service."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from tidings.codecs import cap, cloudevents
from tidings.codecs.message import CloudEvent, Message
from tidings.contracts import EventType
from tidings.envelope import RESERVED_HEADERS
from tidings.errors import Unsendable
from tidings.relay.routing import Routing
from tidings.transports.base import Outgoing, Transport

__all__ = ["Encoder", "Row"]

_headers = msgspec.json.Decoder(dict[str, str]).decode

#: What of an event's headers is the event's own, and not its publisher's.
_EXTENSIONS = RESERVED_HEADERS - {"subject"}


class Row(msgspec.Struct, gc=False):
    """An event as the log, or a delivery, has it; headers and data as JSON. Thousands wait in memory: the garbage collector need not look at them."""

    position: int | None
    id: Any
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    headers: str | bytes
    data: str | bytes
    time: datetime | str | None


class _Known(NamedTuple):
    """What the events of one type have in common."""

    type: str
    source: str
    schema: str | None
    template: cloudevents.Template


class Encoder:
    """Writes events of one service in the wire format of a transport."""

    def __init__(self, service: str, routing: Routing, transport: Transport) -> None:
        self._service = service
        self._routing = routing
        self._binding = transport.binding
        self._wire = transport.wire
        self._known: dict[tuple[str, int | None], _Known] = {}

    def outgoing(self, row: Row) -> Outgoing:
        """Return the message with its topic.

        Raises:
            Unsendable: the format cannot carry its headers, or they are no headers.
        """
        known = self._known.get((row.name, row.version)) or self._look_up(row.name, row.version)
        data = row.data.encode() if isinstance(row.data, str) else row.data
        if row.headers == "{}" and self._wire == "cloudevents":
            return Outgoing(row.topic, known.template.message(str(row.id), _aware(row.time), row.key, row.position, data))
        return Outgoing(row.topic, self._message(row, known, data))

    def _message(self, row: Row, known: _Known, data: bytes) -> Message:
        extensions: dict[str, str] = {}
        own: dict[str, str] = {}
        subject = None
        if row.headers not in ("{}", b"{}"):
            extensions, own, subject = _sorted(row)
        if row.position is not None:
            extensions["sequence"] = str(row.position)
        event = CloudEvent(
            str(row.id), known.source, known.type, data, _aware(row.time), subject, row.key, dataschema=known.schema, extensions=extensions,
            headers=own,
        )  # fmt: skip
        if self._wire == "cap":
            return cap.encode(event, row.topic, self._binding)
        if self._wire == "structured":
            return cloudevents.encode_structured(event, self._binding)
        return cloudevents.encode_binary(event, self._binding)

    def _look_up(self, name: str, version: int | None) -> _Known:
        kind = self._routing.type_of(name, version)
        contract = None if kind is None else kind.contract
        full = cloudevents.type_of(name, version, None if contract is None else contract.type_prefix)
        source = (None if contract is None else contract.source) or f"/{self._service}"
        schema = None if kind is None or contract is None or contract.schema_base is None else _schema(contract.schema_base, kind, version)
        known = _Known(full, source, schema, cloudevents.Template(self._binding, source, full, schema))
        if kind is not None:
            # Names that no contract has come from outside the code: there may be any number of them.
            self._known[name, version] = known
        return known


def _schema(base: str, kind: EventType[Any], version: int | None) -> str:
    return f"{base.rstrip('/')}/{cloudevents.type_of(kind.name, version)}.json"


def _sorted(row: Row) -> tuple[dict[str, str], dict[str, str], str | None]:
    try:
        given = _headers(row.headers)
    except (ValueError, RecursionError) as error:
        raise Unsendable(f"the headers of event {row.id} are not a JSON object of strings: {error}") from error
    subject = given.pop("subject", None)
    extensions = {name: value for name, value in given.items() if name in _EXTENSIONS}
    own = {name: value for name, value in given.items() if name not in _EXTENSIONS} if len(extensions) < len(given) else {}
    return extensions, own, subject


def _aware(time: datetime | str | None) -> datetime | None:
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)
