"""Shapes: which kind of class an event is made of, whether it is frozen, and what types its fields have.

pydantic and attrs are recognised by the marks that they leave on a class, so that neither is imported here.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Mapping
from types import FrameType
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar, get_args, get_origin

import msgspec

from tidings.errors import ContractError

__all__ = ["Kind", "Scope", "Unresolved", "field_hints", "field_names", "is_frozen", "kind_of", "models_of", "name_of", "unwrapped"]

Kind = Literal["dataclass", "Struct", "attrs", "pydantic", "TypedDict", "NamedTuple"]

# What evaluating an annotation raises while a module is half read: AttributeError comes from `module.Name` in a circular import.
_NOT_YET = (AttributeError, NameError, SyntaxError, TypeError)
_WRAPPERS = frozenset({"ClassVar", "Final", "NotRequired", "ReadOnly", "Required"})


class Unresolved(ContractError):
    """A field's annotation names something that cannot be found yet; it may appear when the module has been read to its end."""


class Scope(NamedTuple):
    """What a function knows that defines classes: their annotations, being text, may name it, and nobody else can look it up.

    Attributes:
        function: what the qualified names of its classes begin with.
        names: its local names at one moment.
    """

    function: str
    names: Mapping[str, Any]

    @classmethod
    def of(cls, frame: FrameType, defined: type) -> Scope | None:
        """Return the scope of a running function if it is the one that defines a class."""
        function = f"{frame.f_code.co_qualname}.<locals>."
        return cls(function, dict(frame.f_locals)) if defined.__qualname__.startswith(function) else None


def kind_of(cls: object) -> Kind | None:
    """Return which kind of class with fields `cls` is, or None. A pydantic dataclass counts as pydantic: its validators must run."""
    if not isinstance(cls, type):
        return None
    if issubclass(cls, msgspec.Struct):
        return "Struct"
    if "__pydantic_validator__" in vars(cls):
        return "pydantic"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    if hasattr(cls, "__attrs_attrs__"):
        return "attrs"
    if issubclass(cls, dict) and hasattr(cls, "__total__"):
        return "TypedDict"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return "NamedTuple"
    return None


def is_frozen(cls: Any, kind: Kind) -> bool:
    """Say whether fields of an instance of `cls` cannot be assigned to."""
    if kind == "Struct":
        return bool(cls.__struct_config__.frozen)
    if hasattr(cls, "__dataclass_params__"):
        return bool(cls.__dataclass_params__.frozen)
    if kind == "pydantic":
        return bool(cls.model_config.get("frozen"))
    if kind == "attrs":
        # attrs has no public mark for this before `__attrs_props__` (25.4); the name of its `__setattr__` has been stable since 2016.
        return getattr(cls.__setattr__, "__name__", "") == "_frozen_setattrs"
    return False


def field_names(cls: Any, kind: Kind) -> tuple[str, ...]:
    """Return the names of the fields of `cls`, in the order of declaration."""
    if kind == "Struct":
        return tuple(cls.__struct_fields__)
    if kind == "pydantic":
        return tuple(models_of(cls))
    if kind == "dataclass":
        return tuple(field.name for field in dataclasses.fields(cls))
    if kind == "attrs":
        return tuple(field.name for field in cls.__attrs_attrs__)
    if kind == "NamedTuple":
        return tuple(cls._fields)
    return tuple(cls.__annotations__)


def models_of(cls: Any) -> Mapping[str, Any]:
    """Return pydantic's `FieldInfo` of every field of a pydantic model or dataclass."""
    fields: Mapping[str, Any] | None = vars(cls).get("__pydantic_fields__")
    return cls.model_fields if fields is None else fields


def field_hints(target: Any, scope: Scope | None) -> dict[str, Any]:
    """Return the resolved types of the fields of a class, or of a generic class with arguments, extras of `Annotated` included.

    What is found in `scope` is written back to the class's annotations, as `attrs.resolve_types` does: msgspec evaluates them once more.

    Raises:
        Unresolved: a name in an annotation is not known (yet).
    """
    cls: Any = get_origin(target) or target
    kind = kind_of(cls)
    if kind is None:
        raise TypeError(f"{cls!r} has no fields")
    if kind == "pydantic":
        return _model_hints(cls, scope)
    wanted = field_names(cls, kind)
    hints: dict[str, Any] = {}
    for owner, bound in _owners(target).items():
        own = _own_annotations(owner)
        for name in wanted:
            if name in own and name not in hints:
                hints[name] = _bind(_evaluate(owner, name, own, scope), bound)
    return {name: hints.get(name, Any) for name in wanted}


