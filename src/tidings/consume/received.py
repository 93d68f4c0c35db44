"""An event on its way to a handler, from the log or from a delivery."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from tidings.envelope import RESERVED_HEADERS, Envelope
from tidings.errors import DecodeError
from tidings.ids import event_key, lane_of, uuid_event_key
from tidings.publish.headers import CHAIN, MAX_NAME
from tidings.stores.base import Delivery

__all__ = ["Received", "from_delivery", "from_row"]

_headers = msgspec.json.Decoder(dict[str, Any]).decode


class Received(msgspec.Struct, gc=False, eq=False):
    """One event with what is needed to route, order, recognise and decode it. Shared by the subscriptions of a group.

    Thousands of them wait in memory, so the garbage collector is kept from walking through them: nothing that they hold leads back to one.

    Attributes:
        uuid: the id, if it came as a UUID.
        event_key: the inbox's key of it.
        ticket: its place in the order of reading, when it came from a log.
    """

    id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: Any
    sequence: int | None
    headers: str | bytes
    data: str | bytes
    event_key: str
    uuid: UUID | None = None
    ticket: Any = None
    _lane: str | None = None
    _parsed: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, event_id: str | UUID, source: str, name: str, version: int | None, topic: str, key: str | None, time: Any, sequence: int | None,
        headers: str | bytes, data: str | bytes, key_of_event: str | None = None,
    ) -> Received:  # fmt: skip
        """Return an event; its inbox key is worked out if it is not given."""
        if isinstance(event_id, UUID):
            text = str(event_id)
            known = uuid_event_key(source, text) if key_of_event is None else key_of_event
            return cls(text, source, name, version, topic, key, time, sequence, headers, data, known, event_id)
        known = event_key(source, event_id) if key_of_event is None else key_of_event
        return cls(event_id, source, name, version, topic, key, time, sequence, headers, data, known)

    @property
    def size(self) -> int:
        """Roughly how many bytes of memory it holds."""
        return len(self.data) + len(self.headers) + 600

    @property
    def lane(self) -> str:
        """The lane of its partition key; its own event key when it has none."""
        if self._lane is None:
            self._lane = self.event_key if self.key is None else lane_of(self.key)
        return self._lane

    @property
    def extensions(self) -> dict[str, Any]:
        """Its headers, parsed.

        Raises:
            DecodeError: they are not a JSON object.
        """
        if self._parsed is None:
            try:
                self._parsed = _headers(self.headers)
            except (ValueError, RecursionError, UnicodeDecodeError) as error:
                raise DecodeError(f"the headers of event {self.id} are not a JSON object: {error}") from error
        return self._parsed

    def expires(self) -> datetime | None:
        """When it ends unhandled, or None. A word that is no time is none: what cannot expire must be handled."""
        # Most events do not expire: look for the word before paying for the parse.
        if ("expires" if isinstance(self.headers, str) else b"expires") not in self.headers:  # type: ignore[operator]
            return None
        try:
            return _time(self.extensions.get("expires"))
        except (DecodeError, ValueError, TypeError):
            return None

    def envelope(self, attempt: int, subscription: str) -> Envelope:
        """Return its envelope for one attempt.

        Raises:
            DecodeError: the headers or the id cannot be understood.
        """
        if self.headers == "{}" and self.uuid is not None:
            # What most events of a log are. The attributes below all come from the headers.
            return Envelope(
                id=self.uuid, source=self.source, name=self.name, version=self.version, topic=self.topic, key=self.key,
                time=_time(self.time) or datetime.now(UTC), sequence=self.sequence, correlation_id=self.id, attempt=attempt,
                subscription=subscription,
            )  # fmt: skip
        extensions = self.extensions
        try:
            hops = extensions.get("hops")
            return Envelope(
                id=_id(self.id, self.event_key) if self.uuid is None else self.uuid,
                source=self.source,
                name=self.name,
                version=self.version,
                topic=self.topic,
                key=self.key,
                time=_time(self.time) or datetime.now(UTC),
                sequence=self.sequence,
                correlation_id=_text(extensions.get("correlationid")) or self.id,
                causation_id=_text(extensions.get("causationid")),
                attempt=attempt,
                subscription=subscription,
                scheduled_for=_time(extensions.get("scheduledfor")),
                expires=self.expires() if "expires" in extensions else None,
                subject=_text(extensions.get("subject")),
                tenant=_text(extensions.get("tenantid")),
                traceparent=_text(extensions.get("traceparent")),
                tracestate=_text(extensions.get("tracestate")),
                hops=0 if hops is None else _hops(hops),
                chain=_chain(extensions.get("chain")),
                headers={name: str(value) for name, value in extensions.items() if name not in RESERVED_HEADERS},
            )
        except (ValueError, TypeError) as error:
            raise DecodeError(f"the headers of event {self.id} cannot be understood: {error}") from error


def from_row(row: Any) -> Received:
    """Return the event of a row of the log; see `stores.base.Batch` for its columns."""
    position, event_id, source, name, version, topic, key, headers, data, time, *_ = row
    return Received.of(event_id, source, name, version, topic, key, time, position, headers, data)


def from_delivery(row: Delivery) -> Received:
    """Return the event of a delivery."""
    return Received.of(
        row.event_id, row.source, row.name, row.version, row.topic, row.key, row.time, row.sequence, row.headers, row.data, row.event_key
    )


def _id(text: str, event_key: str) -> UUID:
    """Return an id as a UUID: those that others give need not be any."""
    try:
        return UUID(text)
    except ValueError:
        return UUID(event_key)


def _time(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    parsed = datetime.fromisoformat(str(value))
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)


def _text(value: Any) -> str | None:
    # Input from outside: what is no text has no meaning here, and must not be handed on.
    return value if isinstance(value, str) else None


def _chain(value: Any) -> tuple[str, ...]:
    # Input from outside, to be shown to people.
    if not isinstance(value, str):
        return ()
    return tuple(name[:MAX_NAME] for name in value[: CHAIN * (MAX_NAME + 1)].split()[-CHAIN:] if name.isprintable())


def _hops(value: Any) -> int:
    # Input from outside: anything that is no small number counts as the most.
    try:
        return min(max(int(value), 0), 1_000_000)
    except (ValueError, OverflowError, TypeError):
        return 1_000_000
