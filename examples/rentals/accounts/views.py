"""Query models: what `GET` shows. Written after the commit, each at its own time; the write model stays private."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from rentals.accounts.customer import CustomerJoined
from rentals.contracts.accounts import CustomerDeleted, MoneyMoved
from rentals.kernel import Base
from tidings import Subscriptions

__all__ = ["AccountView", "CustomerView", "handlers"]

handlers = Subscriptions()


class CustomerView(Base):
    """A customer as the web shows one."""

    __tablename__ = "customer_views"
    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    since: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class AccountView(Base):
    """A balance as the web shows one."""

    __tablename__ = "account_views"
    account_id: Mapped[UUID] = mapped_column(primary_key=True)
    balance_minor: Mapped[int]


# A notification: the domain event itself goes through the log as an internal event, and is tried again until this succeeds.
@handlers.on(CustomerJoined, phase="after_commit", name="customer-view")
async def show_customer(event: CustomerJoined, session: AsyncSession) -> None:
    """Write the query model; the client had its answer before."""
    await session.merge(CustomerView(customer_id=event.customer_id, name=event.first_name, email=event.email, since=event.at))


# One handler of several events under one name: of each key they come in order.
changes = handlers.subscription("account-views")


@changes.on(MoneyMoved)
async def show_balance(event: MoneyMoved, session: AsyncSession) -> None:
    """Follow the account's events from outside, as any other service could."""
    await session.merge(AccountView(account_id=event.account_id, balance_minor=event.balance_minor))


@changes.on(CustomerDeleted)
async def hide_customer(event: CustomerDeleted, session: AsyncSession) -> None:
    """Remove what is shown of a customer who is gone."""
    view = await session.get(CustomerView, event.customer_id)
    if view is not None:
        await session.delete(view)
