"""The shop's contract one deploy later: orders have a currency, and something new can happen to them."""

from __future__ import annotations

from dataclasses import dataclass

from tidings import Contract

__all__ = ["MailWanted", "OrderCancelled", "OrderPlaced", "OrderPlacedV1", "OrderShipped", "shop"]

shop = Contract("shop")


@shop.event("order.placed", version=1, key="order_id")
@dataclass(frozen=True)
class OrderPlacedV1:
    order_id: str
    number: int = 0


@shop.event("order.placed", version=2, key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    number: int
    currency: str


@shop.upcast(OrderPlacedV1, OrderPlaced)
def _(old: OrderPlacedV1) -> OrderPlaced:
    return OrderPlaced(old.order_id, old.number, "EUR")


@shop.event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str
    number: int = 0


@shop.event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str
    number: int = 0


@shop.event("mail.wanted")
@dataclass(frozen=True)
class MailWanted:
    address: str
    number: int = 0
