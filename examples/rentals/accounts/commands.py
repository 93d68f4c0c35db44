"""Commands in three steps: validate, store the domain events, publish for each of them. Only the second is written here by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from rentals.accounts.account import Account, Overdrawn
from rentals.accounts.customer import Customer
from rentals.accounts.events_service import EventsService
from rentals.accounts.index import Emails
from rentals.accounts.stream import load
from rentals.kernel import Clock
from tidings import Subscriptions
from tidings.domain import Err, Ok, Result, ValidationError, ValidationFailed

__all__ = ["DeleteCustomer", "MoveMoney", "OpenAccount", "RegisterCustomer", "handlers"]

handlers = Subscriptions()


@dataclass(frozen=True)
class RegisterCustomer:
    """Sent by whoever wants to become a customer; the client makes the id, so that a second attempt is the same customer."""

    id: UUID
    first_name: str
    last_name: str
    email: str


@handlers.validates(RegisterCustomer)
def has_a_name(command: RegisterCustomer) -> Iterator[ValidationError]:
    """Look at the command alone."""
    if not command.first_name.strip():
        yield ValidationError("first_name", "must not be empty")
    if "@" not in command.email:
        yield ValidationError("email", f"{command.email!r} is no e-mail address")


@handlers.handles(RegisterCustomer)
async def register_customer(command: RegisterCustomer, session: AsyncSession, emails: Emails, clock: Clock) -> UUID:
    """Make the customer, if nobody has the address: that is asked before anything is constructed."""
    if await emails.exists(command.email):
        error = ValidationError("email", f"email {command.email!r} already exists")
        raise ValidationFailed("Unable to create Customer", error)
    session.add(Customer.register(command.id, command.first_name, command.last_name, command.email, clock.now()))
    return command.id


@dataclass(frozen=True)
class DeleteCustomer:
    """Sent when a customer wants to be forgotten."""

    id: UUID


@handlers.handles(DeleteCustomer)
async def delete_customer(command: DeleteCustomer, session: AsyncSession, clock: Clock) -> Result[UUID, str]:
    """Delete the customer; what others keep, they delete when they hear of it."""
    customer = await session.get(Customer, command.id)
    if customer is None:
        return Err("there is no such customer")
    customer.leave(clock.now())
    await session.delete(customer)
    return Ok(command.id)


@dataclass(frozen=True)
class OpenAccount:
    """Sent by a customer."""

    id: UUID
    customer_id: UUID


@handlers.handles(OpenAccount)
async def open_account(command: OpenAccount, session: AsyncSession, service: EventsService) -> Result[UUID, str]:
    """Open an account for a customer who exists."""
    if await session.get(Customer, command.customer_id) is None:
        return Err("there is no such customer")
    service.persist(Account.open(command.id, command.customer_id))
    return Ok(command.id)


@dataclass(frozen=True)
class MoveMoney:
    """Sent to put money in (positive), or to take it out."""

    account_id: UUID
    minor: int


@handlers.handles(MoveMoney)
async def move_money(command: MoveMoney, session: AsyncSession, service: EventsService) -> Result[int, str]:
    """Let the aggregate decide. Nothing at all is stored or published when nothing happened."""
    account = await load(session, command.account_id)
    if account is None:
        return Err("there is no such account")
    try:
        account.deposit(command.minor) if command.minor > 0 else account.withdraw(-command.minor)
    except Overdrawn as error:
        return Err(str(error))
    service.persist(account)
    return Ok(account.balance_minor)
