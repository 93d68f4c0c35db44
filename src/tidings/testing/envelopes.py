"""Envelopes for unit tests of handlers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID

from tidings import clock
from tidings.contracts import Contract
from tidings.envelope import Envelope
from tidings.ids import uuid7

__all__ = ["Attributes", "envelope"]


class Attributes(TypedDict, total=False):
    """The attributes of an `Envelope`; all have defaults here."""

    id: UUID
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime
    sequence: int | None
    correlation_id: str
    causation_id: str | None
    attempt: int
    subscription: str | None
    scheduled_for: datetime | None
    expires: datetime | None
    subject: str | None
    tenant: str | None
    traceparent: str | None
    tracestate: str | None
    hops: int
    chain: tuple[str, ...]
    headers: Mapping[str, str]


def envelope(event: object = None, contract: Contract | None = None, /, **attributes: Unpack[Attributes]) -> Envelope:
    """Return an envelope as a handler would get it: `envelope()`, `envelope(attempt=3)`, `envelope(OrderPlaced("1"), orders)`.

    Args:
        event, contract: name, version, topic and key are taken from them, if they are given.
        attributes: everything else, or instead.

    Raises:
        InvalidEvent: the event does not fit the contract.
        ContractError: its class is no event of the contract.
    """
    known: Attributes = {"name": "test.event", "version": 1, "topic": "test.event", "key": None}
    if event is not None and contract is not None:
        event_type = contract.type_of(type(event))
        event_type.encode(event)
        known = {
            "name": event_type.name,
            "version": event_type.version,
            "topic": event_type.topic("test"),
            "key": event_type.key_of(event),
        }
    identity = attributes.get("id") or uuid7()
    defaults: Attributes = {
        "id": identity,
        "source": "test",
        "time": clock.now(),
        "sequence": 1,
        "correlation_id": str(identity),
    }
    given: dict[str, Any] = {**defaults, **known, **attributes}
    return Envelope(**given)
