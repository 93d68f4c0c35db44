"""The routes of the orders."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, HTTPException

from rentals.kernel import ServiceOf, SessionOf, found
from rentals.orders.aggregates import Loyalty, Order
from rentals.orders.commands import PlaceOrder

__all__ = ["router"]

router = APIRouter(tags=["orders"])


@router.post("/orders", status_code=201)
async def place(command: PlaceOrder, service: ServiceOf) -> UUID:
    """Place an order: one request, one transaction."""
    order_id: UUID = await service.execute(command)
    return order_id


@router.get("/orders/{order_id}")
async def show(order_id: UUID, session: SessionOf) -> dict[str, Any]:
    """Show an order."""
    order = found(await session.get(Order, order_id))
    return {"id": order.id, "number": order.number, "state": order.state, "total_minor": order.total_minor}


@router.delete("/orders/{order_id}")
async def cancel(order_id: UUID, service: ServiceOf) -> dict[str, Any]:
    """Cancel an order, in a unit of work without any command."""
    async with service.unit_of_work() as uow:
        order = found(await uow.session.get(Order, order_id))
        try:
            order.cancel()
        except ValueError as error:
            raise HTTPException(409, str(error)) from None
    return {"id": order_id, "state": "cancelled"}


@router.get("/loyalty/{customer_id}")
async def loyalty(customer_id: UUID, session: SessionOf) -> dict[str, Any]:
    """Show how often somebody has rented, and what that brought."""
    row = found(await session.get(Loyalty, customer_id))
    return {"orders": row.orders, "gift": row.gift}
