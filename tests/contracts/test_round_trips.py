"""What is published comes back as it was, for every type of field and every kind of class."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict  # pydantic asks for this one on Python 3.11

from tests.contracts.shapes import KINDS, MSGSPEC_KINDS, PYDANTIC_KINDS, Maker
from tidings.contracts import Contract, EventType

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: float


@dataclass
class MutableLine:
    points: list[Point]


@attrs.frozen
class Tag:
    name: str


class Address(msgspec.Struct, frozen=True):
    street: str
    zip_code: str | None = None


class Card(msgspec.Struct, frozen=True, tag="card"):
    number: str


class Cash(msgspec.Struct, frozen=True, tag="cash"):
    amount: int


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    id: UUID
    born: date
    balance: Decimal = Decimal(0)


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str]


class Row(TypedDict):
    id: int
    note: NotRequired[str]


class Pair(NamedTuple):
    left: int
    right: str


class Node(msgspec.Struct, frozen=True):
    value: int
    children: list[Node] = []


class Page(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]
    total: int


OrderId = NewType("OrderId", int)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
ZONES = st.one_of(st.none(), st.just(UTC), st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))))
POINTS = st.builds(Point, st.integers(), FLOATS)

EVERYWHERE: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "bool": (bool, st.booleans()),
    "int": (int, st.integers()),
    "float": (float, FLOATS),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary()),
    "Decimal": (Decimal, DECIMALS),
    "UUID": (UUID, st.uuids()),
    "datetime": (datetime, st.datetimes(timezones=ZONES)),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))),
    "enum of str": (Colour, st.sampled_from(Colour)),
    "enum of int": (Size, st.sampled_from(Size)),
    "literal": (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    "newtype": (OrderId, st.integers()),
    "optional": (int | None, st.none() | st.integers()),
    "optional float": (float | None, st.none() | FLOATS),
    "union": (int | str | None, st.none() | st.integers() | TEXT),
    "list": (list[UUID], st.lists(st.uuids(), max_size=3)),
    "tuple": (tuple[int, str], st.tuples(st.integers(), TEXT)),
    "tuple of any length": (tuple[int, ...], st.lists(st.integers(), max_size=3).map(tuple)),
    "set": (set[int], st.sets(st.integers(), max_size=3)),
    "frozenset": (frozenset[str], st.frozensets(TEXT, max_size=3)),
    "sequence": (Sequence[int], st.lists(st.integers(), max_size=3)),
    "dict": (dict[str, float], st.dictionaries(TEXT, FLOATS, max_size=3)),
    "mapping": (Mapping[str, int], st.dictionaries(TEXT, st.integers(), max_size=3)),
    "dict by int": (dict[int, bool], st.dictionaries(st.integers(), st.booleans(), max_size=3)),
    "dict by UUID": (dict[UUID, int], st.dictionaries(st.uuids(), st.integers(), max_size=3)),
    "dict by enum": (dict[Colour, int], st.dictionaries(st.sampled_from(Colour), st.integers(), max_size=3)),
    "dataclass": (Point, POINTS),
    "mutable dataclass": (MutableLine, st.builds(MutableLine, st.lists(POINTS, max_size=2))),
    "list of dataclasses": (list[Point], st.lists(POINTS, max_size=2)),
    "typed dict": (
        Row,
        st.fixed_dictionaries({"id": st.integers()}) | st.fixed_dictionaries({"id": st.integers(), "note": TEXT}),
    ),
    "named tuple": (Pair, st.builds(Pair, st.integers(), TEXT)),
    "pydantic model": (Person, st.builds(Person, id=st.uuids(), born=st.dates(), balance=st.decimals(0, 100))),
    "optional pydantic model": (Person | None, st.none() | st.builds(Person, id=st.uuids(), born=st.dates())),
    "dict of pydantic models": (
        dict[str, Person],
        st.dictionaries(TEXT, st.builds(Person, id=st.uuids(), born=st.dates()), max_size=2),
    ),
}
BY_MSGSPEC: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "flag": (Access, st.sampled_from([Access.READ, Access.WRITE, Access.READ | Access.WRITE])),
    "bytearray": (bytearray, st.binary().map(bytearray)),
    "constrained": (Annotated[int, msgspec.Meta(ge=0)], st.integers(0)),
    "struct": (Address, st.builds(Address, TEXT, st.none() | TEXT)),
    "attrs": (Tag, st.builds(Tag, TEXT)),
    "tagged union": (Card | Cash, st.builds(Card, TEXT) | st.builds(Cash, st.integers())),
    "recursive": (Node, st.recursive(st.builds(Node, st.integers()), lambda nodes: st.builds(Node, st.integers(), st.lists(nodes)))),
    "generic": (Page[Point], st.builds(Page[Point], st.lists(POINTS, max_size=2), st.integers())),
}
BY_PYDANTIC: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "constrained": (Annotated[int, pydantic.Field(ge=0)], st.integers(0)),
    "a type of pydantic's": (pydantic.IPvAnyAddress, st.ip_addresses()),
    "discriminated union": (
        Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
        st.builds(Cat, lives=st.integers()) | st.builds(Dog, tricks=st.lists(TEXT)),
    ),
}


def _cases() -> list[Any]:
    rows = [
        *((maker, kind, case, *EVERYWHERE[case]) for kind, maker in KINDS.items() for case in EVERYWHERE),
        *((maker, kind, case, *BY_MSGSPEC[case]) for kind, maker in MSGSPEC_KINDS.items() for case in BY_MSGSPEC),
        *((maker, kind, case, *BY_PYDANTIC[case]) for kind, maker in PYDANTIC_KINDS.items() for case in BY_PYDANTIC),
    ]
    return [pytest.param(maker, hint, values, id=f"{kind}-{case}") for maker, kind, case, hint, values in rows]


@pytest.mark.parametrize(("make", "hint", "values"), _cases())
def test_every_field_type_survives_the_journey(make: Maker, hint: Any, values: st.SearchStrategy[Any]) -> None:
    contract = Contract("journeys")
    event_class = contract.event("thing.happened")(make("ThingHappened", value=hint))
    event_type: EventType[Any] = contract.type_of(event_class)

    @settings(max_examples=40)
    @given(value=values)
    def travel(value: Any) -> None:
        event = event_class(value=value)
        data = event_type.encode(event)
        assert isinstance(data, str)
        assert list(json.loads(data)) == ["value"]
        assert event_type.decode(data) == event
        assert event_type.decode(data.encode()) == event

    travel()


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_fields_that_a_newer_publisher_added_are_ignored(make: Maker) -> None:
    contract = Contract("journeys")
    event_class = contract.event("thing.happened")(make("ThingHappened", value=int))

    assert contract.type_of(event_class).decode('{"value": 1, "added": {"later": [1, 2]}}') == event_class(value=1)


def test_fields_that_an_older_publisher_lacked_take_their_defaults() -> None:
    contract = Contract("journeys")

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: int
        currency: str = "EUR"
        lines: list[int] = field(default_factory=list)

    assert contract.type_of(OrderPlaced).decode('{"order_id": 1}') == OrderPlaced(1)


def test_a_pydantic_model_is_written_under_its_aliases() -> None:
    contract = Contract("journeys")

    @contract.event("order.placed", key="order_id")
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

        order_id: int
        placed_by: Person

    event = OrderPlaced(order_id=7, placed_by=Person(id=UUID(int=1), born=date(2000, 1, 1)))
    event_type = contract.type_of(OrderPlaced)

    assert set(json.loads(event_type.encode(event))) == {"orderId", "placedBy"}
    assert event_type.decode(event_type.encode(event)) == event
    assert event_type.key_of(event) == "7"


def test_a_pydantic_model_inside_a_struct_keeps_its_aliases_and_validators() -> None:
    class Money(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, strict=True)

        minor: int = pydantic.Field(alias="minorUnits", ge=0)
        on: date

    contract = Contract("journeys")

    @contract.event("invoice.paid")
    class InvoicePaid(msgspec.Struct, frozen=True):
        paid: Money

    event_type = contract.type_of(InvoicePaid)
    event = InvoicePaid(Money(minorUnits=5, on=date(2026, 1, 2)))

    assert event_type.encode(event) == '{"paid":{"minorUnits":5,"on":"2026-01-02"}}'
    assert event_type.decode(event_type.encode(event)) == event
