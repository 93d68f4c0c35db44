"""The commands of the orders."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from rentals.orders.aggregates import Order
from tidings import Subscriptions
from tidings.domain import ValidationError

__all__ = ["OrderPaidCommand", "PlaceOrder", "handlers"]

handlers = Subscriptions()


@dataclass(frozen=True)
class PlaceOrder:
    """Sent by a customer."""

    id: UUID
    customer_id: UUID
    equipment_id: UUID
    days: int


@handlers.validates(PlaceOrder)
def some_days(command: PlaceOrder) -> ValidationError | None:
    """Look before the aggregate is touched."""
    return ValidationError("days", "rent for one day at least") if command.days < 1 else None


@handlers.handles(PlaceOrder)
async def place_order(command: PlaceOrder, session: AsyncSession) -> UUID:
    """Place it. Nothing is published here: `converters` does that."""
    session.add(Order.place(command.id, command.customer_id, command.equipment_id, command.days))
    return command.id


@dataclass(frozen=True)
class OrderPaidCommand:
    """Sent by the handler of `InvoicePaid`."""

    order_id: UUID


@handlers.handles(OrderPaidCommand)
async def order_paid(command: OrderPaidCommand, session: AsyncSession) -> bool:
    """Note it, if the invoice was for an order at all."""
    order = await session.get(Order, command.order_id)
    if order is None:
        return False
    order.pay()
    return True
