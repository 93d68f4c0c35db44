"""The rows of the cashiers. Each belongs to a tenant."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from rentals.kernel import Base

__all__ = ["CashierRow", "InvoiceRow", "Till"]


class CashierRow(Base):
    """A cashier."""

    __tablename__ = "cashiers"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    email: Mapped[str]


class InvoiceRow(Base):
    """An invoice; minor units, because SQLite has no decimal numbers."""

    __tablename__ = "invoices"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    minor: Mapped[int]
    paid: Mapped[bool] = mapped_column(default=False)


class Till(Base):
    """What a tenant has taken."""

    __tablename__ = "tills"
    tenant: Mapped[str] = mapped_column(primary_key=True)
    minor: Mapped[int]
