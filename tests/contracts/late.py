"""Events whose annotations name what comes later in the module, or never at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import attrs
import msgspec
import pydantic

from tidings.contracts import Contract, PartitionKey

if TYPE_CHECKING:
    from decimal import Decimal

late = Contract("late")
never = Contract("never")
never_variable = Contract("never-variable")
wrong = Contract("wrong")


@late.event("dataclass")
@dataclass(frozen=True)
class LateDataclass:
    order_id: Annotated[OrderId, PartitionKey()]
    line: Line
    parent: LateDataclass | None = None


@late.event("struct")
class LateStruct(msgspec.Struct, frozen=True):
    order_id: Annotated[OrderId, PartitionKey()]
    line: Line
    parent: LateStruct | None = None


@late.event("attrs")
@attrs.frozen
class LateAttrs:
    order_id: Annotated[OrderId, PartitionKey()]
    line: Line
    parent: LateAttrs | None = None


@late.event("pydantic")
class LateModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    order_id: Annotated[OrderId, PartitionKey()]
    line: Line
    parent: LateModel | None = None


@late.event("pydantic-dataclass")
@pydantic.dataclasses.dataclass(frozen=True)
class LateValidated:
    order_id: Annotated[OrderId, PartitionKey()]
    line: Line
    parent: LateValidated | None = None


@never.event("dataclass")
@dataclass(frozen=True)
class NeverDataclass:
    order_id: int
    total: Decimal | None = None


@never.event("struct")
class NeverStruct(msgspec.Struct, frozen=True):
    order_id: int
    total: Decimal | None = None


@never.event("attrs")
@attrs.frozen
class NeverAttrs:
    order_id: int
    total: Decimal | None = None


@never.event("pydantic")
class NeverModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    order_id: int
    total: Decimal | None = None


@never_variable.event("variable")
@dataclass(frozen=True)
class NeverVariable:
    rate: ClassVar[Decimal]
    order_id: int


@wrong.event("late.any")
@dataclass(frozen=True)
class LateObject:
    odd: Odd


@dataclass(frozen=True)
class Line:
    quantity: int


@dataclass(frozen=True)
class Odd:
    thing: object


OrderId = int
