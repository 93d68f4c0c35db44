"""Sales: many events in one call, in a group with a checkpoint of its own, so that it holds up nobody."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Subscriptions
from tidings.demo.shop.contracts import OrderPlaced
from tidings.demo.shop.models import Sale

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(OrderPlaced, name="bookkeeping", group="reporting", batch=100, concurrency=1)
async def keep_books(events: list[OrderPlaced], session: AsyncSession) -> None:
    """Add up to a hundred sales at once."""
    session.add_all([Sale(order_id=event.order_id, total_minor=event.total_minor) for event in events])
    if len(events) > 1:
        logger.info("%d sales booked at once", len(events))
