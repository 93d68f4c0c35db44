"""Cashiers and invoices of many tenants: static handlers, events in return values, nested commands, publishing by hand, internal events."""

from rentals.cashiers import commands, invoices
from rentals.cashiers.router import router

__all__ = ["router", "subscriptions"]

subscriptions = [commands.handlers, invoices.handlers]
