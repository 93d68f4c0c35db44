"""What can be an event: a walk over the types of a class's fields, down to the last one, before the first event is published.

Everything that JSON cannot carry there and back is refused here, with the path of the field and a way out.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import types
import typing
import uuid
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from tidings.codecs import pydantic_rules
from tidings.codecs.shapes import Scope, field_hints, is_frozen, kind_of, name_of, unwrapped
from tidings.errors import ContractError

__all__ = ["Findings", "examine"]

_SCALARS = frozenset({bool, int, str, bytes, bytearray, uuid.UUID, datetime.datetime, datetime.date, datetime.time, datetime.timedelta})
_NUMBERS = frozenset({float, decimal.Decimal})
_KEYS = frozenset({str, int, uuid.UUID})
_ARRAYS = frozenset(
    {
        list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection,
        collections.abc.Set, collections.abc.MutableSet,
    }
)  # fmt: skip
_OBJECTS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})
# Written as JSON strings, so a reader cannot tell two of them apart. `Literal` is not among them: it reads back as the string that it is.
_TEXTS = frozenset({str, bytes, bytearray, uuid.UUID, decimal.Decimal, datetime.datetime, datetime.date, datetime.time, datetime.timedelta})


class Findings(NamedTuple):
    """What a codec must know about a class.

    Attributes:
        numbers: names of the fields in which a NaN or an infinity could hide.
        recursive: whether instances can contain one another, to any depth.
    """

    numbers: tuple[str, ...]
    recursive: bool


def examine(cls: type, scope: Scope | None) -> Findings:
    """Check that a class can be an event and return what its codec must know.

    Args:
        cls: a frozen dataclass, msgspec Struct, attrs class or pydantic model.
        scope: of the function that defines the class, if one does.

    Raises:
        ContractError: it is none of these, is mutable, or a field holds what JSON cannot carry there and back.
        Unresolved: a type that a field names cannot be found yet.
    """
    kind = kind_of(cls)
    if kind not in ("dataclass", "Struct", "attrs", "pydantic"):
        raise ContractError(
            f"{name_of(cls)} cannot be an event: it is not a frozen dataclass, msgspec.Struct, attrs class or pydantic model. "
            "Decorate it with @dataclass(frozen=True)"
        )
    if not is_frozen(cls, kind):
        ways = {"Struct": "class ...(msgspec.Struct, frozen=True)", "attrs": "@attrs.frozen", "pydantic": "ConfigDict(frozen=True)"}
        way = "@dataclass(frozen=True)" if is_dataclass(cls) else ways[kind]
        raise ContractError(f"{name_of(cls)} is mutable, and an event is a fact that nobody may change. Declare it with {way}")
    if (kind == "Struct" and cls.__struct_config__.array_like) or getattr(cls, "__pydantic_root_model__", False):  # type: ignore[attr-defined]
        raise ContractError(
            f"{name_of(cls)} would not be a JSON object, so no field could ever be added. Declare it without array_like or RootModel"
        )
    walk = _Walk(scope)
    numbers = tuple(name for name, holds in walk.fields(cls, name_of(cls), modelled=kind == "pydantic") if holds)
    return Findings(numbers, walk.recursive)


class _Walk:
    """One walk over the types that a class reaches. `modelled` says that pydantic, not msgspec, will read the value."""

    def __init__(self, scope: Scope | None) -> None:
        self.scope = scope
        self.recursive = False
        self._known: dict[tuple[Any, bool], bool] = {}
        self._open: set[tuple[Any, bool]] = set()

    def fields(self, target: Any, path: str, *, modelled: bool) -> list[tuple[str, bool]]:
        """Check every field of a class; say for each whether it may hold a number that is not finite."""
        self._open.add((target, modelled))
        cls: Any = get_origin(target) or target
        kind = kind_of(cls)
        if kind == "Struct" and cls.__struct_config__.forbid_unknown_fields:
            raise ContractError(
                f"{path} forbids unknown fields. Services are upgraded one by one: a reader must ignore what a newer publisher has added. "
                "Remove forbid_unknown_fields"
            )
        if kind == "pydantic":
            pydantic_rules.check_model(cls, path)
        found = []
        for name, hint in field_hints(target, self.scope).items():
            if name.startswith("_") and kind in ("dataclass", "attrs"):
                raise ContractError(f"{path}.{name}: a private field would not be written reliably. Rename it without the underscore")
            found.append((name, self.visit(hint, f"{path}.{name}", modelled=modelled)))
        self._open.discard((target, modelled))
        self._known[target, modelled] = any(holds for _, holds in found)
        return found

    def visit(self, hint: Any, path: str, *, modelled: bool) -> bool:
        """Check one type; say whether it may hold a number that is not finite."""
        hint = unwrapped(hint)
        origin = get_origin(hint)
        arguments = get_args(hint)
        if hint is None or hint is type(None) or hint in _SCALARS or hint is msgspec.UnsetType or origin is Literal:
            return False
        if hint in _NUMBERS:
            return True
        if origin is typing.Union or origin is types.UnionType:
            if modelled:
                self._check_modelled_union(arguments, hint, path)
            return self._visit_all(arguments, path, modelled=modelled)
        if hint is tuple or hint in _ARRAYS or hint in _OBJECTS:
            raise _refusal(path, hint, "does not say what it holds", f"Say it: {_example(hint)}")
        if origin in _ARRAYS:
            return self._visit_all([argument for argument in arguments if argument not in (..., ())], path, modelled=modelled)
        if origin in _OBJECTS:
            self._check_key(arguments[0], path)
            return self.visit(arguments[1], path, modelled=modelled)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self._visit_enum(hint, path)
        if kind_of(origin or hint) is not None:
            return self._visit_class(hint, path, modelled=modelled)
        return self._visit_other(hint, path, modelled=modelled)

    def _visit_all(self, hints: Iterable[Any], path: str, *, modelled: bool) -> bool:
        found = [self.visit(hint, path, modelled=modelled) for hint in hints]  # all of them, for what they refuse
        return any(found)

    def _visit_class(self, hint: Any, path: str, *, modelled: bool) -> bool:
        kind = kind_of(get_origin(hint) or hint)
        if kind == "pydantic" and not modelled:
            if not hasattr(hint, "model_fields"):
                raise _refusal(path, hint, "is a pydantic dataclass inside a class that pydantic does not read", "Make it a BaseModel")
            modelled = True
        if (hint, modelled) in self._open:
            self.recursive = True
            # Not all of its fields are known yet, so assume the worst.
            return True
        if (hint, modelled) in self._known:
            return self._known[hint, modelled]
        self.fields(hint, path, modelled=modelled)
        return self._known[hint, modelled]

    def _visit_enum(self, hint: type[enum.Enum], path: str) -> bool:
        kinds = {type(member.value) for member in hint}
        if not (all(issubclass(kind, str) for kind in kinds) or all(issubclass(kind, int) for kind in kinds)):
            raise _refusal(
                path, hint, "has members that are neither all str nor all int", "Give every member a value of one of these types"
            )
        return False

    def _visit_other(self, hint: Any, path: str, *, modelled: bool) -> bool:
        if hint is Any or hint is object or hint is msgspec.Raw:
            raise _refusal(
                path, hint, "can be anything, so it would not come back as it was", "Name the types: `int | str`, a class, a dict of these"
            )
        if isinstance(hint, TypeVar):
            raise _refusal(path, hint, "is an open type variable", "Subclass the generic class with a concrete type")
        if modelled:
            reason = pydantic_rules.refusal(hint)
            if reason is None:
                return True
            raise _refusal(path, hint, *reason)
        if isinstance(hint, type):
            raise _refusal(path, hint, "cannot be written as JSON", "Make it a dataclass, Struct, attrs class or BaseModel")
        raise _refusal(path, hint, "cannot be written as JSON", "Use list, tuple, set, dict or a class with fields")

    def _check_key(self, hint: Any, path: str) -> None:
        for key in _alternatives(hint):
            if get_origin(key) is Literal and all(type(value) in (str, int) for value in get_args(key)):
                continue
            if isinstance(key, type) and issubclass(key, enum.Enum):
                self._visit_enum(key, path)
            elif key not in _KEYS:
                raise _refusal(path, hint, "cannot be the key of a JSON object", "Use str, int, UUID or Enum keys, or a list of pairs")

    def _check_modelled_union(self, arguments: tuple[Any, ...], union: Any, path: str) -> None:
        texts = [hint for hint in map(unwrapped, arguments) if hint in _TEXTS or _is_text_enum(hint)]
        if len(texts) > 1:
            raise _refusal(
                path, union, "has several types that are all strings in JSON, so a reader cannot tell them apart", "Choose one of them"
            )


def _alternatives(hint: Any) -> list[Any]:
    hint = unwrapped(hint)
    if get_origin(hint) in (typing.Union, types.UnionType):
        return [unwrapped(argument) for argument in get_args(hint)]
    return [hint]


def _is_text_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.Enum) and any(isinstance(member.value, str) for member in hint)


def _example(hint: Any) -> str:
    if hint in _OBJECTS:
        return "dict[str, int]"
    return "tuple[int, ...]" if hint is tuple else f"{name_of(hint)}[int]"


def _refusal(path: str, hint: Any, reason: str, remedy: str) -> ContractError:
    return ContractError(f"{path}: {name_of(hint)} {reason}. {remedy}")
