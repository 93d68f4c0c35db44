"""Annotations may name what is defined further down, or in the function around the class; what is never defined is named in the error."""

from __future__ import annotations

import enum
import gc
import weakref
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from tests.contracts import late
from tidings.codecs import Unresolved
from tidings.contracts import Contract, PartitionKey
from tidings.errors import ContractError


@pytest.mark.parametrize("name", ["dataclass", "struct", "attrs", "pydantic", "pydantic-dataclass"])
def test_a_class_that_is_defined_further_down_in_the_module(name: str) -> None:
    event_type = late.late[name]
    inner = event_type.cls(order_id=1, line=late.Line(2))
    event = event_type.cls(order_id=7, line=late.Line(3), parent=inner)

    assert event_type.keyed
    assert event_type.key_of(event) == "7"
    assert event_type.decode(event_type.encode(event)) == event


def test_the_contract_checks_what_could_not_be_checked_at_the_declaration() -> None:
    late.late.check()

    with pytest.raises(ContractError, match=r"LateObject\.odd\.thing: object can be anything"):
        late.wrong.check()


@pytest.mark.parametrize("name", ["dataclass", "struct", "attrs", "pydantic"])
def test_a_name_that_is_imported_for_type_checkers_only(name: str) -> None:
    event_type = late.never[name]
    message = (
        f"{event_type.cls.__name__}.total: its type cannot be resolved: name 'Decimal' is not defined. Import it at run time, not under "
        "`if TYPE_CHECKING:`, and define it at module level or above the class"
    )

    for use in (event_type.check, lambda: event_type.decode("{}"), lambda: event_type.encode(None), lambda: event_type.keyed):
        with pytest.raises(Unresolved) as caught:
            use()
        assert str(caught.value) == message
    with pytest.raises(ContractError, match="its type cannot be resolved: name 'Decimal' is not defined"):
        late.never.check()


def test_classes_that_are_defined_in_the_same_function() -> None:
    contract = Contract("local")

    class Colour(enum.Enum):
        RED = "red"

    class Corner(NamedTuple):
        x: int
        colour: Colour

    class Row(TypedDict):
        corners: list[Corner]

    @attrs.frozen
    class Part:
        rows: tuple[Row, ...]

    class Model(pydantic.BaseModel):
        colour: Colour

    class Item(msgspec.Struct, frozen=True):
        part: Part
        model: Model

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        order_id: Annotated[int, PartitionKey()]
        items: dict[Colour, list[Item]]
        parent: OrderPlaced | None = None

    contract.check()
    event_type = contract.type_of(OrderPlaced)
    item = Item(Part(({"corners": [Corner(1, Colour.RED)]},)), Model(colour=Colour.RED))
    event = OrderPlaced(2, {Colour.RED: [item]}, OrderPlaced(1, {}))

    assert event_type.key_of(event) == "2"
    assert event_type.decode(event_type.encode(event)) == event


@pytest.mark.parametrize("kind", ["struct", "attrs", "pydantic"])
def test_a_class_of_every_kind_that_is_defined_in_the_same_function(kind: str) -> None:
    contract = Contract("local")

    @dataclass(frozen=True)
    class Line:
        quantity: int

    if kind == "struct":

        @contract.event("order.placed")
        class Struct(msgspec.Struct, frozen=True):
            line: Line

    elif kind == "attrs":

        @contract.event("order.placed")
        @attrs.frozen
        class Attrs:
            line: Line

    else:

        @contract.event("order.placed")
        class Model(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(frozen=True)
            line: Line

    event_type = contract["order.placed"]
    event: Any = event_type.cls(line=Line(5))
    assert event_type.decode(event_type.encode(event)) == event


def test_a_class_that_is_defined_further_down_in_a_function_cannot_be_found() -> None:
    contract = Contract("local")

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        line: Line

    @dataclass(frozen=True)
    class Line:
        quantity: int

    with pytest.raises(ContractError, match=r"OrderPlaced\.line: its type cannot be resolved: name 'Line' is not defined"):
        contract.check()


def test_a_class_variable_whose_type_is_imported_for_type_checkers_only() -> None:
    with pytest.raises(Unresolved, match=r"NeverVariable: name 'Decimal' is not defined\. Import it at run time"):
        late.never_variable.check()


def test_a_contract_does_not_keep_what_the_function_around_the_class_knew() -> None:
    class Large:
        pass

    def declare() -> tuple[Contract, weakref.ref[Large]]:
        large = Large()
        contract = Contract("local")

        @contract.event("order.placed")
        @dataclass(frozen=True)
        class OrderPlaced:
            order_id: int

        return contract, weakref.ref(large)

    contract, large = declare()
    gc.collect()
    assert large() is None
    assert len(contract) == 1


def test_an_annotation_that_is_no_type() -> None:
    contract = Contract("local")

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        line: "1 +"  # noqa: F722

    with pytest.raises(ContractError, match=r"OrderPlaced\.line: its type cannot be resolved"):
        contract.check()


@dataclass(frozen=True)
class Shadowed:
    outer: int


def test_a_local_name_wins_over_one_of_the_module() -> None:
    contract = Contract("local")

    @dataclass(frozen=True)
    class Shadowed:
        inner: str

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        part: Shadowed

    event = OrderPlaced(Shadowed("x"))
    assert contract.type_of(OrderPlaced).decode(contract.type_of(OrderPlaced).encode(event)) == event


def test_a_class_that_another_function_made_keeps_the_names_of_that_function() -> None:
    part = _make_part()
    contract = Contract("local")

    class Shadowed:
        """Not the one that `Part` means."""

    @contract.event("order.placed")
    @dataclass(frozen=True)
    class OrderPlaced:
        part: part  # type: ignore[valid-type]

    event = OrderPlaced(part(Shadowed_(1)))
    assert contract.type_of(OrderPlaced).decode(contract.type_of(OrderPlaced).encode(event)) == event
    assert Shadowed


def _make_part() -> Any:
    @dataclass(frozen=True)
    class Part:
        inner: Shadowed

    return Part


Shadowed_ = Shadowed
