"""What the service does when something has happened elsewhere. Handlers are functions; what they need, they ask for."""

from __future__ import annotations

import logging
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rentals.contracts.accounts import CustomerRegistered, CustomerRegisteredV1
from rentals.notifications.mail import MailServer
from tidings import Envelope, Subscriptions

__all__ = ["Base", "Sent", "handlers"]

logger = logging.getLogger(__name__)
handlers = Subscriptions()


class Base(DeclarativeBase):
    """The tables of this service."""


class Sent(Base):
    """Which mails have gone out."""

    __tablename__ = "notifications_sent"
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    subject: Mapped[str]


@handlers.subscribe(CustomerRegistered, name="welcome")
async def welcome(event: CustomerRegistered, envelope: Envelope, session: AsyncSession, mail: MailServer) -> None:
    """Welcome a customer by name, which only version 2 has."""
    logger.info("Processing CustomerRegistered event for %s", event.customer_id, extra={"customer_id": str(event.customer_id)})
    await mail.send(event.email, f"Welcome, {event.first_name}")
    session.add(Sent(event_id=envelope.id, email=event.email, subject="welcome"))


@handlers.subscribe(CustomerRegisteredV1, name="letter")
async def letter(event: CustomerRegisteredV1, session: AsyncSession) -> None:
    """Put the old letter into the post; this handler still wants version 1, beside the other."""
    session.add(Sent(event_id=event.customer_id, email=event.email, subject="letter"))
