"""The routes of the accounts: commands in, query models out."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header

from rentals.accounts.commands import DeleteCustomer, MoveMoney, OpenAccount, RegisterCustomer
from rentals.accounts.views import AccountView, CustomerView
from rentals.kernel import ServiceOf, SessionOf, answer, found

__all__ = ["router"]

router = APIRouter(tags=["accounts"])


@router.post("/customers", status_code=201)
async def register(command: RegisterCustomer, service: ServiceOf, idempotency_key: Annotated[str | None, Header()] = None) -> UUID:
    """Become a customer. With the header `idempotency-key`, a second attempt gets the answer of the first."""
    customer_id: UUID = await service.execute(command, idempotency_key=idempotency_key)
    return customer_id


@router.get("/customers/{customer_id}")
async def customer(customer_id: UUID, session: SessionOf) -> dict[str, Any]:
    """Show a customer; 404 until the query model is written, a moment after the command."""
    view = found(await session.get(CustomerView, customer_id))
    return {"id": view.customer_id, "name": view.name, "email": view.email, "since": view.since}


@router.delete("/customers/{customer_id}")
async def delete(customer_id: UUID, service: ServiceOf) -> Any:
    """Delete a customer, and in time everything that others keep of them."""
    return answer(await service.execute(DeleteCustomer(customer_id)))


@router.post("/accounts", status_code=201)
async def open_account(command: OpenAccount, service: ServiceOf) -> Any:
    """Open an account."""
    return answer(await service.execute(command))


@router.post("/accounts/moves")
async def move_money(command: MoveMoney, service: ServiceOf) -> Any:
    """Put money in, or take it out."""
    return answer(await service.execute(command))


@router.get("/accounts/{account_id}")
async def account(account_id: UUID, session: SessionOf) -> dict[str, Any]:
    """Show a balance."""
    view = found(await session.get(AccountView, account_id))
    return {"id": view.account_id, "balance_minor": view.balance_minor}
