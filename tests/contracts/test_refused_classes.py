"""Every class that cannot be an event is refused where it is declared, with its name, the field's, and a way out."""

from __future__ import annotations

import collections
import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from tests.contracts.shapes import KINDS, MSGSPEC_KINDS, PYDANTIC_KINDS, Maker, make_dataclass
from tidings.contracts import Contract
from tidings.errors import ContractError

T = TypeVar("T")


@pytest.fixture
def contract() -> Contract:
    return Contract("orders")


def refusal(contract: Contract, cls: Any, **options: Any) -> str:
    with pytest.raises(ContractError) as caught:
        contract.event("order.placed", **options)(cls)
    assert list(contract) == []
    return str(caught.value)


class Custom:
    pass


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Fractions(enum.Enum):
    HALF = 0.5


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Left:
    x: int


@dataclass(frozen=True)
class Right:
    x: int


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    x: int


class Picky(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Loose(pydantic.BaseModel):
    x: int


@pydantic.dataclasses.dataclass(frozen=True)
class Validated:
    x: int


class Bare(NamedTuple):
    anything: Any


# --- the class itself


@pytest.mark.parametrize(
    ("cls", "way"),
    [
        (dataclass(type("OrderPlaced", (), {"__annotations__": {"x": int}})), "@dataclass(frozen=True)"),
        (msgspec.defstruct("OrderPlaced", [("x", int)]), "class ...(msgspec.Struct, frozen=True)"),
        (attrs.define(type("OrderPlaced", (), {"__annotations__": {"x": int}})), "@attrs.frozen"),
        (pydantic.create_model("OrderPlaced", x=(int, ...)), "ConfigDict(frozen=True)"),
        (pydantic.dataclasses.dataclass(type("OrderPlaced", (), {"__annotations__": {"x": int}})), "@dataclass(frozen=True)"),
    ],
    ids=["dataclass", "struct", "attrs", "pydantic", "pydantic-dataclass"],
)
def test_a_mutable_class(contract: Contract, cls: type, way: str) -> None:
    assert refusal(contract, cls) == f"OrderPlaced is mutable, and an event is a fact that nobody may change. Declare it with {way}"


@pytest.mark.parametrize("cls", [Custom, dict, int, type("Row", (dict,), {}), Bare, Colour], ids=lambda cls: cls.__name__)
def test_a_class_of_no_supported_kind(contract: Contract, cls: type) -> None:
    assert refusal(contract, cls) == (
        f"{cls.__name__} cannot be an event: it is not a frozen dataclass, msgspec.Struct, attrs class or pydantic model. "
        "Decorate it with @dataclass(frozen=True)"
    )


def test_something_that_is_no_class(contract: Contract) -> None:
    assert "is not a class. Decorate a frozen dataclass" in refusal(contract, lambda: None)


def test_the_decorator_without_parentheses(contract: Contract) -> None:
    with pytest.raises(ContractError, match=re.escape("Write the decorator with parentheses: @orders.event('order.placed')")):
        contract.event(Left)  # type: ignore[arg-type]


def test_a_class_that_is_written_as_an_array(contract: Contract) -> None:
    class OrderPlaced(msgspec.Struct, frozen=True, array_like=True):
        x: int

    assert "OrderPlaced would not be a JSON object, so no field could ever be added" in refusal(contract, OrderPlaced)


def test_a_root_model(contract: Contract) -> None:
    class OrderPlaced(pydantic.RootModel[list[int]]):
        model_config = pydantic.ConfigDict(frozen=True)

    assert "OrderPlaced would not be a JSON object" in refusal(contract, OrderPlaced)


def test_a_class_that_forbids_unknown_fields(contract: Contract) -> None:
    class OrderPlaced(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        x: int

    assert refusal(contract, OrderPlaced) == (
        "OrderPlaced forbids unknown fields. Services are upgraded one by one: a reader must ignore what a newer publisher has added. "
        "Remove forbid_unknown_fields"
    )


def test_a_model_that_forbids_extra_fields(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
        x: int

    assert refusal(contract, OrderPlaced) == (
        "OrderPlaced forbids extra fields. Services are upgraded one by one: a reader must ignore what a newer publisher has added. "
        'Remove extra="forbid"'
    )


def test_a_model_that_keeps_extra_fields(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, extra="allow")
        x: int

    assert refusal(contract, OrderPlaced) == (
        "OrderPlaced keeps extra fields, which can be anything, so they would not come back as they were. Declare the fields"
    )


# --- its fields


ANYTHING = "{hint} can be anything, so it would not come back as it was. Name the types: `int | str`, a class, a dict of these"
NOT_JSON = "{hint} cannot be written as JSON"
BAD_KEY = "{hint} cannot be the key of a JSON object. Use str, int, UUID or Enum keys, or a list of pairs"

EVERYWHERE: dict[str, tuple[Any, str]] = {
    "Any": (Any, ANYTHING),
    "object": (object, ANYTHING),
    "list of Any": (list[Any], ANYTHING.replace("{hint}", "Any")),
    "dict to Any": (dict[str, Any], ANYTHING.replace("{hint}", "Any")),
    "complex": (complex, NOT_JSON),
    "arbitrary class": (Custom, NOT_JSON.replace("{hint}", "Custom")),
    "optional arbitrary class": (Custom | None, NOT_JSON.replace("{hint}", "Custom")),
    "callable": (Callable[[int], str], NOT_JSON.replace("{hint}", "collections.abc.Callable[[int], str]")),
    "type variable": (T, "~T is an open type variable. Subclass the generic class with a concrete type"),
    "list of what": (list, "list does not say what it holds. Say it: list[int]"),
    "dict of what": (dict, "dict does not say what it holds. Say it: dict[str, int]"),
    "tuple of what": (tuple, "tuple does not say what it holds. Say it: tuple[int, ...]"),
    "dict by date": (dict[date, int], BAD_KEY.replace("{hint}", "date")),
    "dict by float": (dict[float, int], BAD_KEY.replace("{hint}", "float")),
    "dict by bool": (dict[bool, int], BAD_KEY.replace("{hint}", "bool")),
    "dict by tuple": (dict[tuple[int, int], int], BAD_KEY.replace("{hint}", "tuple[int, int]")),
    "mixed enum": (Mixed, "Mixed has members that are neither all str nor all int. Give every member a value of one of these types"),
    "enum of floats": (Fractions, "Fractions has members that are neither all str nor all int. "),
}
BY_MSGSPEC: dict[str, tuple[Any, str]] = {
    "raw": (msgspec.Raw, ANYTHING.replace("{hint}", "Raw")),
    "deque": (
        collections.deque[int],
        "collections.deque[int] cannot be written as JSON. Use list, tuple, set, dict or a class with fields",
    ),
    "iterable": (
        Iterable[int],
        "collections.abc.Iterable[int] cannot be written as JSON. Use list, tuple, set, dict or a class with fields",
    ),
    "two texts": (UUID | str, "Type unions may not contain more than one str-like type"),
    "two arrays": (list[int] | set[int], "Type unions may not contain more than one array-like (list, set, tuple) type"),
    "two dataclasses": (Left | Right, "Type unions may not contain more than one dataclass or attrs type"),
    "model or int": (Loose | int, "Type unions containing a custom type may not contain any additional types other than `None`"),
    "pydantic dataclass": (Validated, "Validated is a pydantic dataclass inside a class that pydantic does not read. Make it a BaseModel"),
}
BY_PYDANTIC: dict[str, tuple[Any, str]] = {
    "secret": (pydantic.SecretStr, "SecretStr is written as asterisks, and a secret does not belong into a public event. Leave it out"),
    "a class itself": (type[int], "type[int] can be anything, so it would not come back as it was"),
    "text or UUID": (
        UUID | str,
        "uuid.UUID | str has several types that are all strings in JSON, so a reader cannot tell them apart. Choose one of them",
    ),
    "text or enum": (Colour | datetime, "has several types that are all strings in JSON"),
    "money or bytes": (Decimal | bytes | None, "has several types that are all strings in JSON"),
}


def _cases() -> list[Any]:
    rows = [
        *((maker, kind, case, *EVERYWHERE[case]) for kind, maker in KINDS.items() for case in EVERYWHERE),
        *((maker, kind, case, *BY_MSGSPEC[case]) for kind, maker in MSGSPEC_KINDS.items() for case in BY_MSGSPEC),
        *((maker, kind, case, *BY_PYDANTIC[case]) for kind, maker in PYDANTIC_KINDS.items() for case in BY_PYDANTIC),
    ]
    return [
        pytest.param(maker, hint, message.replace("{hint}", getattr(hint, "__name__", str(hint))), id=f"{kind}-{case}")
        for maker, kind, case, hint, message in rows
        # pydantic itself refuses a class that it does not know, unless it is told not to; that case has a test of its own.
        if not (kind in PYDANTIC_KINDS and "arbitrary" in case)
    ]


@pytest.mark.parametrize(("make", "hint", "message"), _cases())
def test_a_field_that_json_cannot_carry(contract: Contract, make: Maker, hint: Any, message: str) -> None:
    text = refusal(contract, make("OrderPlaced", fine=int, odd=hint))

    assert text.startswith("OrderPlaced.odd: ")
    assert message in text


@pytest.mark.parametrize("make", MSGSPEC_KINDS.values(), ids=MSGSPEC_KINDS)
def test_a_field_far_down_is_named_with_the_way_to_it(contract: Contract, make: Maker) -> None:
    inner = make("Inner", odd=dict[str, list[complex]])
    outer = make("OrderPlaced", lines=list[make("Middle", inner=inner | None)])

    assert refusal(contract, outer).startswith("OrderPlaced.lines.inner.odd: complex cannot be written as JSON")


def test_a_field_far_down_in_models_is_named_with_the_way_to_it(contract: Contract) -> None:
    class Inner(pydantic.BaseModel):
        odd: dict[str, Any]

    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        inner: Inner

    assert refusal(contract, OrderPlaced).startswith("OrderPlaced.inner.odd: Any can be anything")


def test_an_arbitrary_class_that_pydantic_was_told_to_take(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, arbitrary_types_allowed=True)
        odd: Custom

    assert refusal(contract, OrderPlaced).startswith("OrderPlaced.odd: Custom cannot be written as JSON")


@pytest.mark.parametrize(("inner", "message"), [(Strict, "forbids extra fields"), (Picky, "forbids unknown fields")])
def test_a_part_that_forbids_unknown_fields(contract: Contract, inner: type, message: str) -> None:
    assert f"OrderPlaced.part {message}" in refusal(contract, make_dataclass("OrderPlaced", part=inner))


def test_a_union_of_untagged_structs(contract: Contract) -> None:
    class Card(msgspec.Struct):
        number: str

    class Cash(msgspec.Struct):
        amount: int

    text = refusal(contract, make_dataclass("OrderPlaced", order_id=int, paid_by=Card | Cash))
    assert text.startswith("OrderPlaced.paid_by: If a type union contains multiple Struct types, all Struct types must be tagged")


def test_an_ambiguous_union_inside_a_part_is_named_with_the_way_to_it(contract: Contract) -> None:
    class Line(msgspec.Struct):
        either: UUID | str

    text = refusal(contract, make_dataclass("OrderPlaced", line=Line))
    assert text.startswith("OrderPlaced.line.either: Type unions may not contain more than one str-like type")


def test_a_private_field(contract: Contract) -> None:
    @attrs.frozen
    class OrderPlaced:
        _secret: int

    assert refusal(contract, OrderPlaced) == (
        "OrderPlaced._secret: a private field would not be written reliably. Rename it without the underscore"
    )


def test_a_field_that_is_only_an_argument(contract: Contract) -> None:
    @dataclass(frozen=True)
    class OrderPlaced:
        seed: InitVar[int]
        value: int = field(default=0)

    assert "OrderPlaced: dataclasses with `InitVar` fields are not supported" in refusal(contract, OrderPlaced)


def test_an_open_generic_class(contract: Contract) -> None:
    class PageFound(msgspec.Struct, Generic[T], frozen=True):
        items: list[T]

    assert refusal(contract, PageFound) == ("PageFound.items: ~T is an open type variable. Subclass the generic class with a concrete type")


def test_a_closed_subclass_of_a_generic_class_is_fine(contract: Contract) -> None:
    class Page(msgspec.Struct, Generic[T], frozen=True):
        items: list[T]

    class Orders(Page[UUID], frozen=True):
        total: int

    contract.event("orders.found")(Orders)

    event = Orders([UUID(int=1)], 1)
    assert contract.type_of(Orders).decode(contract.type_of(Orders).encode(event)) == event


def test_a_field_that_pydantic_writes_under_a_name_that_it_does_not_read(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        total: int = pydantic.Field(0, serialization_alias="Total")

    assert refusal(contract, OrderPlaced) == (
        "OrderPlaced.total is written as 'Total' and read as 'total'. Use Field(alias='Total'), or give both aliases the same name"
    )


def test_a_model_that_writes_aliases_and_reads_names_only(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, validate_by_alias=False, validate_by_name=True)
        total: int = pydantic.Field(0, alias="Total")

    assert refusal(contract, OrderPlaced).startswith("OrderPlaced.total is written as 'Total' and read as 'total'")


@pytest.mark.parametrize(
    "made",
    [
        pydantic.Field(0, alias="Total"),
        pydantic.Field(0, validation_alias=pydantic.AliasChoices("amount", "Total"), serialization_alias="Total"),
        pydantic.Field(0, validation_alias=pydantic.AliasChoices(pydantic.AliasPath("Total"), "amount"), serialization_alias="Total"),
    ],
)
def test_a_field_that_pydantic_reads_under_several_names_is_fine(contract: Contract, made: Any) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True)
        total: int = made

    contract.event("order.placed")(OrderPlaced)
    event = OrderPlaced.model_validate({"Total": 5})
    assert contract.type_of(OrderPlaced).decode(contract.type_of(OrderPlaced).encode(event)) == event


def test_bytes_that_pydantic_writes_otherwise_than_it_reads_them(contract: Contract) -> None:
    class OrderPlaced(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(frozen=True, ser_json_bytes="base64")
        token: bytes

    assert "OrderPlaced writes bytes as base64 and reads them as utf8. Set ser_json_bytes and val_json_bytes" in refusal(
        contract, OrderPlaced
    )


def test_what_only_looks_odd_is_fine(contract: Contract) -> None:
    @dataclass(frozen=True)
    class OrderPlaced:
        kind: Annotated[Literal["a", "b"], "a note"]
        lasts: timedelta | None
        either: Left | None
        by_colour: dict[Colour, Left]

    contract.event("order.placed")(OrderPlaced)
