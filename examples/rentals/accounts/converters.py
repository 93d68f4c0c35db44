"""From domain events to what others may know: called for each recorded event, with no call to publish anywhere."""

from __future__ import annotations

from rentals.accounts.account import Moved
from rentals.accounts.customer import CustomerJoined, CustomerLeft
from rentals.contracts.accounts import CustomerDeleted, CustomerRegistered, CustomerRegisteredV1, MoneyMoved
from tidings import Subscriptions

__all__ = ["handlers"]

handlers = Subscriptions()


@handlers.converts(CustomerJoined)
def registered(event: CustomerJoined) -> list[CustomerRegisteredV1 | CustomerRegistered]:
    """Publish both versions until all subscribers have migrated; then the first one goes."""
    return [
        CustomerRegisteredV1(event.customer_id, event.email),
        CustomerRegistered(event.customer_id, event.email, event.first_name, event.at),
    ]


@handlers.converts(CustomerLeft)
def deleted(event: CustomerLeft) -> CustomerDeleted:
    """Take from the aggregate what subscribers need."""
    return CustomerDeleted(event.customer.id, event.customer.email, event.at)


@handlers.converts(Moved)
def moved(event: Moved) -> MoneyMoved:
    """Nearly the same, and still two classes: the public one may not change when the domain does."""
    return MoneyMoved(event.account_id, event.minor, event.balance_minor)
