"""The envelope: an event's metadata, named after the CloudEvents 1.0.2 attributes and extensions wherever they have a word for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

__all__ = ["RESERVED_HEADERS", "Envelope"]

#: Names in `headers` that Tidings itself writes (CloudEvents extensions and our own); user headers may not use them.
RESERVED_HEADERS = frozenset(
    {
        "specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data", "data_base64",
        "partitionkey", "sequence", "correlationid", "causationid", "traceparent", "tracestate", "tenantid", "hops", "chain",
        "expires", "scheduledfor",
    }
)  # fmt: skip


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known about an event besides its data.

    Attributes:
        id: the event's id; also the idempotency key for effects outside the database.
        source: the service that published it.
        name: the event type's name, e.g. `order.placed`.
        version: the version it was published with; `None` for types without version. A handler of a newer version gets the event upcast.
        topic: the topic it was published to.
        key: the partition key that order is kept by, or None.
        time: when it entered the log (UTC).
        sequence: its position in the publisher's log; rises along a key, so a late duplicate carries a lower one. None outside a log.
        correlation_id: the id shared by everything that one flow causes; the event's own id when it starts a flow.
        causation_id: the id of the event whose handler published this one, or None.
        attempt: 1 for the first time that the handler sees it, and so on.
        subscription: the name of the subscription that handles it, or None outside a handler.
        scheduled_for: when a delayed event was due, or None.
        expires: when the event ends unhandled, or None.
        subject, tenant, traceparent, tracestate, hops: CloudEvents subject, tenant, W3C trace context, and how many handlers led here.
        chain: the names of the events that led here, of the last ones only, and not for the first few hops.
        headers: the user's own headers.
    """

    id: UUID
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime
    sequence: int | None = None
    correlation_id: str
    causation_id: str | None = None
    attempt: int = 1
    subscription: str | None = None
    scheduled_for: datetime | None = None
    expires: datetime | None = None
    subject: str | None = None
    tenant: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    hops: int = 0
    chain: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
