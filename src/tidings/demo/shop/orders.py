"""What customers can do. The caller owns the transaction: what is published here becomes known if, and only if, it commits."""

from __future__ import annotations

import logging
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Service
from tidings.demo.shop.contracts import OfferMade, OrderCancelled, OrderPlaced, OrderPlacedV1, PaymentDue
from tidings.demo.shop.models import Order

logger = logging.getLogger(__name__)

PRICES = {"teapot": 2450, "kettle": 3900, "cup": 650, "tin of tea": 890}


def place(service: Service, session: AsyncSession, order_id: str, city: str, item: str, quantity: int) -> UUID:
    """Accept an order."""
    order = Order(id=order_id, city=city, item=item, quantity=quantity, total_minor=PRICES[item] * quantity)
    session.add(order)
    return service.publish(session, OrderPlaced(order.id, order.city, order.item, order.quantity, order.total_minor))


def ring_up(service: Service, session: AsyncSession, order_id: str, item: str) -> UUID:
    """Accept an order at the old till, which still publishes version 1."""
    session.add(Order(id=order_id, city="London", item=item, quantity=1, total_minor=PRICES[item]))
    return service.publish(session, OrderPlacedV1(order_id, item, Decimal(PRICES[item]) / 100))


async def cancel(service: Service, session: AsyncSession, order_id: str, reason: str) -> UUID:
    """Cancel an order."""
    order = await session.get_one(Order, order_id)
    order.state = "cancelled"
    return service.publish(session, OrderCancelled(order_id, reason))


def pay_later(service: Service, session: AsyncSession, order_id: str, within: timedelta) -> UUID:
    """Ask for the money in some time, unless `service.cancel` is called with the id that this returns."""
    return service.publish(session, PaymentDue(order_id), delay=within)


def offer(service: Service, session: AsyncSession, item: str, percent: int, valid: timedelta) -> UUID:
    """Offer something; after that time nobody needs to hear of it any more."""
    return service.publish(session, OfferMade(item, percent), expires=valid)
