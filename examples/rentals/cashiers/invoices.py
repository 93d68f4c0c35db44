"""Invoices: made when an order is placed, paid by hand, and counted in the till by way of an internal event."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from rentals.cashiers.models import InvoiceRow, Till
from rentals.contracts.cashiers import Invoice, InvoiceCreated, InvoicePaid, TillBalanced
from rentals.contracts.orders import OrderCreatedIntegrationEvent
from rentals.kernel import Clock
from tidings import Publish, Service, Subscriptions
from tidings.context import TENANT

__all__ = ["handlers", "pay"]

handlers = Subscriptions()


@handlers.subscribe(OrderCreatedIntegrationEvent, name="invoice")
async def make_invoice(event: OrderCreatedIntegrationEvent, session: AsyncSession, publish: Publish) -> None:
    """Make an invoice with the order's id. The tenant is that of the request that has placed the order."""
    tenant = TENANT.get() or "house"
    session.add(InvoiceRow(id=event.order_id, tenant=tenant, minor=event.total_minor))
    publish(InvoiceCreated(tenant, Invoice(event.order_id, Decimal(event.total_minor) / 100)))


async def pay(service: Service, session: AsyncSession, clock: Clock, tenant: str, invoice_id: UUID) -> bool:
    """Pay an invoice in a transaction of the caller's, and publish by hand. No command, no domain event: that works as well."""
    row = await session.get(InvoiceRow, invoice_id)
    if row is None or row.tenant != tenant:
        return False
    if not row.paid:
        row.paid = True
        service.publish(session, InvoicePaid(tenant, row.id, Decimal(row.minor) / 100, clock.now()))
    return True


@handlers.subscribe(InvoicePaid, name="till")
async def take(event: InvoicePaid, publish: Publish) -> None:
    """Leave the rest for later, as an event that stays in this service."""
    publish(TillBalanced(event.tenant_id, event.amount_paid))


@handlers.subscribe(TillBalanced, name="balance")
async def balance(event: TillBalanced, session: AsyncSession) -> None:
    """Add up. The tenant is the key, so no two of these run at once for one tenant."""
    till = await session.get(Till, event.tenant_id) or Till(tenant=event.tenant_id, minor=0)
    till.minor += int(event.taken * 100)
    session.add(till)
