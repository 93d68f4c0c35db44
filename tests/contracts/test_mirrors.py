"""A mirror of a dataclass takes exactly the JSON text that the dataclass takes, and there is none where that cannot be known."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from tidings.codecs import payload_codec
from tidings.codecs.mirrors import mirror_of
from tidings.errors import InvalidEvent

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int


class Address(TypedDict):
    street: str


@attrs.frozen
class Weight:
    grams: int = attrs.field(validator=attrs.validators.ge(0))


class Height(msgspec.Struct, frozen=True):
    metres: float


class Tall(BaseModel):
    model_config = ConfigDict(frozen=True)
    metres: float


@dataclass(frozen=True)
class Line:
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1)] = 1


@dataclass(frozen=True, slots=True)
class Base:
    id: uuid.UUID


@dataclass(frozen=True)
class Everything(Base):
    lines: tuple[Line, ...]
    first: Line | None
    by_name: dict[str, Line]
    pairs: Mapping[int, list[Annotated[Line, "a line"]]]
    colour: Colour
    kind: Literal["a", "b"]
    price: decimal.Decimal
    at: datetime.datetime
    point: Point
    address: Address
    height: Height
    tall: Tall
    two: tuple[int, Line]
    note: str = ""
    tags: frozenset[str] = field(default_factory=frozenset)


GOOD: dict[str, Any] = {
    "id": "0190f5d2-7a3b-7c4d-8e5f-0123456789ab",
    "lines": [{"sku": "a", "quantity": 2}, {"sku": "b"}],
    "first": None,
    "by_name": {"x": {"sku": "a"}},
    "pairs": {"1": [{"sku": "a"}]},
    "colour": "red",
    "kind": "a",
    "price": "1.20",
    "at": "2026-01-01T00:00:00Z",
    "point": [1, 2],
    "address": {"street": "x"},
    "height": {"metres": 1.5},
    "tall": {"metres": 1.5},
    "two": [1, {"sku": "a"}],
    "note": "n",
    "tags": ["t"],
}

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, width=16)
    | st.sampled_from(["", "a", "red", "1", GOOD["id"]]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["sku", "quantity", "x", "1", "metres"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def takes(cls: type, text: bytes) -> bool:
    codec = msgspec.json.Decoder(cls, dec_hook=lambda kind, value: kind.model_validate(value))
    try:
        codec.decode(text)
    except (msgspec.ValidationError, ValueError):
        return False
    return True


@given(st.sampled_from(sorted(GOOD)), values | st.just("left out"))
@example("note", "left out")
@example("lines", [{"sku": "a", "quantity": 0}])
@example("first", {"sku": "a"})
@example("two", [1, {"sku": 1}])
def test_a_mirror_takes_what_the_class_takes(name: str, value: object) -> None:
    mirror = mirror_of(Everything, None)
    assert mirror is not None
    data = {**GOOD, name: value}
    if value == "left out":
        del data[name]
    text = msgspec.json.encode(data)
    assert takes(mirror, text) == takes(Everything, text)


def test_what_is_good_is_good() -> None:
    mirror = mirror_of(Everything, None)
    assert mirror is not None
    assert takes(mirror, msgspec.json.encode(GOOD))


@dataclass(frozen=True)
class Checked:
    quantity: int

    def __post_init__(self) -> None:
        if self.quantity < 1:
            raise ValueError("at least one")


@dataclass(frozen=True)
class HoldsChecked:
    lines: tuple[Checked, ...]


@dataclass(frozen=True)
class Tree:
    children: tuple[Tree, ...]


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T


@dataclass(frozen=True)
class HoldsBox:
    box: Box[int]


@dataclass(frozen=True)
class Computed:
    quantity: int
    twice: int = field(init=False, default=0)


class Plain(msgspec.Struct, frozen=True):
    quantity: int


@pytest.mark.parametrize("cls", [Checked, HoldsChecked, Tree, Box, HoldsBox, Computed, Plain, Weight])
def test_a_class_that_is_only_known_by_making_an_instance_has_none(cls: type) -> None:
    assert mirror_of(cls, None) is None


def test_attrs_classes_and_structs_stand_for_themselves_in_a_mirror() -> None:
    @dataclass(frozen=True)
    class Parcel:
        weight: Weight
        height: Height

    mirror = mirror_of(Parcel, None)
    assert mirror is not None
    assert takes(mirror, b'{"weight": {"grams": 1}, "height": {"metres": 1}}')
    assert not takes(mirror, b'{"weight": {"grams": -1}, "height": {"metres": 1}}')


def test_an_error_names_the_class_and_the_field_as_before() -> None:
    event = Base("no id")  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match=r"base is not published: Base\.id"):
        payload_codec(Base, "base").encode(event)
