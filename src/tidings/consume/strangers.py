"""What no subscription can be given: messages that nobody understands, kept as dead deliveries of the group's own, bytes and all.

They belong to a subscription of the group that has no handlers, `inbound:rabbitmq`: it is listed, redriven and discarded as any other. Redriven, a
message is read again, by code that may know more by now, and handed to the subscriptions that want it.
"""

from __future__ import annotations

import base64
import json
from binascii import Error as NoBase64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, cast

from sqlalchemy import Connection

from tidings.codecs.message import Message
from tidings.consume.breaker import Breaker, Circuit
from tidings.consume.deadline import Deadline
from tidings.consume.execution import Attempt, Execution, Failed
from tidings.consume.failures import failure_of, printable, remember
from tidings.consume.opening import Opener
from tidings.consume.parking import MAX_KEY, guarded, parking
from tidings.consume.received import Received
from tidings.consume.retry import Retry
from tidings.consume.routing import Compiled
from tidings.consume.subscriptions import SubscriptionOptions
from tidings.errors import Undecodable
from tidings.ids import event_key
from tidings.publish.publisher import Publisher
from tidings.stores.base import Parking, Standing
from tidings.stores.sql.queries import INBOUND
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Incoming, Transport

__all__ = ["INBOUND", "Reopening", "compiled_inbound", "gap_parking", "inbound_name", "stored", "stranger_parking", "unpacked"]

#: Most bytes of headers, and of a body that is too large anyway, that are kept.
_KEPT = 1 << 16
_RETRY = Retry(attempts=1)


def inbound_name(transport: Transport) -> str:
    """Return what the subscription for messages that nobody understands is called."""
    return INBOUND + transport.name


def compiled_inbound(group: str, transport: Transport) -> Compiled:
    """Return that subscription: it parks, is tried again, redriven and discarded as any other, and handles nothing itself."""
    name = inbound_name(transport)
    label = f"{group}/{name}"
    return Compiled(
        name, group, SubscriptionOptions(ordered=False, shared=False, timeout=None), _RETRY, {}, (), newest={}, transactional=False, batch=None,
        circuit=Circuit(Breaker.off(), label=label), label=label,
    )  # fmt: skip


def stored(incoming: Incoming, most: int) -> tuple[bytes, bytes]:
    """Return headers and body as a delivery keeps them: what is no text as base64, what is too much cut, and said to be.

    Args:
        most: bytes of a body that are kept whole.
    """
    message = incoming.message
    headers: dict[str, Any] = {}
    left = _KEPT
    for name, value in message.headers.items():
        left -= len(name) + len(value or "")
        if left < 0:
            break
        headers[name] = _told(value)
    about: dict[str, Any] = {"topic": incoming.topic, "coordinates": incoming.coordinates, "headers": headers}
    if len(headers) < len(message.headers):
        about["headers_left_out"] = len(message.headers) - len(headers)
    for what in ("content_type", "key", "id", "type", "correlation_id"):
        if (value := getattr(message, what)) is not None:
            about[what] = value[:_KEPT]
    body = message.body
    if body is None:
        about["no_body"] = True
    elif len(body) > most:
        about["cut"] = {"bytes": len(body), "blake2b": blake2b(body, digest_size=16).hexdigest()}
        body = body[:_KEPT]
    if incoming.fault:
        about["fault"] = incoming.fault[:2000]
    return json.dumps(about).encode(), body or b""


def unpacked(headers: str | bytes, data: str | bytes) -> Incoming:
    """Return the message that `stored` has kept.

    Raises:
        Undecodable: it was cut, or somebody has changed it into what is none.
    """
    try:
        about = json.loads(headers)
        given = {name: _untold(value) for name, value in about["headers"].items()}
        topic, coordinates = str(about["topic"]), str(about["coordinates"])
        rest = {what: about[what] for what in ("content_type", "key", "id", "type", "correlation_id") if what in about}
        cut, left_out, no_body = about.get("cut"), about.get("headers_left_out"), about.get("no_body")
        fault = str(about.get("fault", ""))
        missing = f"it had {int(cut['bytes']):,} bytes" if cut else f"{left_out} headers are missing"
    except (ValueError, LookupError, TypeError, AttributeError, NoBase64) as error:
        raise Undecodable("unreadable", f"what was kept of the message is not what we keep: {error}") from error
    if cut or left_out:
        raise Undecodable("too large", f"the message was too large to be kept whole: {missing}")
    body = data.encode() if isinstance(data, str) else data
    return Incoming(topic, Message(given, None if no_body else body, **rest), coordinates, None, fault=fault)


