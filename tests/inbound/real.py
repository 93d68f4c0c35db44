"""What goes over the real brokers: events whose topics are each test's own, because brokers keep what others have sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.world import World, effect
from tests.inbound.shops import fast
from tests.relay.real import transport_to
from tidings import Contract, Service, Subscriptions
from tidings.contracts import EventType

__all__ = ["Ordered", "Paired", "charging", "paired", "publishing", "receiving"]


def per_test(event_type: EventType[Any], environment: str | None = None, /) -> str:
    """Name topics after the test."""
    return f"{event_type.name}.{environment}"


paired = Contract("paired", namer=per_test)


@paired.event("item.ordered", key="order_id")
@dataclass(frozen=True)
class Ordered:
    order_id: str
    number: int = 0


class Paired:
    """Two services with a broker between them, which nobody else uses.

    Args:
        broker: its name and its URL.
    """

    def __init__(self, world: World, broker: tuple[str, str], **options: Any) -> None:
        self.world = world
        self.name, self.url = broker
        self.mine = uuid4().hex[:10]
        self.options = options

    @property
    def topic(self) -> str:
        return f"item.ordered.{self.mine}"

    def transport(self, url: str | None = None, **options: Any) -> Any:
        return transport_to(self.name, url or self.url, **{**self.options, **options})

    def publishing(self, **options: Any) -> Service:
        return publishing(self.world, self.transport(), self.mine, **options)

    def receiving(self, handlers: Subscriptions | None = None, **options: Any) -> Service:
        transport = options.pop("transport", None) or self.transport()
        return receiving(self.world, transport, self.mine, handlers, **options)


def publishing(world: World, transport: Any, mine: str, **options: Any) -> Service:
    return fast(world.service(name=f"shop-{mine}", transport=transport, environment=mine, **{"contracts": [paired], **options}))


def receiving(world: World, transport: Any, mine: str, handlers: Subscriptions | None = None, **options: Any) -> Service:
    made = world.service(
        handlers or charging(), name=f"billing-{mine}", transport=transport, environment=mine, **{"contracts": [paired], **options}
    )
    return fast(made)


def charging(**options: Any) -> Subscriptions:
    """Return a handler that leaves a trace of every order."""
    handlers = Subscriptions()

    @handlers.subscribe(Ordered, **options)
    async def charge(event: Ordered, session: AsyncSession) -> None:
        await effect(session, "charge", event)

    return handlers


def items(first: int, last: int, keys: int = 7) -> list[Ordered]:
    """Return orders with so many keys in turn, numbered."""
    return [Ordered(f"k{number % keys}", number) for number in range(first, last + 1)]
