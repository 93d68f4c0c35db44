"""Two aggregates. Neither knows the other: a handler of a domain event carries over what has to happen there."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from rentals.kernel import Base
from tidings import AggregateRoot

__all__ = ["BecameRegular", "Loyalty", "Order", "OrderCreatedDomainEvent", "OrderPaidDomainEvent"]

#: What a day costs.
PRICE_MINOR = 2500


@dataclass(frozen=True)
class OrderCreatedDomainEvent:
    """An order was placed. It holds the whole aggregate, which no one ever serializes."""

    order: Order


@dataclass(frozen=True)
class OrderPaidDomainEvent:
    """An order was paid."""

    order: Order


@dataclass(frozen=True)
class BecameRegular:
    """A customer has rented often. Values only: what holds for it after the commit goes through the log."""

    customer_id: UUID


class Order(AggregateRoot, Base):
    """An order of one thing for some days."""

    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int | None] = mapped_column(unique=True)
    customer_id: Mapped[UUID]
    equipment_id: Mapped[UUID]
    days: Mapped[int]
    state: Mapped[str] = mapped_column(default="placed")

    @classmethod
    def place(cls, id: UUID, customer_id: UUID, equipment_id: UUID, days: int) -> Order:  # noqa: A002
        """Place an order."""
        if days < 1:
            raise ValueError("an order is for a day at least")
        order = cls(id=id, customer_id=customer_id, equipment_id=equipment_id, days=days, state="placed")
        order.record(OrderCreatedDomainEvent(order))
        return order

    @property
    def total_minor(self) -> int:
        """What it costs."""
        return self.days * PRICE_MINOR

    def pay(self) -> None:
        """Note that it is paid; the second time nothing happens."""
        if self.state == "placed":
            self.state = "paid"
            self.record(OrderPaidDomainEvent(self))

    def cancel(self) -> None:
        """Cancel it."""
        if self.state == "paid":
            raise ValueError("it is paid")
        self.state = "cancelled"


class Loyalty(AggregateRoot, Base):
    """How often a customer has rented."""

    __tablename__ = "loyalty"
    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    orders: Mapped[int] = mapped_column(default=0)
    gift: Mapped[str | None]

    def rented(self) -> None:
        """Count one more; the third makes a regular customer."""
        self.orders += 1
        if self.orders == 3:
            self.record(BecameRegular(self.customer_id))
