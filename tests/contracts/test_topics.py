"""The topics of the five source systems, letter for letter, and what decides on a topic."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.contracts.shapes import make_dataclass
from tidings.contracts import (
    Contract,
    EventType,
    TopicNamer,
    by_aggregate,
    by_class_name,
    by_event_name,
    by_module,
    by_segments,
)
from tidings.contracts.naming import base_name, kebab, subject_of
from tidings.errors import ContractError


class Cashier:
    pass


class Payment:
    pass


def declare(class_name: str, namer: TopicNamer, *, module: str = "shop", name: str | None = None, **options: Any) -> EventType[Any]:
    contract = Contract(module, namer=namer)
    return contract.type_of(contract.event(name, **options)(make_dataclass(class_name, id=int)))


# --- Momentum: {environment}.{domain}.{scope}.{topic}.{version}


@pytest.mark.parametrize(
    ("topic", "environment", "class_name", "options"),
    [
        # D26, the three examples
        ("dev.appdomain.public.cashiers.v1", "dev", "CashierCreated", {"domain": "AppDomain", "entity": Cashier}),
        ("prod.invoicing.internal.payments", "prod", "PaymentReceived", {"domain": "Invoicing", "internal": True, "version": None}),
        ("test.notifications.public.emails.v2", "test", "EmailSent", {"domain": "Notifications", "version": 2}),
        # D4: the entity names the topic; D5, D6: topic and domain can be given
        (
            "prod.invoicing.internal.payments",
            "prod",
            "Anything",
            {"domain": "invoicing", "entity": Payment, "internal": True, "version": None},
        ),
        ("dev.shop.public.till.v1", "dev", "CashierCreated", {"topic": "till", "entity": Cashier}),
        # D9, X17: an explicit topic is put into the plural on demand only, a derived one unless told not to
        ("dev.shop.public.cashiers.v1", "dev", "CashierCreated", {"topic": "cashier", "pluralize": True}),
        ("dev.shop.public.cashiers.v1", "dev", "CashierCreated", {"topic": "cashiers", "pluralize": True}),
        ("dev.shop.public.cashier.v1", "dev", "CashierCreated", {"entity": Cashier, "pluralize": False}),
        # D15, X17: an event about an id is named after what happened to what, never `guids`
        ("dev.appdomain.public.cashiers.v1", "dev", "CashierDeleted", {"domain": "appdomain", "entity": UUID}),
        ("dev.invoicing.public.invoices.v1", "dev", "InvoicePaid", {"domain": "invoicing", "entity": UUID}),
        ("dev.invoicing.public.invoices.v1", "dev", "InvoicePaid", {"domain": "invoicing", "entity": int}),
        ("dev.invoicing.public.invoices.v1", "dev", "InvoicePaid", {"domain": "invoicing", "entity": Decimal}),
        # D27: the hosting environment as ASP.NET Core names it
        ("dev.shop.public.orders.v1", "Development", "OrderPlaced", {}),
        ("test.shop.public.orders.v1", "Testing", "OrderPlaced", {}),
        ("prod.shop.public.orders.v1", "Production", "OrderPlaced", {}),
        ("staging.shop.public.orders.v1", "Staging", "OrderPlaced", {}),
        ("dev.shop.public.order-items.v1", "dev", "OrderItemAdded", {}),
    ],
)
def test_by_segments(topic: str, environment: str, class_name: str, options: dict[str, Any]) -> None:
    assert declare(class_name, by_segments, **options).topic(environment) == topic


def test_by_segments_needs_to_know_the_environment() -> None:
    with pytest.raises(ContractError) as caught:
        declare("OrderPlaced", by_segments).topic()
    assert str(caught.value) == (
        "The topic of OrderPlaced v1 begins with the environment, and none is given. Name it: 'dev', 'test' or 'prod'"
    )


def test_two_versions_of_one_event_have_topics_of_their_own() -> None:
    """D32, X16: the same event at v1 and v2."""
    contract = Contract("users", namer=by_segments)
    contract.event(version=1)(make_dataclass("UserCreatedV1", id=int))
    contract.event(version=2)(make_dataclass("UserCreatedV2", id=int))

    assert [str(event_type) for event_type in contract] == ["UserCreated v1", "UserCreated v2"]
    assert contract["UserCreated", 1].topic("dev") == "dev.users.public.users.v1"
    assert contract["UserCreated", 2].topic("dev") == "dev.users.public.users.v2"


# --- PearDrop: {module}.{aggregate}.{event} or {module}.{event}, in kebab case


@pytest.mark.parametrize(
    ("topic", "class_name", "name"),
    [
        # E8, the four examples, from the class and from a constant
        ("equipment.equipment-created", "EquipmentCreatedIntegrationEvent", None),
        ("equipment.status-changed", "StatusChangedIntegrationEvent", None),
        ("equipment.checked-out", "CheckedOut", None),
        ("equipment.checked-in", "CheckedIn", None),
        ("equipment.equipment-created", "EquipmentCreatedIntegrationEvent", "equipment.equipment-created"),
        ("equipment.status-changed", "EquipmentStatusChanged", "equipment.status-changed"),
        ("equipment.checked-out", "EquipmentCheckedOut", "equipment.checked-out"),
        ("equipment.checked-in", "EquipmentCheckedIn", "equipment.checked-in"),
    ],
)
def test_by_module(topic: str, class_name: str, name: str | None) -> None:
    assert declare(class_name, by_module, module="equipment", name=name).topic() == topic


def test_by_module_with_an_aggregate() -> None:
    """E7: `{module}.{aggregate}.{event}`."""
    event_type = declare("StatusChanged", by_module, module="FieldService", entity="WorkOrder")
    assert event_type.topic() == "field-service.work-order.status-changed"


@pytest.mark.parametrize("name", ["equipment.equipment-created", "equipment.status-changed", "equipment.checked-out"])
def test_a_constant_is_the_topic_by_default(name: str) -> None:
    """E6, E9: the event's name is the module's constant."""
    assert declare("Whatever", by_event_name, module="equipment", name=name).topic() == name


# --- SuperSafeBank: one topic per aggregate; NetCorePal: the class name


def test_by_aggregate() -> None:
    """A24: all events of an aggregate share its topic."""
    contract = Contract("bank", namer=by_aggregate)
    contract.event(entity="Customer")(make_dataclass("CustomerCreated", id=int))
    contract.event()(make_dataclass("CustomerAddressChanged", id=int))
    contract.event()(make_dataclass("CustomerDeleted", id=int))

    assert contract["CustomerCreated"].topic() == "Customer"
    assert contract["CustomerDeleted"].topic() == "Customer"
    assert contract["CustomerAddressChanged"].topic() == "CustomerAddress"


def test_by_class_name() -> None:
    """C9, C10: `OrderCreatedIntegrationEvent`."""
    event_type = declare("OrderCreatedIntegrationEvent", by_class_name)
    assert event_type.name == "OrderCreated"
    assert event_type.topic() == "OrderCreatedIntegrationEvent"


# --- the default, and what all have in common


def test_by_default_the_topic_is_the_name_of_the_event_in_every_environment() -> None:
    event_type = declare("OrderPlaced", by_event_name, name="order.placed", version=2)

    assert Contract("orders").namer is by_event_name
    assert event_type.topic() == event_type.topic("dev") == event_type.topic("Production") == "order.placed"


def test_by_default_the_events_of_an_entity_share_a_topic_so_that_a_broker_keeps_their_order() -> None:
    """X6."""
    assert declare("OrderPlaced", by_event_name, name="order.placed", entity="Order").topic() == "shop.orders"
    assert declare("OrderShipped", by_event_name, name="order.shipped", entity="Order").topic() == "shop.orders"
    assert declare("OrderShipped", by_event_name, name="order.shipped", entity="Order", pluralize=False).topic() == "shop.order"
    assert declare("OrderShipped", by_event_name, name="order.shipped", entity=UUID).topic() == "order.shipped"


@pytest.mark.parametrize("namer", [by_event_name, by_class_name, by_module, by_aggregate], ids=lambda namer: namer.__name__)
def test_an_explicit_topic_wins(namer: TopicNamer) -> None:
    assert declare("OrderPlaced", namer, topic="legacy.Order", entity="Order").topic("dev") == "legacy.Order"
    assert declare("OrderPlaced", namer, topic="legacy.Order", entity="Order", pluralize=True).topic("dev") == "legacy.Orders"


def test_the_namer_can_be_any_function_and_is_asked_once_per_environment() -> None:
    asked = []

    def namer(event_type: EventType[Any], environment: str | None, /) -> str:
        asked.append(environment)
        return f"{environment}-{event_type.contract.name}-{event_type.domain}-{event_type}".replace(" ", "-")

    event_type = declare("OrderPlaced", namer, name="order.placed", domain="sales")
    assert [event_type.topic(environment) for environment in ("a", "b", "a")] == [
        "a-shop-sales-order.placed-v1",
        "b-shop-sales-order.placed-v1",
        "a-shop-sales-order.placed-v1",
    ]
    assert asked == ["a", "b"]


@pytest.mark.parametrize("topic", ["", "a b", "a\nb", "ü", "x" * 250, "\0"])
def test_a_topic_that_a_broker_would_refuse(topic: str) -> None:
    message = r"cannot be the topic of OrderPlaced.*\. Use 1 to 249 printable ASCII characters without spaces"
    with pytest.raises(ContractError, match=message):
        declare("OrderPlaced", by_event_name, topic=topic)
    with pytest.raises(ContractError, match=message):
        declare("OrderPlaced", lambda event_type, environment: topic).topic()


def test_a_namer_that_is_no_function() -> None:
    with pytest.raises(ContractError, match="'by-name' cannot name the topics of contract shop. Give a function, e.g. namer=by_event_name"):
        Contract("shop", namer="by-name")  # type: ignore[arg-type]


# --- parts of names


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("EquipmentCreated", "equipment-created"),
        ("HTTPServerStarted", "http-server-started"),
        ("OrderV2Placed", "order-v2-placed"),
        ("already-kebab", "already-kebab"),
        ("snake_case_too", "snake-case-too"),
        ("with spaces", "with-spaces"),
        ("A", "a"),
    ],
)
def test_kebab_case(name: str, written: str) -> None:
    assert kebab(name) == written


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("UserCreatedV1", "UserCreated"),
        ("UserCreatedV12", "UserCreated"),
        ("OrderCreatedIntegrationEvent", "OrderCreated"),
        ("OrderCreatedIntegrationEventV2", "OrderCreated"),
        ("OrderCreatedV2IntegrationEvent", "OrderCreated"),
        ("V2", "V2"),
        ("IntegrationEvent", "IntegrationEvent"),
    ],
)
def test_the_name_of_an_event_as_its_class_tells_it(class_name: str, name: str) -> None:
    assert base_name(class_name) == name


@pytest.mark.parametrize(
    ("class_name", "subject"),
    [
        ("CashierDeleted", "Cashier"),
        ("CashierCreated", "Cashier"),
        ("InvoicePaid", "Invoice"),
        ("PaymentReceived", "Payment"),
        ("EmailSent", "Email"),
        ("UserCreatedV2", "User"),
        ("UserLoggedIn", "User"),
        ("EquipmentCheckedOut", "Equipment"),
        ("OrderItemAdded", "OrderItem"),
        ("OrderPartiallyShipped", "Order"),
        ("OrderCreatedIntegrationEvent", "Order"),
        ("HTTPServerStarted", "HTTPServer"),
        ("NewsFeed", "NewsFeed"),
        ("TaskSpeed", "TaskSpeed"),
        ("AgreementAgreed", "Agreement"),
        ("CheckedOut", "CheckedOut"),
        ("Created", "Created"),
        ("Order", "Order"),
    ],
)
def test_what_an_event_happened_to_as_its_class_tells_it(class_name: str, subject: str) -> None:
    assert subject_of(class_name) == subject
