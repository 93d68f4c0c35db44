"""What `decode` would refuse or change is refused when it is published, with class and field: later nobody could tell the caller."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.shapes import KINDS, MSGSPEC_KINDS, Maker
from tidings.contracts import Contract, EventType
from tidings.errors import InvalidEvent, PublishError

contract = Contract("orders")


@dataclass(frozen=True)
class Line:
    price: float | None
    weight: Decimal | None = None


@contract.event("order.placed", version=2)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: UUID
    total: int = 0
    rate: float | None = None
    discount: Decimal | None = None
    note: str = ""
    placed_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    lines: dict[str, list[Line]] = field(default_factory=dict)


@contract.event("node.added")
class Node(msgspec.Struct, frozen=True):
    children: list[Node] = []


contract.check()
ID = UUID(int=1)


def encode(event: Any) -> str:
    return contract.type_of(type(event)).encode(event)


def refusal(event: Any) -> str:
    with pytest.raises(InvalidEvent) as caught:
        encode(event)
    return str(caught.value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("rate", lambda number: OrderPlaced(ID, rate=number)),
        ("discount", lambda number: OrderPlaced(ID, discount=Decimal(number))),
        ("lines['a'][1].price", lambda number: OrderPlaced(ID, lines={"a": [Line(1.0), Line(number)]})),
        ("lines['a'][0].weight", lambda number: OrderPlaced(ID, lines={"a": [Line(None, Decimal(number))]})),
    ],
)
def test_a_number_that_is_not_finite(number: float, path: str, make: Callable[[float], OrderPlaced]) -> None:
    text = refusal(make(number))

    assert text.startswith(f"order.placed v2 is not published: OrderPlaced.{path} is ")
    assert text.endswith(", which JSON cannot carry. Use a finite number or None")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("hint", [float, float | None, list[float], dict[str, float | None]], ids=str)
def test_a_number_that_is_not_finite_in_every_kind_of_class(make: Maker, hint: Any) -> None:
    orders = Contract("orders")
    event_class: Any = orders.event("measured")(make("Measured", other=float, value=hint))
    value: Any = math.nan
    if "dict" in str(hint):
        value = {"a": value}
    elif "list" in str(hint):
        value = [value]

    with pytest.raises(InvalidEvent, match=r"measured v1 is not published: Measured\.value.* is nan, which JSON cannot carry"):
        orders.type_of(event_class).encode(event_class(other=1.0, value=value))


def test_a_decimal_that_would_come_back_as_itself_but_that_other_readers_do_not_know() -> None:
    orders = Contract("orders")
    event_class: Any = orders.event("measured")(MSGSPEC_KINDS["struct"]("Measured", value=Decimal))

    for number in ("NaN", "sNaN", "Infinity", "-Infinity"):
        with pytest.raises(InvalidEvent, match=r"Measured\.value is .*, which JSON cannot carry"):
            orders.type_of(event_class).encode(event_class(Decimal(number)))


@pytest.mark.parametrize("written", ["constants", "strings", "null"])
def test_a_number_that_is_not_finite_however_pydantic_is_told_to_write_it(written: Any) -> None:
    orders = Contract("orders")

    @orders.event("measured")
    class Measured(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, ser_json_inf_nan=written)
        value: float

    for number in (math.nan, math.inf):
        with pytest.raises(InvalidEvent, match=r"Measured\.value is .*, which JSON cannot carry"):
            orders.type_of(Measured).encode(Measured(value=number))


class Ping(msgspec.Struct, frozen=True):
    pong: Pong | None = None
    value: float | None = None


class Pong(msgspec.Struct, frozen=True):
    ping: Ping | None = None


def test_a_number_that_is_not_finite_in_classes_that_contain_one_another() -> None:
    orders = Contract("orders")

    @orders.event("played")
    class Played(msgspec.Struct, frozen=True):
        ping: Ping
        pong: Pong

    with pytest.raises(InvalidEvent, match=r"Played\.pong\.ping\.value is nan"):
        orders.type_of(Played).encode(Played(Ping(), Pong(Ping(value=math.nan))))


def test_none_beside_a_number_is_fine() -> None:
    event = OrderPlaced(ID, rate=None, lines={"null": [Line(None), Line(2.5)]}, note="NaN and Infinity")
    assert contract.type_of(OrderPlaced).decode(encode(event)) == event


@pytest.mark.parametrize(
    ("event", "what"),
    [
        (OrderPlaced("garbage"), "OrderPlaced.order_id: Invalid UUID"),  # type: ignore[arg-type]
        (OrderPlaced(5), "OrderPlaced.order_id: Expected `uuid`, got `int`"),  # type: ignore[arg-type]
        (OrderPlaced(ID, total="5"), "OrderPlaced.total: Expected `int`, got `str`"),  # type: ignore[arg-type]
        (OrderPlaced(ID, total=True), "OrderPlaced.total: Expected `int`, got `bool`"),
        (OrderPlaced(ID, placed_at="soon"), "OrderPlaced.placed_at: Invalid RFC3339 encoded datetime"),  # type: ignore[arg-type]
        (OrderPlaced(ID, lines={"a": [1]}), "OrderPlaced.lines[...][0]: Expected `object`, got `int`"),  # type: ignore[list-item]
        (OrderPlaced(ID, note=object()), "OrderPlaced.note: object cannot be written as JSON"),  # type: ignore[arg-type]
        (OrderPlaced(ID, lines={"a": [object()]}), "OrderPlaced.lines['a'][0]: object cannot be written"),  # type: ignore[list-item]
    ],
)
def test_a_value_of_another_type_than_declared(event: OrderPlaced, what: str) -> None:
    assert refusal(event).startswith(f"order.placed v2 is not published: {what}")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_half_of_a_surrogate_pair(make: Maker) -> None:
    orders = Contract("orders")
    event_class: Any = orders.event("said")(make("Said", fine=str, words=list[str]))
    event = (getattr(event_class, "model_construct", event_class))(fine="ok", words=["ok", "\ud800"])

    with pytest.raises(InvalidEvent) as caught:
        orders.type_of(event_class).encode(event)
    assert str(caught.value) == ("said v1 is not published: Said.words[1]: text is not valid UTF-8, or holds half of a surrogate pair")


def test_half_of_a_surrogate_pair_in_a_key_of_a_dict() -> None:
    assert refusal(OrderPlaced(ID, lines={"\ud800": []})).startswith(
        "order.placed v2 is not published: OrderPlaced.lines['\\ud800']: text is not valid UTF-8"
    )


@pytest.mark.parametrize("make", MSGSPEC_KINDS.values(), ids=MSGSPEC_KINDS)
def test_a_constraint_of_the_class(make: Maker) -> None:
    orders = Contract("orders")
    event_class: Any = orders.event("counted")(make("Counted", count=Annotated[int, msgspec.Meta(ge=0)]))

    with pytest.raises(InvalidEvent, match=r"Counted\.count: Expected `int` >= 0"):
        orders.type_of(event_class).encode(event_class(count=-1))


def test_a_validator_of_the_class_runs() -> None:
    orders = Contract("orders")
    armed = False

    @orders.event("counted")
    @dataclass(frozen=True)
    class Counted:
        count: int

        def __post_init__(self) -> None:
            if armed and self.count < 0:
                raise LookupError("no such count")

    event = Counted(-1)
    armed = True
    with pytest.raises(InvalidEvent, match=r"counted v1 is not published: Counted: no such count"):
        orders.type_of(Counted).encode(event)


def test_a_model_that_was_constructed_without_validation() -> None:
    orders = Contract("orders")

    @orders.event("user.created")
    class UserCreated(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        id: UUID
        age: int

    with pytest.raises(InvalidEvent) as caught:
        orders.type_of(UserCreated).encode(UserCreated.model_construct(id=ID, age="secret value"))
    assert str(caught.value) == (
        "user.created v1 is not published: UserCreated.age: Input should be a valid integer, unable to parse string as an integer"
    )


def test_a_model_inside_another_class() -> None:
    orders = Contract("orders")

    class Address(pydantic.BaseModel):
        zip_code: str

    @orders.event("user.moved")
    @dataclass(frozen=True)
    class UserMoved:
        to: list[Address]

    with pytest.raises(InvalidEvent, match=r"UserMoved\.to\[0\]\.zip_code: Input should be a valid string"):
        orders.type_of(UserMoved).encode(UserMoved([Address.model_construct(zip_code=5)]))


@pytest.mark.parametrize("integer", [2**63, -(2**63) - 1, 2**64, 10**40])
def test_integers_beyond_64_bits_are_fine_because_they_come_back(integer: int) -> None:
    event = OrderPlaced(ID, total=integer)
    assert contract.type_of(OrderPlaced).decode(encode(event)) == event


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_an_integer_that_no_decoder_takes(make: Maker) -> None:
    orders = Contract("orders")
    event_class: Any = orders.event("counted")(make("Counted", count=int))

    with pytest.raises(InvalidEvent, match="counted v1 is not published: Counted"):
        orders.type_of(event_class).encode(event_class(count=10**5000))


def nested(levels: int) -> Node:
    node = Node()
    for _ in range(levels - 1):
        node = Node([node])
    return node


def test_nesting_that_every_reader_stands() -> None:
    assert contract.type_of(Node).decode(encode(nested(50))) == nested(50)


@pytest.mark.parametrize("levels", [51, 300, 5000])
def test_nesting_that_some_reader_cannot_stand(levels: int) -> None:
    assert refusal(nested(levels)).startswith("node.added v1 is not published: Node")
    assert "nested deeper than 100 levels" in refusal(nested(levels))


def test_brackets_in_text_are_no_nesting() -> None:
    orders = Contract("orders")

    @orders.event("tree.grown")
    class Tree(msgspec.Struct, frozen=True):
        name: str
        children: list[Tree] = []

    orders.check()
    event = Tree('[{"' * 300 + "\\")
    assert orders.type_of(Tree).decode(orders.type_of(Tree).encode(event)) == event


def test_an_event_that_contains_itself() -> None:
    children: list[Node] = []
    node = Node(children)
    children.append(node)

    assert refusal(node) == ("node.added v1 is not published: Node: it is nested deeper than 100 levels, or contains itself")


@pytest.mark.parametrize("thing", [Node(), "text", None, 5, {"order_id": str(ID)}])
def test_an_instance_of_another_class(thing: Any) -> None:
    with pytest.raises(InvalidEvent) as caught:
        contract["order.placed"].encode(thing)
    assert str(caught.value) == (
        f"order.placed v2 is published as OrderPlaced, not as {type(thing).__name__}. Construct OrderPlaced itself"
    )


def test_an_instance_of_a_subclass_because_its_own_fields_would_be_lost() -> None:
    class Special(OrderPlaced):
        pass

    with pytest.raises(InvalidEvent, match="not as Special"):
        contract["order.placed"].encode(Special(ID))


def test_the_error_is_a_value_error_and_a_publish_error() -> None:
    assert issubclass(InvalidEvent, ValueError)
    assert issubclass(InvalidEvent, PublishError)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.uuids() | st.decimals(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text() | st.integers(), parts, max_size=3),
    max_leaves=5,
)


@given(values=st.fixed_dictionaries(dict.fromkeys(("order_id", "total", "rate", "discount", "note", "placed_at", "lines"), JUNK)))
def test_whatever_the_fields_hold_an_event_is_refused_or_comes_back(values: dict[str, Any]) -> None:
    event_type: EventType[OrderPlaced] = contract.type_of(OrderPlaced)
    try:
        data = event_type.encode(OrderPlaced(**values))
    except InvalidEvent:
        return
    json.loads(data, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    event_type.decode(data)
