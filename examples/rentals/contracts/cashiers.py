"""Events of the cashiers and invoices, for many tenants: partition keys, and topics `{environment}.{domain}.{scope}.{topic}.{version}`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from tidings import Contract, PartitionKey
from tidings.contracts.naming import by_segments

__all__ = ["Cashier", "CashierCreated", "CashierDeleted", "Invoice", "InvoiceCreated", "InvoicePaid", "TillBalanced", "cashiers"]

# dev.appdomain.public.cashiers.v1; the environment is the service's.
cashiers = Contract("cashiers", domain="AppDomain", namer=by_segments)


@dataclass(frozen=True)
class Cashier:
    """A cashier as others may see one."""

    cashier_id: UUID
    name: str
    email: str


@dataclass(frozen=True)
class Invoice:
    """An invoice as others may see one."""

    invoice_id: UUID
    amount: Decimal


@cashiers.event(entity=Cashier)
@dataclass(frozen=True)
class CashierCreated:
    """Published when a tenant has a new cashier. Carries the whole entity; its key has two parts, in this order."""

    tenant_id: Annotated[str, PartitionKey(order=0)]
    partition_key_test: Annotated[int, PartitionKey(order=1)]
    cashier: Cashier


@cashiers.event(entity=UUID)  # a scalar is no entity: the topic is that of `CashierCreated`
@dataclass(frozen=True)
class CashierDeleted:
    """Published when a cashier has left. Carries the id only."""

    tenant_id: Annotated[str, PartitionKey()]
    cashier_id: UUID


@cashiers.event(entity=Invoice, key="tenant_id")
@dataclass(frozen=True)
class InvoiceCreated:
    """Published when somebody owes something. The tenant is the key: a tenant's invoices are handled in order."""

    tenant_id: str
    invoice: Invoice


@cashiers.event(entity=UUID, key="tenant_id")
@dataclass(frozen=True)
class InvoicePaid:
    """Published when an invoice has been paid."""

    tenant_id: str
    invoice_id: UUID
    amount_paid: Decimal
    paid_date: datetime


@cashiers.event(topic="payment", pluralize=True, domain="Invoicing", version=None, internal=True, key="tenant_id")
@dataclass(frozen=True)
class TillBalanced:
    """Published for this service alone: `dev.invoicing.internal.payments`, without a version. No relay sends it."""

    tenant_id: str
    taken: Decimal
