"""Payments: reminds of what was not paid, when the time has come."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Subscriptions
from tidings.demo.shop.contracts import PaymentDue
from tidings.demo.shop.models import Reminder

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@handlers.subscribe(PaymentDue, name="reminders", concurrency=2)
async def remind(event: PaymentDue, session: AsyncSession) -> None:
    """Ask for the money."""
    session.add(Reminder(order_id=event.order_id))
    logger.info("%s: reminded of the payment", event.order_id)
