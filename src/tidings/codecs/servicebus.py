"""Events of event-sourced systems on Azure Service Bus: what happened to an aggregate, named by two application properties.

The body is the event; `correlation_id` and the property `aggregate` are the aggregate's id, the property `type` is the name of the event.
All events of an aggregate come in one batch, in order; the session is the aggregate where sessions are on.
"""

from __future__ import annotations

from tidings.codecs.message import LIMITS, CloudEvent, Limits, Message, check_headers, check_json, text_of
from tidings.errors import Undecodable, Unsendable

__all__ = ["decode", "encode"]

_NAMES = frozenset({"aggregate", "type"})


def encode(event: CloudEvent) -> Message:
    """Return the message; its aggregate is the event's subject, or else its key.

    Raises:
        Unsendable: the event has neither.
    """
    aggregate = event.key if event.subject is None else event.subject
    if aggregate is None:
        raise Unsendable(f"event {event.id} has neither a subject nor a key, so there is no aggregate that it could belong to")
    headers: dict[str, str | bytes | None] = {name: value for name, value in event.headers.items() if name not in _NAMES}
    headers |= {"aggregate": aggregate, "type": event.type}
    key = aggregate if event.key is None else event.key
    return Message(headers, event.data, event.content_type, key, event.id, event.type, aggregate)


def decode(message: Message, source: str, coordinates: str, limits: Limits = LIMITS) -> CloudEvent | None:
    """Return the event that a message carries, or None when it is no such message.

    Args:
        source: of the events; the messages do not say it.
        coordinates: what tells this message from every other one at `source` and stays the same when it is delivered again, such as its
            sequence number; it is the event's id when the message has none.

    Raises:
        Undecodable: a property is no text, or there is more than the limits allow.
    """
    check_headers(message, limits)
    aggregate, name = message.headers.get("aggregate"), message.headers.get("type")
    if aggregate is None or name is None:
        return None
    subject, event_type = text_of(aggregate, "aggregate"), text_of(name, "type")
    if not (subject and event_type):
        raise Undecodable("attributes", "aggregate and type must not be empty")
    if message.body is not None:
        check_json(message.body, limits.depth)
    headers = {
        name: value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
        for name, value in message.headers.items()
        if value is not None and name not in _NAMES
    }
    return CloudEvent(
        message.id or coordinates, source, event_type, message.body, subject=subject, key=message.key or subject, headers=headers
    )