def stranger_parking(incoming: Incoming, transport: Transport, error: Undecodable, most: int) -> Parking:
    """Return a message as it is parked that nobody understands."""
    headers, body = stored(incoming, most)
    # Coordinates may be chosen by a hostile sender, or come again on another connection: what is in it tells one message from another, too.
    digest = blake2b(headers + b"\0" + (incoming.message.body or b""), digest_size=16).hexdigest()
    failure = failure_of(error)
    key = incoming.message.key
    return _dead(
        transport, incoming, digest, None if key is None else printable(key, MAX_KEY), headers, body, "undecodable",
        history=remember("[]", 1, failure), failure=failure,
    )  # fmt: skip


def gap_parking(incoming: Incoming, transport: Transport) -> Parking:
    """Return a gap in a stream as it is parked: nobody can give back what is gone, but somebody has to hear of it."""
    failure = failure_of(Undecodable("gap", f"messages before {incoming.coordinates} are missing: {incoming.gap}"))
    about = {"topic": incoming.topic, "coordinates": incoming.coordinates, "headers": {}, "no_body": True, "fault": incoming.gap[:2000]}
    return _dead(
        transport, incoming, "gap", None, json.dumps(about).encode(), b"", "gap", history=remember("[]", 1, failure), failure=failure
    )


def _told(value: str | bytes | None) -> Any:
    """Return a header's value as JSON can say it: text as it is, what is no text as base64, and marked so."""
    if value is None or isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _untold(value: Any) -> str | bytes | None:
    if value is None or isinstance(value, str):
        return value
    return base64.b64decode(value["base64"], validate=True)


def _dead(
    transport: Transport, incoming: Incoming, digest: str, key: str | None, headers: bytes, body: bytes, reason: str, **rest: Any
) -> Parking:
    name = inbound_name(transport)
    identity = event_key(name, f"{incoming.coordinates}\0{digest}")
    return Parking(
        identity, identity, key, printable(incoming.coordinates, 255), name, printable(incoming.message.type or incoming.topic or "?", 255), None, printable(incoming.topic, 255), datetime.now(UTC), None,
        headers, body, reason, state="dead", attempts=1, **rest,
    )  # fmt: skip


class Reopening(Execution):
    """Reads messages that nobody understood once more, and hands on those that can be understood now.

    Args:
        group: the group's own subscriptions, whose events are known.
    """

    def __init__(
        self, compiled: Compiled, store: SQLStore, publisher: Publisher, opener: Opener, service: str, group: Sequence[Compiled]
    ) -> None:  # fmt: skip
        super().__init__(compiled, store, publisher)
        self._opener = opener
        self._service = service
        self._ordered: Mapping[int, bool] = {item.id: item.options.ordered for item in group}

    def attempt(self, received: Received, number: int) -> Attempt | None:
        """Read the message.

        Raises:
            Undecodable: it still is none that could be handled.
        """
        opened = self._opener.open(unpacked(received.headers, received.data))
        if self._opener.is_stranger(opened):
            raise Undecodable("unknown type", f"no contract of this service has an event {opened.name[:200]!r}")
        # There is no handler: what a route and an envelope are for is done by those whom it is handed to.
        return Attempt(received, cast("Any", None), opened, cast("Any", None), number)

    async def plain(self, attempt: Attempt, age: float = 0.0, deadline: Deadline | None = None) -> Failed | None:
        """Park it for every subscription of the group that wants it: there it is the newest of its key.

        Raises:
            StoreDown: the database cannot be used.
        """
        await guarded(self.store.transact(self._hand_on, attempt.event))
        return None

    def _hand_on(self, connection: Connection, received: Received) -> None:
        for row in self.store.registry.list(connection, self._service):
            if (
                row.group != self.compiled.group
                or row.state == "retired"
                or received.name not in row.events
                or row.name.startswith(INBOUND)
            ):
                continue
            lane = received.lane if self._ordered.get(row.id, True) else received.event_key
            known = self.store.inbox.standing(connection, row.id, [received.event_key], [lane])
            if known.get(0) != Standing.DUPLICATE:
                self.store.lanes.park(connection, row.id, [parking(received, lane, "waiting for code")])
