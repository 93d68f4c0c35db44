"""The contract of these tests: a shop's orders, bills and mails."""

from __future__ import annotations

from dataclasses import dataclass

from tidings import Contract

__all__ = ["MailWanted", "OrderBilled", "OrderCancelled", "OrderPlaced", "shop"]

shop = Contract("shop")


@shop.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    number: int = 0


@shop.event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str
    number: int = 0


@shop.event("order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str
    number: int = 0


@shop.event("mail.wanted")
@dataclass(frozen=True)
class MailWanted:
    """Has no key."""

    address: str
    number: int = 0
