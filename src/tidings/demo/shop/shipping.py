"""Shipping: parcels go out through a carrier that is not always there.

One subscription with two handlers: what concerns one order is handled in order, whichever event it is. While the first of an order
cannot be handled, the next one waits behind it, and every other order goes on.
"""

from __future__ import annotations

import logging
from typing import Protocol, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncSession

from tidings import Publish, Retry, Subscriptions
from tidings.demo.shop.contracts import OrderCancelled, OrderShipped, StockReserved
from tidings.demo.shop.models import Recall, Shipment

logger = logging.getLogger(__name__)
handlers = Subscriptions()


@runtime_checkable
class Carrier(Protocol):
    """Who takes parcels; the service is told which one with `service.provide(Carrier, ...)`."""

    async def collect(self, order_id: str, city: str) -> None:
        """Take a parcel, or raise."""
        ...


# `shared=False`: each parcel in a transaction of its own, because one that fails would take the others of the transaction with it.
shipping = handlers.subscription("shipping", retry=Retry(attempts=3, base=0.4, jitter=0), shared=False, concurrency=2)


@shipping.on(StockReserved)
async def ship(event: StockReserved, session: AsyncSession, publish: Publish, carrier: Carrier) -> None:
    """Give the parcel to the carrier."""
    await carrier.collect(event.order_id, event.city)
    session.add(Shipment(order_id=event.order_id, city=event.city))
    publish(OrderShipped(event.order_id, event.city))
    logger.info("%s: parcel to %s", event.order_id, event.city)


@shipping.on(OrderCancelled)
async def recall(event: OrderCancelled, session: AsyncSession) -> None:
    """Call the parcel back."""
    session.add(Recall(order_id=event.order_id))
    logger.info("%s: parcel called back: %s", event.order_id, event.reason)
