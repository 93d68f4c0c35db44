"""Mirrors: a Struct with the fields of a dataclass, to check JSON text against.

msgspec reads the same text into a Struct in about half the time that it takes for a dataclass. Where nobody will ever see the instance, because
only the verdict is wanted, that is half of what checking costs.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from tidings.codecs.shapes import Scope, field_hints, kind_of

__all__ = ["mirror_of"]


def mirror_of(cls: type, scope: Scope | None) -> type | None:
    """Return a Struct that takes no JSON text that a dataclass does not take; None where there is no such Struct, or it would not pay.

    Args:
        cls: an event class whose annotations can be resolved.
        scope: of the function that defines the class, if one does.
    """
    try:
        return _Mirrors(scope).of(cls)
    except (_Plain, RecursionError):
        return None


class _Plain(Exception):
    """A class has to be read as itself."""


class _Mirrors:
    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope
        self._made: dict[type, type | None] = {}

    def of(self, cls: type) -> type:
        if cls in self._made:
            made = self._made[cls]
            if made is None:
                raise _Plain  # it contains itself
            return made
        # What runs when an instance is made may refuse it.
        if kind_of(cls) != "dataclass" or hasattr(cls, "__post_init__") or hasattr(cls, "__parameters__"):
            raise _Plain
        self._made[cls] = None
        hints = field_hints(cls, self._scope)
        fields = []
        for field in dataclasses.fields(cls):
            if not field.init:
                raise _Plain
            hint = self._mirrored(hints[field.name])
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            # Which default it is does not matter.
            fields.append((field.name, hint) if required else (field.name, hint, msgspec.field(default=None)))
        try:
            made = msgspec.defstruct(cls.__name__, fields, frozen=True, gc=False, kw_only=True)
        except (TypeError, ValueError):
            raise _Plain from None
        self._made[cls] = made
        return made

    def _mirrored(self, hint: Any) -> Any:
        if isinstance(hint, type) and not get_args(hint):
            return self.of(hint) if dataclasses.is_dataclass(hint) else hint
        origin: Any = get_origin(hint)
        arguments = get_args(hint)
        if origin is None or origin is Literal:
            return hint
        if origin is Annotated:
            inner = self._mirrored(arguments[0])
            return hint if inner is arguments[0] else Annotated[(inner, *arguments[1:])]
        if kind_of(origin) == "dataclass":
            raise _Plain
        mirrored = tuple(self._mirrored(argument) for argument in arguments)
        if all(new is old for new, old in zip(mirrored, arguments, strict=True)):
            return hint
        return functools.reduce(operator.or_, mirrored) if origin in (Union, UnionType) else origin[mirrored]
