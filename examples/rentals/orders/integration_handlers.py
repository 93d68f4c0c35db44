"""A handler of another module's event emits a command, and leaves the rest to it."""

from __future__ import annotations

from rentals.contracts.cashiers import InvoicePaid
from rentals.orders.commands import OrderPaidCommand
from tidings import Execute, Subscriptions

__all__ = ["handlers"]

handlers = Subscriptions()


@handlers.subscribe(InvoicePaid, name="order-paid")
async def invoice_paid(event: InvoicePaid, execute: Execute) -> None:
    """The command joins this handler's transaction: if it fails, the event is tried again."""
    await execute(OrderPaidCommand(event.invoice_id))
