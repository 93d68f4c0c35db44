"""Handlers as static methods whose dependencies are parameters. They return a result and, if there is one, the event."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from rentals.cashiers.models import CashierRow
from rentals.contracts.cashiers import Cashier, CashierCreated, CashierDeleted
from tidings import Execute, Subscriptions
from tidings.domain import Err, Ok, Result

__all__ = ["CreateCashier", "CreateCashierHandler", "DeleteCashier", "InsertCashier", "handlers"]

handlers = Subscriptions()


@dataclass(frozen=True)
class CreateCashier:
    """Sent by a tenant."""

    tenant_id: str
    id: UUID
    name: str
    email: str


@dataclass(frozen=True)
class InsertCashier:
    """Sent by `CreateCashierHandler` only: access to the database is a command of its own."""

    tenant_id: str
    cashier: Cashier


class CreateCashierHandler:
    """A name for what belongs together; nobody makes one."""

    @staticmethod
    @handlers.handles(CreateCashier)
    async def handle(command: CreateCashier, execute: Execute) -> tuple[Result[Cashier, str], CashierCreated | None]:
        """Decide, and leave the writing to the other command, which runs in the same transaction."""
        if not command.name.strip():
            return Err("a cashier has a name"), None
        cashier = Cashier(command.id, command.name, command.email)
        await execute(InsertCashier(command.tenant_id, cashier))
        return Ok(cashier), CashierCreated(command.tenant_id, len(command.name), cashier)


@handlers.handles(InsertCashier)
async def insert_cashier(command: InsertCashier, session: AsyncSession) -> None:
    """Write the row."""
    cashier = command.cashier
    session.add(CashierRow(id=cashier.cashier_id, tenant=command.tenant_id, name=cashier.name, email=cashier.email))


@dataclass(frozen=True)
class DeleteCashier:
    """Sent by a tenant."""

    tenant_id: str
    id: UUID


@handlers.handles(DeleteCashier)
async def delete_cashier(command: DeleteCashier, session: AsyncSession) -> tuple[Result[UUID, str], CashierDeleted | None]:
    """Delete a cashier of this tenant; nobody sees those of others."""
    row = await session.get(CashierRow, command.id)
    if row is None or row.tenant != command.tenant_id:
        return Err("there is no such cashier"), None
    await session.delete(row)
    return Ok(command.id), CashierDeleted(command.tenant_id, command.id)
