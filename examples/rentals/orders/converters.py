"""Integration events are converted from domain events; nobody calls publish."""

from __future__ import annotations

from rentals.contracts.orders import OrderCreatedIntegrationEvent, OrderPaidIntegrationEvent
from rentals.orders.aggregates import OrderCreatedDomainEvent, OrderPaidDomainEvent
from tidings import Subscriptions

__all__ = ["handlers"]

handlers = Subscriptions()


@handlers.converts(OrderCreatedDomainEvent, on_duplicate="error")
def created(event: OrderCreatedDomainEvent) -> OrderCreatedIntegrationEvent:
    """Pick the fields that others need. Publishing the same by hand as well is an error here."""
    order = event.order
    return OrderCreatedIntegrationEvent(order.id, order.customer_id, order.equipment_id, order.total_minor)


@handlers.converts(OrderPaidDomainEvent)
def paid(event: OrderPaidDomainEvent) -> OrderPaidIntegrationEvent:
    """Keep the id only."""
    return OrderPaidIntegrationEvent(event.order.id)
