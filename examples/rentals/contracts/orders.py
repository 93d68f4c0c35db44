"""Events of the orders: called as their classes. Converters make them of the module's domain events."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tidings import Contract
from tidings.contracts.naming import by_class_name

__all__ = ["OrderCreatedIntegrationEvent", "OrderPaidIntegrationEvent", "orders"]

orders = Contract("orders", namer=by_class_name)


@orders.event(key="order_id")
@dataclass(frozen=True)
class OrderCreatedIntegrationEvent:
    """Published when an order has been placed: what others need, and not the aggregate."""

    order_id: UUID
    customer_id: UUID
    equipment_id: UUID
    total_minor: int


@orders.event(key="order_id")
@dataclass(frozen=True)
class OrderPaidIntegrationEvent:
    """Published when an order is paid: its id only."""

    order_id: UUID
