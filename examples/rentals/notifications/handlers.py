"""What the service does when something has happened elsewhere. Handlers are functions; what they need, they ask for."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from rentals.contracts import CONTRACTS
from rentals.contracts.accounts import CustomerRegistered, CustomerRegisteredV1, MoneyMoved
from rentals.contracts.cashiers import CashierCreated
from rentals.contracts.equipment import EquipmentCreated
from rentals.notifications.mail import MailServer
from tidings import Breaker, Envelope, Subscriptions

__all__ = ["Archived", "Base", "Letter", "Sent", "handlers"]

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


class Letter(Base):
    """What the post has taken."""

    __tablename__ = "notifications_letters"
    customer_id: Mapped[UUID] = mapped_column(primary_key=True)


class Archived(Base):
    """Every public event, for people."""

    __tablename__ = "notifications_archive"
    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    tenant: Mapped[str | None]
    correlation_id: Mapped[str]


# The mail server may be down: then the breaker leaves the events in the log instead of failing each of them. A call that hangs is a failure.
@handlers.subscribe(CustomerRegistered, name="welcome", timeout=timedelta(seconds=10), breaker=Breaker(keys=5, pause=1.0))
async def welcome(event: CustomerRegistered, envelope: Envelope, session: AsyncSession, mail: MailServer) -> None:
    """Welcome a customer by name, which only version 2 has."""
    await _mail(session, mail, envelope, event.email, f"Welcome, {event.first_name}")


@handlers.subscribe(CustomerRegisteredV1, name="letter")
async def letter(event: CustomerRegisteredV1, session: AsyncSession) -> None:
    """Write a letter; this handler still wants version 1, beside the other."""
    session.add(Letter(customer_id=event.customer_id))


@handlers.subscribe(CashierCreated, name="welcome-cashier")
async def welcome_cashier(event: CashierCreated, envelope: Envelope, session: AsyncSession, mail: MailServer) -> None:
    """Welcome a cashier. Raised again after it was logged, an error leads to another attempt."""
    logger.info("Processing CashierCreated event for tenant %s", event.tenant_id, extra={"tenant_id": event.tenant_id})
    try:
        await _mail(session, mail, envelope, event.cashier.email, f"{event.tenant_id} welcomes {event.cashier.name}")
    except Exception:
        logger.error("Failed to send welcome email to %s", event.cashier.email, extra={"email": event.cashier.email})
        raise
    logger.info("Welcome email sent to %s", event.cashier.email, extra={"email": event.cashier.email})


class EquipmentMails:
    """What the warehouse wants to read. Dependencies of a method are parameters, as anywhere else."""

    @staticmethod
    @handlers.subscribe(EquipmentCreated, name="equipment-mail", on_dead="continue")
    async def created(event: EquipmentCreated, mail: MailServer) -> None:
        """Mail the name and the category. Without a session there is no transaction: after a crash it is sent again."""
        await mail.send("warehouse@rentals.example", f"{event.name} ({event.category})")


@handlers.subscribe(MoneyMoved, name="digest", batch=100)
async def digest(events: list[MoneyMoved], mail: MailServer) -> None:
    """Send one mail for many events."""
    await mail.send("books@rentals.example", f"{len(events)} moves, {sum(event.minor for event in events)} in all")


# A group of its own reads at its own pace. What nobody subscribes to, RabbitMQ refuses: so everything public has a subscriber.
archive = handlers.subscription("archive", group="notifications-archive", ordered=False)


async def keep(event: object, envelope: Envelope, session: AsyncSession) -> None:
    """Keep what is known of an event of any type."""
    tenant, flow = envelope.tenant, envelope.correlation_id
    session.add(Archived(event_id=envelope.id, name=envelope.name, tenant=tenant, correlation_id=flow))


for contract in CONTRACTS:
    for event_type in contract:
        if not event_type.internal:
            archive.on(event_type.cls)(keep)


async def _mail(session: AsyncSession, mail: MailServer, envelope: Envelope, email: str, subject: str) -> None:
    # The inbox keeps copies of an event away. What no inbox can: a crash between the mail and the commit. Then the mail goes out twice.
    await mail.send(email, subject)
    session.add(Sent(event_id=envelope.id, email=email, subject=subject))
