"""The index of e-mail addresses, which validation asks. A handler before the commit writes it: no crash can leave it behind."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from rentals.accounts.customer import CustomerJoined, CustomerLeft
from rentals.kernel import Base
from tidings import Subscriptions

__all__ = ["Emails", "handlers"]

handlers = Subscriptions()


class CustomerEmail(Base):
    """Who has which address."""

    __tablename__ = "customer_emails"
    email: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[UUID]


class Emails:
    """What command handlers ask for; provided for each of them with their own session."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def exists(self, email: str) -> bool:
        """Whether somebody has the address."""
        return await self._session.get(CustomerEmail, email) is not None


@handlers.on(CustomerJoined)
async def enter(event: CustomerJoined, session: AsyncSession) -> None:
    """Enter the address, in the transaction of the command."""
    session.add(CustomerEmail(email=event.email, customer_id=event.customer_id))


@handlers.on(CustomerLeft)
async def strike(event: CustomerLeft, session: AsyncSession) -> None:
    """Free the address."""
    await session.execute(delete(CustomerEmail).where(CustomerEmail.email == event.customer.email))
