"""What the modules promise to each other and to other services: events, and nothing else. Needs neither a database nor a web framework."""

from rentals.contracts.accounts import accounts
from rentals.contracts.cashiers import cashiers
from rentals.contracts.equipment import equipment
from rentals.contracts.orders import orders

__all__ = ["CONTRACTS", "accounts", "cashiers", "equipment", "orders"]

CONTRACTS = [accounts, cashiers, equipment, orders]
