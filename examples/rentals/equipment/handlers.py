"""What the equipment does about events of other modules, whose contracts are all that it knows of them."""

from __future__ import annotations

import logging

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from rentals.contracts.accounts import CustomerDeleted
from rentals.contracts.orders import OrderCreatedIntegrationEvent
from rentals.equipment.commands import CheckIn, CheckOut
from rentals.equipment.models import Equipment
from tidings import Discard, Execute, Subscriptions
from tidings.domain import Err

__all__ = ["handlers"]

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(CustomerDeleted, name="take-back")
async def take_back(event: CustomerDeleted, session: AsyncSession, execute: Execute) -> None:
    """Take back everything that a customer has who is gone. What it changes, it publishes in its own transaction."""
    rows = await session.scalars(select(Equipment.id).where(Equipment.customer_id == event.customer_id))
    for equipment_id in rows.all():
        await execute(CheckIn(equipment_id))


@handlers.subscribe(OrderCreatedIntegrationEvent, name="hand-out")
async def hand_out(event: OrderCreatedIntegrationEvent, execute: Execute) -> None:
    """Hand out what was ordered. That somebody else has it is no reason to try again."""
    result = await execute(CheckOut(event.equipment_id, event.customer_id))
    if isinstance(result, Err):
        logger.warning("Equipment not available for order %s: %s", event.order_id, result.error, extra={"order_id": str(event.order_id)})
        raise Discard(result.error)
