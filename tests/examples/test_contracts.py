"""Names, topics and keys, as other systems expect them."""

from __future__ import annotations

from uuid import UUID

import pytest

from rentals.contracts import CONTRACTS, cashiers, equipment
from rentals.contracts.cashiers import Cashier, CashierCreated
from rentals.contracts.equipment import EquipmentTopics


@pytest.mark.parametrize(
    ("name", "topic"),
    [
        ("customer.registered", "Customer"),
        ("account.money-moved", "Account"),
        ("CashierCreated", "dev.appdomain.public.cashiers.v1"),
        ("CashierDeleted", "dev.appdomain.public.cashiers.v1"),
        ("InvoicePaid", "dev.appdomain.public.invoices.v1"),
        ("TillBalanced", "dev.invoicing.internal.payments"),
        ("equipment.checked-in", "equipment.checked-in"),
        ("OrderCreated", "OrderCreatedIntegrationEvent"),
    ],
)
def test_topics(name: str, topic: str) -> None:
    (found,) = {event_type.topic("Development") for contract in CONTRACTS for event_type in contract if event_type.name == name}
    assert found == topic


def test_names_are_the_constants_of_the_module() -> None:
    constants = {value for name, value in vars(EquipmentTopics).items() if name.isupper()}
    assert {event_type.name for event_type in equipment} == constants


def test_a_key_of_two_parts() -> None:
    event = CashierCreated("acme", 3, Cashier(UUID(int=1), "Ida", "ida@example.org"))
    assert cashiers.type_of(CashierCreated).key_of(event) == "acme|3"


def test_every_event_says_when_it_is_published() -> None:
    assert all(event_type.doc and event_type.doc.startswith("Published") for contract in CONTRACTS for event_type in contract)
