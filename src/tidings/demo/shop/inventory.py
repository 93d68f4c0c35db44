"""Inventory: puts aside what was ordered."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Publish, Subscriptions
from tidings.demo.shop.contracts import OrderPlaced, StockReserved
from tidings.demo.shop.models import Reservation

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(OrderPlaced, name="reserve", concurrency=2)
async def reserve(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
    """Reserve, and say so. The row, the event and the note that this order was handled commit together."""
    session.add(Reservation(order_id=event.order_id, item=event.item, quantity=event.quantity))
    publish(StockReserved(event.order_id, event.city, event.item, event.quantity))
    logger.info("%s: %d x %s put aside", event.order_id, event.quantity, event.item)
