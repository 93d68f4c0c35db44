"""What the shop promises to everyone else. Other services can import this: it needs neither database nor broker."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from tidings import Contract

shop = Contract("shop")


@shop.event("order.placed", version=1, key="order_id")
@dataclass(frozen=True)
class OrderPlacedV1:
    """Published by the old till in the market hall, which nobody dares to touch."""

    order_id: str
    item: str
    price: Decimal


@shop.event("order.placed", version=2, key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer's order has been accepted."""

    order_id: str
    city: str
    item: str
    quantity: int
    total_minor: int
    currency: str = "EUR"


@shop.upcast(OrderPlacedV1, OrderPlaced)
def _(old: OrderPlacedV1) -> OrderPlaced:
    return OrderPlaced(old.order_id, "London", old.item, quantity=1, total_minor=int(old.price * 100))


@shop.event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    """A customer does not want what was ordered any more."""

    order_id: str
    reason: str


@shop.event("stock.reserved", key="order_id", internal=True)
@dataclass(frozen=True)
class StockReserved:
    """What an order needs has been put aside, and can be shipped."""

    order_id: str
    city: str
    item: str
    quantity: int


@shop.event("order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    """A parcel is on its way."""

    order_id: str
    city: str


@shop.event("payment.due", key="order_id")
@dataclass(frozen=True)
class PaymentDue:
    """An order should have been paid by now. Published when it is placed, to arrive later."""

    order_id: str


@shop.event("offer.made")
@dataclass(frozen=True)
class OfferMade:
    """Something is cheap for a short time. Without key: offers need no order."""

    item: str
    percent: int
