"""A shop that publishes and a billing that charges, each with a broker between them, and handlers that leave traces."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced, shop
from tests.consume.world import World, effect
from tidings import Service, Subscriptions
from tidings.codecs.message import Message
from tidings.testing.memory import Memory
from tidings.transports.base import Outgoing

__all__ = ["charging", "fast", "in_order", "orders", "put", "receiving"]


def fast(service: Service) -> Service:
    """Let a service act faster than one in production."""
    service.tuning.again = 0.01
    service.tuning.again_longest = 0.1
    service.tuning.longest = 0.05
    service.tuning.lease = 2.0
    return service


def charging(**options: Any) -> Subscriptions:
    """Return a handler that leaves a trace of every order."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, **options)
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "charge", event)

    return handlers


def receiving(world: World, broker: Any, handlers: Subscriptions | None = None, name: str = "billing", **options: Any) -> Service:
    """Make a service that receives from a broker."""
    made = world.service(handlers or charging(), name=name, transport=broker, contracts=options.pop("contracts", [shop]), **options)
    return fast(made)


def orders(first: int, last: int, keys: int = 7, mine: str = "k") -> list[OrderPlaced]:
    """Return orders with so many keys in turn, numbered."""
    return [OrderPlaced(f"{mine}{number % keys}", number) for number in range(first, last + 1)]


def in_order(found: list[tuple[str, int]], expected: list[OrderPlaced]) -> bool:
    """Whether everything was handled once, the events of each key in order."""
    wanted: dict[str, list[int]] = {}
    for event in expected:
        wanted.setdefault(event.order_id, []).append(event.number)
    got: dict[str, list[int]] = {}
    for key, number in found:
        got.setdefault(key, []).append(number)
    return got == wanted


def put(broker: Memory, body: bytes | None, topic: str = "order.placed", **headers: str | bytes | None) -> None:
    """Let somebody who is not us send a message; `ce_type` and the like are headers."""
    broker.topics[topic].append(Outgoing(topic, Message(headers, body, headers.pop("content_type", None) or "application/json")))  # type: ignore[arg-type]
