"""One way to make an event class of every kind, so that a rule can be tested on all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import attrs
import msgspec
import pydantic
import pydantic.dataclasses

BASE64 = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


def make_dataclass(name: str, /, **fields: Any) -> type:
    return dataclasses.make_dataclass(name, list(fields.items()), frozen=True, namespace={"__module__": __name__})


def make_slotted_dataclass(name: str, /, **fields: Any) -> type:
    return dataclasses.make_dataclass(name, list(fields.items()), frozen=True, slots=True, namespace={"__module__": __name__})


def make_struct(name: str, /, **fields: Any) -> type:
    return msgspec.defstruct(name, list(fields.items()), frozen=True, module=__name__)


def make_attrs(name: str, /, **fields: Any) -> type:
    return attrs.frozen(type(name, (), {"__annotations__": fields, "__module__": __name__}))


def make_model(name: str, /, **fields: Any) -> type:
    definitions: dict[str, Any] = {field: (hint, ...) for field, hint in fields.items()}
    return pydantic.create_model(name, __config__={**BASE64, "frozen": True}, __module__=__name__, **definitions)


def make_pydantic_dataclass(name: str, /, **fields: Any) -> type:
    plain = type(name, (), {"__annotations__": fields, "__module__": __name__})
    return pydantic.dataclasses.dataclass(plain, config=BASE64, frozen=True)


Maker = Callable[..., type]

MSGSPEC_KINDS: dict[str, Maker] = {
    "dataclass": make_dataclass,
    "slotted-dataclass": make_slotted_dataclass,
    "struct": make_struct,
    "attrs": make_attrs,
}
PYDANTIC_KINDS: dict[str, Maker] = {"pydantic": make_model, "pydantic-dataclass": make_pydantic_dataclass}
KINDS = MSGSPEC_KINDS | PYDANTIC_KINDS
