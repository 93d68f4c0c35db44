"""Handlers of domain events, one for each moment at which they can run."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from rentals.orders.aggregates import BecameRegular, Loyalty, Order, OrderCreatedDomainEvent
from rentals.orders.board import Board
from tidings import Subscriptions

__all__ = ["handlers"]

handlers = Subscriptions()


@handlers.on(OrderCreatedDomainEvent, phase="before_save")
async def number(event: OrderCreatedDomainEvent, session: AsyncSession) -> None:
    """Give the order its number before it is written."""
    with session.no_autoflush:
        event.order.number = (await session.scalar(select(func.max(Order.number))) or 0) + 1


@handlers.on(OrderCreatedDomainEvent)
async def count(event: OrderCreatedDomainEvent, session: AsyncSession) -> None:
    """Change another aggregate in the same transaction. What that one records is handled in the next round."""
    loyalty = await session.get(Loyalty, event.order.customer_id)
    if loyalty is None:
        loyalty = Loyalty(customer_id=event.order.customer_id, orders=0)
        session.add(loyalty)
    loyalty.rented()


@handlers.on(BecameRegular, phase="after_commit", name="gift")
async def gift(event: BecameRegular, session: AsyncSession) -> None:
    """Think of a gift after the commit: durable, with retries. If this fails, the order stands."""
    loyalty = await session.get_one(Loyalty, event.customer_id)
    loyalty.gift = "a free day"


@handlers.on(OrderCreatedDomainEvent, phase="after_commit", durable=False)
async def show(event: OrderCreatedDomainEvent, board: Board) -> None:
    """Show it in the office of this process, if it lives that long."""
    board.latest = event.order.number
