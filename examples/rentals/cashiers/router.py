"""The routes of the cashiers. The tenant is what the gateway says in `x-tenant`; a body cannot say another."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel

from rentals.cashiers.commands import CreateCashier, DeleteCashier
from rentals.cashiers.invoices import pay
from rentals.cashiers.models import InvoiceRow, Till
from rentals.kernel import ServiceOf, SessionOf, SystemClock, answer, found
from tidings.context import TENANT

__all__ = ["router"]

router = APIRouter(tags=["cashiers"])


async def _tenant() -> str:
    tenant = TENANT.get()
    if tenant is None:
        raise HTTPException(400, "say which tenant: x-tenant")
    return tenant


Tenant = Annotated[str, Depends(_tenant)]


class NewCashier(BaseModel):
    """A cashier as the web sends one."""

    id: UUID
    name: str
    email: str


@router.post("/cashiers", status_code=201)
async def create(cashier: NewCashier, tenant: Tenant, service: ServiceOf) -> Any:
    """Add a cashier."""
    return answer(await service.execute(CreateCashier(tenant, cashier.id, cashier.name, cashier.email)))


@router.delete("/cashiers/{cashier_id}")
async def delete(cashier_id: UUID, tenant: Tenant, service: ServiceOf) -> Any:
    """Remove a cashier."""
    return answer(await service.execute(DeleteCashier(tenant, cashier_id)))


@router.get("/invoices/{invoice_id}")
async def invoice(invoice_id: UUID, tenant: Tenant, session: SessionOf) -> dict[str, Any]:
    """Show an invoice of this tenant."""
    row = await session.get(InvoiceRow, invoice_id)
    row = found(row if row is not None and row.tenant == tenant else None)
    return {"id": row.id, "minor": row.minor, "paid": row.paid}


@router.post("/invoices/{invoice_id}/pay")
async def pay_invoice(invoice_id: UUID, tenant: Tenant, service: ServiceOf, session: SessionOf) -> dict[str, Any]:
    """Pay an invoice."""
    async with session.begin():
        if not await pay(service, session, SystemClock(), tenant, invoice_id):
            raise HTTPException(404)
    return {"id": invoice_id, "paid": True}


@router.get("/till")
async def till(tenant: Tenant, session: SessionOf) -> dict[str, Any]:
    """Show what a tenant has taken."""
    row = found(await session.get(Till, tenant))
    return {"tenant": row.tenant, "minor": row.minor}
