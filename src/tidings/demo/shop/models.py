"""The shop's own tables. Tidings' tables stand beside them in the same database, and are none of the shop's business.

No table but `orders` forbids a second row for an order, so that an effect that happened twice would be seen.
"""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Order", "Recall", "Receipt", "Reminder", "Reservation", "Sale", "Shipment"]


class Base(DeclarativeBase):
    """Base of the shop's models."""


class Order(Base):
    """What a customer wants."""

    __tablename__ = "shop_orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    city: Mapped[str]
    item: Mapped[str]
    quantity: Mapped[int]
    total_minor: Mapped[int]
    state: Mapped[str] = mapped_column(default="placed")


class Reservation(Base):
    """What has been put aside."""

    __tablename__ = "shop_reservations"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    item: Mapped[str]
    quantity: Mapped[int]


class Receipt(Base):
    """What the customer gets in writing."""

    __tablename__ = "shop_receipts"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    text: Mapped[str]


class Shipment(Base):
    """A parcel."""

    __tablename__ = "shop_shipments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    city: Mapped[str]


class Recall(Base):
    """A parcel that has to come back."""

    __tablename__ = "shop_recalls"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class Reminder(Base):
    """A payment that was asked for again."""

    __tablename__ = "shop_reminders"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class Sale(Base):
    """A line for the bookkeeper."""

    __tablename__ = "shop_sales"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    total_minor: Mapped[int]
