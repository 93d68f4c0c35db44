"""Events of the accounts: one topic for each aggregate, two versions of one event side by side, and the least that subscribers need."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from tidings import Contract
from tidings.contracts.naming import by_aggregate

__all__ = ["CustomerDeleted", "CustomerRegistered", "CustomerRegisteredV1", "MoneyMoved", "accounts"]

# `by_aggregate`: whatever happens to a customer is in the topic `Customer`, so a broker keeps its order.
accounts = Contract("accounts", namer=by_aggregate)


@accounts.event("customer.registered", version=1, key="customer_id", entity="Customer")
@dataclass(frozen=True)
class CustomerRegisteredV1:
    """Published beside version 2 until the last subscriber has migrated."""

    customer_id: UUID
    email: str


@accounts.event("customer.registered", version=2, key="customer_id", entity="Customer")
@dataclass(frozen=True)
class CustomerRegistered:
    """Published when somebody has become a customer."""

    customer_id: UUID
    email: str
    first_name: str
    registered_at: datetime


@accounts.event("customer.deleted", key="customer_id", entity="Customer")
@dataclass(frozen=True)
class CustomerDeleted:
    """Published when a customer is gone. Whoever keeps something of theirs lets it go."""

    customer_id: UUID
    email: str
    deleted_at: datetime


@accounts.event("account.money-moved", key="account_id", entity="Account")
@dataclass(frozen=True)
class MoneyMoved:
    """Published for each deposit (positive) and withdrawal (negative)."""

    account_id: UUID
    minor: int
    balance_minor: int