def name_of(hint: Any) -> str:
    """Return how a person would write a type: `OrderPlaced`, `list[int]`; a class made inside a function goes without that function."""
    if isinstance(hint, type) and not get_args(hint):
        return hint.__qualname__.rpartition("<locals>.")[2]
    return str(hint).replace("typing.", "")


def unwrapped(hint: Any) -> Any:
    """Return a type without `Annotated`, `NewType`, `type` aliases, `Final`, `Required` and the like around it."""
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            hint = hint.__origin__
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif type(origin).__name__ == "TypeAliasType" and origin is not None:
            hint = _bind(origin.__value__, dict(zip(origin.__type_params__, get_args(hint), strict=False)))
        elif getattr(origin, "_name", None) in _WRAPPERS:
            (hint,) = get_args(hint)
        else:
            return hint


def _model_hints(cls: Any, scope: Scope | None) -> dict[str, Any]:
    if not cls.__pydantic_complete__:
        namespace = {**vars(sys.modules[cls.__module__]), **(scope.names if scope else {}), cls.__name__: cls}
        if hasattr(cls, "model_rebuild"):
            cls.model_rebuild(raise_errors=False, _types_namespace=namespace)
        else:
            sys.modules["pydantic.dataclasses"].rebuild_dataclass(cls, raise_errors=False, _types_namespace=namespace)
        if not cls.__pydantic_complete__:
            raise _unresolved(cls, *_first_unresolved(cls, scope))
    hints = {}
    for name, field in models_of(cls).items():
        hints[name] = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return hints


def _first_unresolved(cls: Any, scope: Scope | None) -> tuple[str, str]:
    own = _own_annotations(cls)
    for name in own:
        try:
            _evaluate(cls, name, own, scope)
        except Unresolved as error:
            return name, str(error.__cause__)
    return "?", "its annotations are not complete"


def _owners(target: Any) -> dict[Any, dict[Any, Any]]:
    """Return the classes whose annotations make up a class, nearest first, each with what its type variables stand for."""
    bindings: dict[Any, dict[Any, Any]] = {}

    def collect(base: Any, bound: Mapping[Any, Any]) -> None:
        cls = get_origin(base) or base
        if cls in bindings or cls in (Generic, typing.Protocol) or not isinstance(cls, type):
            return
        arguments = [_bind(argument, bound) for argument in get_args(base)]
        bindings[cls] = dict(zip(getattr(cls, "__parameters__", ()), arguments, strict=False))
        for parent in vars(cls).get("__orig_bases__", cls.__bases__):
            collect(parent, bindings[cls])

    collect(target, {})
    order = (get_origin(target) or target).__mro__
    return {cls: bindings.get(cls, {}) for cls in order}


def _bind(hint: Any, bound: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return bound.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if isinstance(hint, type) or not parameters or not bound:
        return hint
    return hint[tuple(bound.get(parameter, parameter) for parameter in parameters)]


def _own_annotations(cls: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    own: dict[str, Any] = vars(cls).get("__annotations__", {})
    return own


def _evaluate(cls: Any, name: str, own: dict[str, Any], scope: Scope | None) -> Any:
    module = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    known = {**vars(cls), **module, **{parameter.__name__: parameter for parameter in getattr(cls, "__type_params__", ())}}
    local = scope is not None and cls.__qualname__.startswith(scope.function)
    if local and scope is not None:
        known.update({**scope.names, cls.__name__: cls})
    try:
        hint = _resolve(own[name], known)
    except _NOT_YET as error:
        raise _unresolved(cls, name, str(error)) from error
    if local:
        cls.__annotations__[name] = hint
    return hint


def _resolve(annotation: Any, known: dict[str, Any]) -> Any:
    holder = type("_", (), {"__annotations__": {"hint": annotation}})
    return typing.get_type_hints(holder, known, known, include_extras=True)["hint"]


def _unresolved(cls: type, name: str, reason: str) -> Unresolved:
    return Unresolved(
        f"{name_of(cls)}.{name}: its type cannot be resolved: {reason}. Import it at run time, not under `if TYPE_CHECKING:`, and "
        "define it at module level or above the class"
    )
