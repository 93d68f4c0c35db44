"""The contract as a value: declaring events, finding them, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from tests.contracts.shapes import make_dataclass
from tidings import errors
from tidings.contracts import Contract
from tidings.errors import ContractError, DuplicateEvent


@pytest.fixture
def orders() -> Contract:
    return Contract("orders")


OrderPlacedV1 = make_dataclass("OrderPlacedV1", order_id=int)
OrderPlaced = make_dataclass("OrderPlaced", order_id=int, total=int)
OrderCancelled = make_dataclass("OrderCancelled", order_id=int)


def test_the_decorator_returns_the_class_as_it_is(orders: Contract) -> None:
    assert orders.event("order.placed")(OrderPlaced) is OrderPlaced


def test_an_event_type_says_what_was_declared(orders: Contract) -> None:
    @orders.event("order.placed", version=2, key="order_id", internal=True, lock_keys=False)
    @dataclass(frozen=True)
    class OrderPlaced:
        """Published when a customer's order has been accepted.

        Notifies the warehouse.
        """

        order_id: UUID

    event_type = orders.type_of(OrderPlaced)
    assert (event_type.contract, event_type.name, event_type.version, event_type.cls) == (orders, "order.placed", 2, OrderPlaced)
    assert (event_type.internal, event_type.lock_keys, event_type.keyed) == (True, False, True)
    assert event_type.doc == "Published when a customer's order has been accepted.\n\nNotifies the warehouse."
    assert str(event_type) == "order.placed v2"
    assert repr(event_type) == "<EventType order.placed v2 of orders: OrderPlaced>"


def test_what_is_not_said(orders: Contract) -> None:
    orders.event("order.placed")(OrderPlaced)

    event_type = orders.type_of(OrderPlaced)
    assert (event_type.version, event_type.internal, event_type.lock_keys, event_type.keyed) == (1, False, True, False)
    assert (event_type.domain, event_type.entity, event_type.explicit_topic, event_type.doc) == ("orders", None, None, "")
    assert (orders.source, orders.type_prefix, orders.schema_base, orders.domain) == (None, None, None, "orders")


@pytest.mark.parametrize(
    "cls",
    [
        OrderPlaced,
        msgspec.defstruct("OrderPlaced", [("order_id", int)], frozen=True),
        attrs.frozen(type("OrderPlaced", (), {"__annotations__": {"order_id": int}})),
        pydantic.create_model("OrderPlaced", __config__=pydantic.ConfigDict(frozen=True), order_id=(int, ...)),
    ],
    ids=["dataclass", "struct", "attrs", "pydantic"],
)
def test_a_class_without_docstring_has_none_even_if_its_kind_writes_one(orders: Contract, cls: type) -> None:
    orders.event("order.placed")(cls)
    assert orders["order.placed"].doc == ""


def test_an_event_type_cannot_be_changed(orders: Contract) -> None:
    orders.event("order.placed")(OrderPlaced)

    with pytest.raises(dataclasses.FrozenInstanceError):
        orders["order.placed"].name = "order.moved"  # type: ignore[misc]
    assert not hasattr(orders["order.placed"], "__dict__")


# --- finding


def test_finding_event_types(orders: Contract) -> None:
    orders.event("order.placed", version=2)(OrderPlaced)
    orders.event("order.placed", version=1)(OrderPlacedV1)
    orders.event("order.cancelled", version=None)(OrderCancelled)

    assert orders["order.placed"].cls is OrderPlaced
    assert orders["order.placed", 1].cls is OrderPlacedV1
    assert orders["order.cancelled"] is orders["order.cancelled", None]
    assert orders.type_of(OrderPlacedV1) is orders["order.placed", 1]
    assert [event_type.cls for event_type in orders] == [OrderPlaced, OrderPlacedV1, OrderCancelled]
    assert len(orders) == 3
    assert OrderPlaced in orders
    assert int not in orders
    assert orders.get("order.placed") is orders["order.placed", 2]
    assert orders.get("order.placed", 1) is orders["order.placed", 1]
    assert orders.get("order.placed", 7) is None
    assert orders.get("order.lost") is None


def test_the_newest_version_counts_as_a_number(orders: Contract) -> None:
    for version in (9, 10, 2):
        orders.event("order.placed", version=version)(make_dataclass(f"Placed{version}", order_id=int))
    assert orders["order.placed"].version == 10


def test_an_event_that_does_not_exist(orders: Contract) -> None:
    orders.event("order.placed", version=2)(OrderPlaced)

    with pytest.raises(ContractError) as caught:
        orders["order.lost"]
    assert str(caught.value) == "Contract orders has no event order.lost. Its events are order.placed v2"
    with pytest.raises(ContractError, match=r"Contract orders has no event order.placed v1\. Its events are order.placed v2"):
        orders["order.placed", 1]


def test_a_class_that_is_no_event(orders: Contract) -> None:
    with pytest.raises(ContractError) as caught:
        orders.type_of(OrderPlaced)
    assert str(caught.value) == (
        "OrderPlaced is no event of contract orders. Decorate it with @orders.event(...), or use the contract that declares it"
    )


def test_contracts_are_told_apart_by_identity() -> None:
    first, second = Contract("orders"), Contract("orders")
    assert {first: 1, second: 2} == {first: 1, second: 2}
    assert first != second


# --- names


@pytest.mark.parametrize(
    "name", ["order.placed", "equipment.equipment-created", "UserCreated", "shop/order_placed", "a", "A1", "x" * 200, "order.v2.placed"]
)
def test_names_that_are_fine(orders: Contract, name: str) -> None:
    orders.event(name)(OrderPlaced)
    assert orders[name].name == name


@pytest.mark.parametrize(
    "name", ["", " ", "order placed", "1st", ".order", "-order", "order:placed", "größe", "a\n", "x" * 201, "a#b", "a*"]
)
def test_names_that_are_not(orders: Contract, name: str) -> None:
    with pytest.raises(ContractError) as caught:
        orders.event(name)(OrderPlaced)
    assert str(caught.value) == (
        f"{name!r} cannot be the name of OrderPlaced: it must begin with a letter and hold letters, digits and . - _ / only, "
        "200 characters at most"
    )


def test_a_name_with_a_version_in_it_would_be_mistaken_for_the_version(orders: Contract) -> None:
    with pytest.raises(ContractError, match=r"'order.placed.v2' cannot be the name of OrderPlaced: it ends with a version. Say version="):
        orders.event("order.placed.v2")(OrderPlaced)


@pytest.mark.parametrize(
    ("class_name", "version", "name"),
    [
        ("UserCreated", 1, "UserCreated"),
        ("UserCreatedV1", 1, "UserCreated"),
        ("UserCreatedV2", 2, "UserCreated"),
        ("OrderCreatedIntegrationEvent", 1, "OrderCreated"),
        ("OrderCreatedIntegrationEventV3", 3, "OrderCreated"),
    ],
)
def test_the_name_follows_from_the_class_unless_it_is_given(orders: Contract, class_name: str, version: int, name: str) -> None:
    """C9, X16."""
    orders.event(version=version)(make_dataclass(class_name, id=int))
    assert orders[name, version].cls.__name__ == class_name


def test_a_class_that_says_another_version_than_the_declaration(orders: Contract) -> None:
    with pytest.raises(ContractError) as caught:
        orders.event()(make_dataclass("UserCreatedV2", id=int))
    assert str(caught.value) == "UserCreatedV2 is declared as version 1. Say version=2, or give the event's name"


@pytest.mark.parametrize("version", [0, -1, 32768, True, "2", 1.0])
def test_versions_that_are_none(orders: Contract, version: Any) -> None:
    with pytest.raises(ContractError) as caught:
        orders.event("order.placed", version=version)(OrderPlaced)
    assert str(caught.value) == (
        f"{version!r} cannot be the version of order.placed. Use 1, 2, 3 ..., or None for an event without versions"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "my orders"}, "'my orders' cannot be the name of a contract"),
        ({"name": None}, "None cannot be the name of a contract"),
        ({"name": "orders", "domain": "a b"}, "'a b' cannot be the domain of contract orders"),
        ({"name": "orders", "source": ""}, "'' cannot be the source of contract orders. Use a non-empty text without spaces"),
        ({"name": "orders", "type_prefix": "a b"}, "'a b' cannot be the type_prefix of contract orders"),
        ({"name": "orders", "schema_base": "\n"}, r"'\n' cannot be the schema_base of contract orders"),
    ],
)
def test_contracts_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError) as caught:
        Contract(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(("option", "message"), [({"domain": "a b"}, "the domain of OrderPlaced"), ({"entity": "a b"}, "an entity's name")])
def test_options_that_cannot_be(orders: Contract, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=f"'a b' cannot be {message}"):
        orders.event("order.placed", **option)(OrderPlaced)


# --- what cannot be declared twice


def test_one_name_and_version_twice(orders: Contract) -> None:
    orders.event("order.placed", version=2)(OrderPlaced)

    with pytest.raises(DuplicateEvent) as caught:
        orders.event("order.placed", version=2)(OrderPlacedV1)
    assert str(caught.value) == (
        "order.placed v2 is declared twice in contract orders: by OrderPlaced and OrderPlacedV1. Give one of them another name or version"
    )


def test_one_class_twice(orders: Contract) -> None:
    orders.event("order.placed")(OrderPlaced)

    with pytest.raises(ContractError) as caught:
        orders.event("order.moved")(OrderPlaced)
    assert str(caught.value) == "OrderPlaced is order.placed v1 already and cannot be order.moved v1 too. Write a class of its own"


@pytest.mark.parametrize(("first", "second"), [(1, None), (None, 1)])
def test_one_name_with_a_version_and_without(orders: Contract, first: int | None, second: int | None) -> None:
    orders.event("order.placed", version=first)(OrderPlaced)

    with pytest.raises(ContractError, match=r"order.placed is declared with a version and without \(OrderPlaced, OrderPlacedV1\)"):
        orders.event("order.placed", version=second)(OrderPlacedV1)


def test_two_contracts_may_hold_events_of_one_name(orders: Contract) -> None:
    other = Contract("billing")
    orders.event("order.placed")(OrderPlaced)
    other.event("order.placed")(OrderPlacedV1)

    assert orders["order.placed"] is not other["order.placed"]


# --- what the package needs


def test_a_contract_needs_neither_a_database_nor_pydantic_nor_attrs() -> None:
    program = (
        "import sys, dataclasses, msgspec\n"
        "from tidings.contracts import Contract\n"
        "contract = Contract('orders')\n"
        "@contract.event('order.placed', key='id')\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class OrderPlaced:\n"
        "    id: int\n"
        "event_type = contract.type_of(OrderPlaced)\n"
        "assert event_type.decode(event_type.encode(OrderPlaced(1))) == OrderPlaced(1)\n"
        "print(sorted({'attr', 'attrs', 'pydantic', 'sqlalchemy', 'asyncio'} & set(sys.modules)))\n"
    )
    source = {"PYTHONPATH": str(Path(errors.__file__).parents[1])}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | source)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
