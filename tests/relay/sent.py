"""What a test relays, and how it looks at what the broker has got."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from tests.consume.shop import OrderPlaced
from tests.consume.world import World
from tidings import Service
from tidings.codecs.wire import decode
from tidings.testing.memory import Memory
from tidings.transports.base import Outgoing

__all__ = ["first_sendings", "in_order", "numbers", "orders", "relaying", "sent"]


def relaying(world: World, broker: Any, **options: Any) -> Service:
    """Make a service that relays to a broker, faster to act than one in production."""
    service = world.service(transport=broker, **options)
    service.tuning.again = 0.01
    service.tuning.again_longest = 0.1
    service.tuning.lease = 2.0
    return service


def orders(first: int, last: int, keys: int = 7) -> list[OrderPlaced]:
    """Return orders with so many keys in turn, numbered."""
    return [OrderPlaced(f"k{number % keys}", number) for number in range(first, last + 1)]


def sent(broker: Memory, topic: str = "order.placed") -> list[tuple[str | None, int]]:
    """Return what a broker in memory has of a topic, as (key, number)."""
    return [_read(outgoing) for outgoing in broker.topics.get(topic, ())]


def _read(outgoing: Outgoing) -> tuple[str | None, int]:
    body = outgoing.message.body
    assert body is not None
    return outgoing.message.key, json.loads(body)["number"]


def numbers(found: Iterable[tuple[str | None, int]]) -> list[int]:
    return [number for _, number in found]


def first_sendings(found: Sequence[tuple[str | None, int]]) -> list[tuple[str | None, int]]:
    """Leave out what was sent before: a take-over may send twice."""
    return list(dict.fromkeys(found))


def in_order(found: Sequence[tuple[str | None, int]], expected: Iterable[OrderPlaced]) -> bool:
    """Whether everything was sent, and the first sendings of each key in order."""
    wanted: dict[str | None, list[int]] = {}
    for event in expected:
        wanted.setdefault(event.order_id, []).append(event.number)
    got: dict[str | None, list[int]] = {}
    for key, number in first_sendings(found):
        got.setdefault(key, []).append(number)
    return got == wanted


def event_of(broker: Memory, place: int, topic: str = "order.placed") -> Any:
    """Return a message as whoever receives it would read it."""
    return decode(broker.topics[topic][place].message, broker.binding, ("cloudevents", "cap"))
