"""The partition key: which fields, which types, which text."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.shapes import KINDS, Maker, make_dataclass
from tidings.contracts import Contract, EventType, PartitionKey, key_text, normalize_key
from tidings.errors import ContractError, InvalidEvent

ID = UUID("0190a1b2-0000-7000-8000-000000000001")
OrderId = NewType("OrderId", int)


class Region(enum.Enum):
    EU = "eu"
    US = "us"


class Level(enum.IntEnum):
    LOW = 1


class Weight(enum.Enum):
    HALF = 0.5


def declare(cls: type, **options: Any) -> EventType[Any]:
    contract = Contract("orders")
    return contract.type_of(contract.event("order.placed", **options)(cls))


def refusal(cls: type, **options: Any) -> str:
    with pytest.raises(ContractError) as caught:
        declare(cls, **options)
    return str(caught.value)


# --- which fields


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_one_field(make: Maker) -> None:
    event_type = declare(make("OrderPlaced", order_id=UUID, total=int), key="order_id")

    assert event_type.keyed
    assert event_type.key_of(event_type.cls(order_id=ID, total=1)) == str(ID)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_several_fields_in_the_order_given(make: Maker) -> None:
    event_type = declare(make("OrderPlaced", order_id=int, tenant=str), key=("tenant", "order_id"))

    assert event_type.key_of(event_type.cls(order_id=7, tenant="acme")) == "acme|7"


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_marked_field(make: Maker) -> None:
    """D10: `[PartitionKey] Guid TenantId`."""
    event_type = declare(make("CashierCreated", tenant_id=Annotated[UUID, PartitionKey()], name=str))

    assert event_type.key_of(event_type.cls(tenant_id=ID, name="x")) == str(ID)


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_several_marked_fields_in_their_order(make: Maker) -> None:
    """D11: `[PartitionKey(Order = 0)]` primary, `[PartitionKey(Order = 1)]` secondary."""
    event_type = declare(
        make(
            "CashierCreated",
            partition_key_test=Annotated[int, PartitionKey(order=1)],
            tenant_id=Annotated[UUID, PartitionKey(order=0)],
        )
    )

    assert event_type.key_of(event_type.cls(partition_key_test=3, tenant_id=ID)) == f"{ID}|3"


def test_a_mark_without_parentheses_counts() -> None:
    event_type = declare(make_dataclass("OrderPlaced", order_id=Annotated[int, PartitionKey]))

    assert event_type.key_of(event_type.cls(5)) == "5"


def test_no_key() -> None:
    event_type = declare(make_dataclass("OrderPlaced", order_id=int))

    assert not event_type.keyed
    assert event_type.key_of(event_type.cls(5)) is None


def test_key_locks_are_on_unless_they_are_given_up() -> None:
    assert declare(make_dataclass("OrderPlaced", order_id=int), key="order_id").lock_keys
    assert not declare(make_dataclass("OrderPlaced", order_id=int), key="order_id", lock_keys=False).lock_keys


def test_a_field_that_does_not_exist() -> None:
    assert refusal(make_dataclass("OrderPlaced", order_id=int, total=int), key="orderid") == (
        "OrderPlaced has no field 'orderid' to make its key of. Its fields are order_id, total"
    )


def test_a_key_that_is_no_field() -> None:
    assert refusal(make_dataclass("OrderPlaced", order_id=int), key=5) == (
        "5 cannot be the key of an event. Give the name of a field, or several, e.g. key='order_id'"
    )


def test_a_field_twice() -> None:
    assert refusal(make_dataclass("OrderPlaced", order_id=int), key=("order_id", "order_id")) == (
        "OrderPlaced has a field twice in its key (order_id, order_id). Remove one"
    )


def test_two_marks_of_the_same_order() -> None:
    cls = make_dataclass("OrderPlaced", a=Annotated[int, PartitionKey()], b=Annotated[int, PartitionKey()])

    assert refusal(cls) == (
        "OrderPlaced.b: PartitionKey(order=0) is OrderPlaced.a already. Give every part of the key an order of its own: "
        "PartitionKey(order=0), PartitionKey(order=1)"
    )


def test_marks_and_an_explicit_key() -> None:
    cls = make_dataclass("OrderPlaced", a=Annotated[int, PartitionKey()], b=int)

    assert refusal(cls, key="b") == ("OrderPlaced has key=b and fields marked with PartitionKey (a). Keep one of the two")


# --- which types


@pytest.mark.parametrize(
    ("hint", "value", "key"),
    [
        (str, "a", "a"),
        (int, -5, "-5"),
        (UUID, ID, str(ID)),
        (Region, Region.EU, "eu"),
        (Level, Level.LOW, "1"),
        (OrderId, OrderId(3), "3"),
        (Literal["x", 1], 1, "1"),
        (UUID | None, ID, str(ID)),
        (UUID | None, None, None),
        (Annotated[str, "note"], "a|b", "a|b"),
    ],
    ids=str,
)
def test_types_that_make_a_key(hint: Any, value: Any, key: str | None) -> None:
    event_type = declare(make_dataclass("OrderPlaced", part=hint), key="part")

    assert event_type.key_of(event_type.cls(value)) == key


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (float, "float cannot be a key: it has several texts for one number, such as 1.0 and 1.00"),
        (Decimal, "Decimal cannot be a key: it has several texts for one number, such as 1.0 and 1.00"),
        (Decimal | None, "Decimal cannot be a key: it has several texts for one number, such as 1.0 and 1.00"),
        (datetime, "datetime cannot be a key: it has several texts for one moment, one in each time zone"),
        (bool, "bool cannot be a key: it would put all events into two lanes"),
        (date, "date cannot be a key: it does not make a text that stays the same"),
        (bytes, "bytes cannot be a key: it does not make a text that stays the same"),
        (list[int], "list[int] cannot be a key: it does not make a text that stays the same"),
        (dict[str, int], "dict[str, int] cannot be a key: it does not make a text that stays the same"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_types_that_do_not(make: Maker, hint: Any, reason: str) -> None:
    assert refusal(make("OrderPlaced", order_id=int, part=hint), key=("order_id", "part")) == (
        f"OrderPlaced.part: {reason}. Use a str, int, UUID or Enum field: an id of what the events are about"
    )


def test_a_value_of_another_type_than_declared_does_not_make_another_key() -> None:
    event_type = declare(make_dataclass("OrderPlaced", order_id=UUID), key="order_id")

    with pytest.raises(InvalidEvent) as caught:
        event_type.key_of(event_type.cls(str(ID).upper()))
    assert str(caught.value) == "OrderPlaced.order_id is part of the key and holds str instead of UUID. Convert it"


def test_a_bool_in_the_place_of_an_int() -> None:
    event_type = declare(make_dataclass("OrderPlaced", order_id=int), key="order_id")

    with pytest.raises(InvalidEvent, match=r"OrderPlaced has no usable key \(order_id\): A key cannot hold bool"):
        event_type.key_of(event_type.cls(True))


def test_an_event_of_another_class() -> None:
    event_type = declare(make_dataclass("OrderPlaced", order_id=int), key="order_id")

    with pytest.raises(InvalidEvent, match=r"order.placed v1 is published as OrderPlaced, not as str"):
        event_type.key_of("text")


def test_the_key_of_a_model_is_read_by_the_name_of_the_field_not_of_its_alias() -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        order_id: Annotated[int, PartitionKey()] = pydantic.Field(alias="orderId")

    event_type = declare(OrderPlaced)
    assert event_type.key_of(OrderPlaced(orderId=7)) == "7"


# --- which text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (["a"], "a"),
        (["a", "b"], "a|b"),
        (["a|b", "c"], r"a\|b|c"),
        (["a", "b|c"], r"a|b\|c"),
        (["a\\", "b"], r"a\\|b"),
        (["a\\|b"], r"a\|b"),
        ([ID, 1, Region.US], f"{ID}|1|us"),
        (["a", None], "a|"),
        ([None, "a"], "|a"),
        ([None], None),
        ([None, None], None),
        (["ключ", "鍵"], "ключ|鍵"),
    ],
)
def test_the_text_of_a_key(values: list[Any], text: str | None) -> None:
    """X30: joined by `|`, with `|` and the backslash escaped; None is an empty part."""
    assert key_text(values) == text


PARTS = st.text(st.sampled_from("a|\\"), max_size=6)


@given(st.integers(1, 4).flatmap(lambda size: st.tuples(*[st.lists(PARTS, min_size=size, max_size=size)] * 2)))
def test_different_values_never_share_a_key(pair: tuple[list[str], list[str]]) -> None:
    first, second = pair
    if any(first) and any(second):
        assert (key_text([*first, "end"]) == key_text([*second, "end"])) == (first == second)


@given(first=st.lists(PARTS, min_size=2, max_size=4), second=st.lists(PARTS, min_size=2, max_size=4))
def test_nor_do_lists_of_different_length(first: list[str], second: list[str]) -> None:
    assert (key_text([*first, "end"]) == key_text([*second, "end"])) == (first == second)


@pytest.mark.parametrize(
    ("value", "key"),
    [("a|b", "a|b"), (5, "5"), (ID, str(ID)), (Region.EU, "eu"), (("a", 1), "a|1"), (["a", ID], f"a|{ID}"), (None, None), ((None,), None)],
)
def test_a_key_given_by_the_caller(value: object, key: str | None) -> None:
    assert normalize_key(value) == key


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200))
def test_the_key_of_an_envelope_can_be_handed_on_as_it_is(text: str) -> None:
    assert normalize_key(text) == text


@given(value=st.text(st.sampled_from("ab|\\"), min_size=1), other=st.integers())
def test_a_key_given_by_the_caller_equals_that_of_fields_with_these_values(value: str, other: int) -> None:
    one = declare(make_dataclass("OrderPlaced", part=str), key="part")
    two = declare(make_dataclass("OrderPlaced", part=str, other=int), key=("part", "other"))

    assert normalize_key(value) == one.key_of(one.cls(value))
    assert normalize_key((value, other)) == two.key_of(two.cls(value, other))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "A key cannot hold float. Use a str, int, UUID or Enum, or a tuple of these"),
        (Decimal(1), "A key cannot hold Decimal. Use a str"),
        (datetime(2026, 1, 1), "A key cannot hold datetime. Use a str"),  # noqa: DTZ001
        (True, "A key cannot hold bool. Use a str"),
        (b"a", "A key cannot hold bytes. Use a str"),
        (("a", ("b",)), "A key cannot hold tuple. Use a str"),
        (Weight.HALF, "A key cannot hold float. Use a str"),
        ("", "A key is empty. Give it a value, or None for an event without key"),
        ((), "A key is empty. Give it a value, or None for an event without key"),
        ("a\0b", r"The key 'a\x00b' holds a NUL character, which no database can store as text. Remove it"),
        ("\ud800", r"The key '\ud800' holds half of a surrogate pair, which is not text. Remove it"),
        ("x" * 1025, "... has 1025 bytes, and 1024 is the most. Use an id or a digest"),
        ("é" * 513, "... has 1026 bytes, and 1024 is the most. Use an id or a digest"),
        (10**5000, "A key holds an int of more than 100 digits. Use an id"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else "int",
)
def test_a_key_that_is_none(value: object, message: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        normalize_key(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["x" * 1024, "é" * 512, "\u0001", " ", "|"])
def test_a_key_just_within_the_limits(key: str) -> None:
    assert normalize_key(key) == key


def test_an_unusable_key_of_an_event_names_the_class_and_the_fields() -> None:
    @dataclass(frozen=True)
    class OrderPlaced:
        tenant: str

    event_type = declare(OrderPlaced, key="tenant")
    with pytest.raises(InvalidEvent, match=r"OrderPlaced has no usable key \(tenant\): A key is empty"):
        event_type.key_of(OrderPlaced(""))
