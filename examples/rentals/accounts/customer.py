"""The customer: a mapped aggregate whose constructor records what happened. Its table is nobody else's business."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from rentals.kernel import Base
from tidings import AggregateRoot

__all__ = ["Customer", "CustomerJoined", "CustomerLeft"]


@dataclass(frozen=True)
class CustomerJoined:
    """A domain event: it may hold what it likes, here values only, because a handler after the commit wants it, too."""

    customer_id: UUID
    email: str
    first_name: str
    at: datetime


@dataclass(frozen=True)
class CustomerLeft:
    """A domain event that holds the aggregate itself. It never leaves the process."""

    customer: Customer
    at: datetime


class Customer(AggregateRoot, Base):
    """Somebody who rents. The id comes from the client."""

    __tablename__ = "customers"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    # The second line of defence: two requests at once may both pass the validator.
    email: Mapped[str] = mapped_column(unique=True)
    first_name: Mapped[str]
    last_name: Mapped[str]

    @classmethod
    def register(cls, id: UUID, first_name: str, last_name: str, email: str, at: datetime) -> Customer:  # noqa: A002
        """Make a customer, and record it."""
        if "@" not in email:
            raise ValueError("a customer has an e-mail address")
        customer = cls(id=id, first_name=first_name, last_name=last_name, email=email)
        customer.record(CustomerJoined(id, email, first_name, at))
        return customer

    def leave(self, at: datetime) -> None:
        """Record that the customer goes."""
        self.record(CustomerLeft(self, at))
