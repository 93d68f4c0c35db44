"""What is to be done about each class of domain event. Resolved and checked once, when the service is put together; no I/O."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidings.consume.declarations import DeclaredConverter, DeclaredHandler, DomainSide, Phase
from tidings.consume.injection import Need, Plan, label_of, plan
from tidings.consume.providers import Providers
from tidings.contracts import Contract, EventType
from tidings.errors import ConfigurationError, ContractError, UnresolvedParameter

__all__ = ["Handler", "Reactions", "ReactionsByClass", "internal_events"]


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler that is ready to be called; `label` names it in messages."""

    plan: Plan
    event: type[Any]
    phase: Phase
    label: str


@dataclass(frozen=True, slots=True)
class Reactions:
    """What is to be done about one class of domain event.

    Attributes:
        durable: it is published as an internal event too, for handlers after the commit.
    """

    before_save: tuple[Handler, ...]
    before_commit: tuple[Handler, ...]
    best_effort: tuple[Handler, ...]
    converters: tuple[DeclaredConverter, ...]
    durable: bool


class ReactionsByClass:
    """Everything that the subscriptions of a service have declared about domain events.

    Args:
        sides: what was declared.
        types: the event types of the service's contracts, internal ones included.
        internal: the classes of durable domain events.

    Raises:
        ConfigurationError: a handler cannot be called, an integration event is handled as a domain event, or converters form a cycle.
    """

    def __init__(
        self,
        sides: Sequence[DomainSide],
        types: Mapping[type[Any], EventType[Any]],
        internal: Iterable[type[Any]],
        providers: Providers,
    ) -> None:
        self._types = types
        self._internal = frozenset(internal)
        declared = [handler for side in sides for handler in side.handlers]
        self._converters = [converter for side in sides for converter in side.converters]
        for event, function in [*((d.event, d.function) for d in declared), *((c.event, c.function) for c in self._converters)]:
            self._refuse_integration_event(event, label_of(function))
        _refuse_cycles(self._converters)
        for converter in self._converters:
            self._check_converter(converter)
        self.handlers = [_handler(one, providers) for one in declared]
        self._known: dict[type[Any], Reactions] = {}

    def of(self, cls: type[Any]) -> Reactions:
        """Return what is to be done about events of a class.

        Raises:
            ConfigurationError: the class is that of an integration event, or its base class has durable handlers, which it cannot reach.
        """
        found = self._known.get(cls)
        if found is None:
            found = self._known[cls] = self._look_up(cls)
        return found

    def _look_up(self, cls: type[Any]) -> Reactions:
        if cls in self._types and cls not in self._internal:
            raise ConfigurationError(
                f"{cls.__qualname__} was recorded as a domain event, and is the integration event {self._types[cls]} of contract "
                f"{self._types[cls].contract.name!r}: publish it, or record a domain event and convert that with @handlers.converts(...)"
            )
        durable = cls in self._internal
        for base in cls.__mro__[1:]:
            if base in self._internal and not durable:
                raise ConfigurationError(
                    f"{cls.__qualname__} was recorded, whose base {base.__qualname__} has durable after-commit handlers: they know that class "
                    f"only. Register them for {cls.__qualname__} too, or say durable=False"
                )
        mine = [handler for handler in self.handlers if issubclass(cls, handler.event)]
        phases: dict[str, tuple[Handler, ...]] = {
            phase: tuple(handler for handler in mine if handler.phase == phase) for phase in typing.get_args(Phase)
        }
        converters: tuple[DeclaredConverter, ...] = ()
        for base in cls.__mro__:
            converters = tuple(converter for converter in self._converters if converter.event is base)
            if converters:
                break
        return Reactions(phases["before_save"], phases["before_commit"], phases["after_commit"], converters, durable)

    def _refuse_integration_event(self, event: type[Any], label: str) -> None:
        kind = self._types.get(event)
        if kind is not None and event not in self._internal:
            raise ConfigurationError(
                f"{label} is for domain events, and {event.__qualname__} is the integration event {kind} of contract {kind.contract.name!r}: "
                f"subscribe to it with @handlers.subscribe({event.__name__}), or give the domain event a class of its own"
            )

    def _check_converter(self, converter: DeclaredConverter) -> None:
        label = label_of(converter.function)
        if inspect.iscoroutinefunction(converter.function) or inspect.isasyncgenfunction(converter.function):
            raise ConfigurationError(f"{label} is a converter and async: write it with def, it may only look at the event")
        needed = [
            parameter.name
            for parameter in list(inspect.signature(converter.function).parameters.values())[1:]
            if parameter.default is inspect.Parameter.empty
            and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        ]
        if needed:
            raise UnresolvedParameter(
                f"{label}: parameter {needed[0]!r} cannot be resolved: a converter gets the domain event and nothing else. "
                f"What needs more is a handler: @handlers.on({converter.event.__name__}), with a parameter publish: Publish"
            )
        for returned in _returned(converter.function):
            if returned not in self._types or returned in self._internal:
                raise ConfigurationError(
                    f"{label} converts {converter.event.__qualname__} to {returned.__qualname__}, which is in none of the service's contracts: "
                    "declare it with @contract.event(...) and give that contract to Service(contracts=[...])"
                )


def internal_events(service: str, durable: Sequence[tuple[type[Any], str | None]], types: Mapping[type[Any], EventType[Any]]) -> Contract:
    """Return the contract of the domain events that go through the log to after-commit handlers.

    Raises:
        ConfigurationError: a class cannot be encoded, is an integration event, or was given two names.
    """
    name = re.sub(r"[^A-Za-z0-9._-]", "-", service)
    contract = Contract(name if name[0].isalpha() else f"s-{name}", namer=lambda kind, _: kind.name)
    names: dict[type[Any], str | None] = {}
    for cls, given in durable:
        kind = types.get(cls)
        if kind is not None:
            raise ConfigurationError(
                f"on({cls.__qualname__}, phase='after_commit') is for domain events, and {cls.__qualname__} is the integration event {kind} of "
                f"contract {kind.contract.name!r}: subscribe to it with @handlers.subscribe({cls.__name__})"
            )
        if cls in names and given is not None and names[cls] not in (None, given):
            raise ConfigurationError(f"{cls.__qualname__} has two event names, {names[cls]!r} and {given!r}: keep one of them")
        names[cls] = given or names.get(cls)
    for cls, chosen in names.items():
        try:
            contract.event(chosen or f"{contract.name}.domain.{cls.__name__}", internal=True)(cls)
            contract.check()
        except ContractError as error:
            raise ConfigurationError(
                f"the durable after-commit handlers of {cls.__qualname__} get it through the log, and it cannot be encoded: {error}. Either say "
                f"durable=False, which gives them the object itself once, without retries; or convert it to an event that can be "
                f"encoded, @handlers.converts({cls.__name__}), declared with internal=True if it is nobody else's business, and subscribe to that"
            ) from error
    return contract


def _handler(declared: DeclaredHandler, providers: Providers) -> Handler:
    function, label = declared.function, label_of(declared.function)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    resolved = plan(function, (declared.event,), None, providers, async_engine=asynchronous)
    for parameter in resolved.parameters:
        if parameter.need is Need.ENVELOPE:
            raise UnresolvedParameter(
                f"{label}: parameter {parameter.name!r} cannot be resolved: a domain event is not on its way anywhere and has no envelope"
            )
    if declared.phase == "after_commit" and resolved.transactional:
        raise ConfigurationError(
            f"{label} runs after the commit, with durable=False: there is no transaction that it could have a session, connection or Publish "
            "of. Leave durable=False out, and it gets a transaction of its own, with retries; or let it open its own session"
        )
    return Handler(resolved, declared.event, declared.phase, label)


def _returned(function: Any) -> list[type[Any]]:
    """Return the classes that a converter says it returns; none of a hint that cannot be read or says nothing."""
    try:
        hint = typing.get_type_hints(function).get("return")
    except Exception:  # noqa: BLE001 - the hint of another parameter may raise anything, and calling the function needs none
        return []
    return _classes(hint)


def _classes(hint: Any) -> list[type[Any]]:
    if typing.get_origin(hint) is not None:
        return [cls for part in typing.get_args(hint) for cls in _classes(part)]
    # What is no class of the program's own says nothing: None, Any, list, Iterable.
    if not isinstance(hint, type) or hint is Any or hint.__module__ in ("builtins", "types", "typing", "collections.abc"):
        return []
    found: type[Any] = hint
    return [found]


def _refuse_cycles(converters: Sequence[DeclaredConverter]) -> None:
    edges: dict[type[Any], list[tuple[type[Any], str]]] = {}
    for converter in converters:
        for returned in _returned(converter.function):
            edges.setdefault(converter.event, []).append((returned, getattr(converter.function, "__name__", "?")))

    def walk(at: type[Any], path: list[type[Any]], drawn: str) -> None:
        for to, by in edges.get(at, ()):
            line = f"{drawn} -> ({by}) {to.__name__}"
            if to in path:
                raise ConfigurationError(
                    f"converters form a cycle: {line}. A converter leads from a domain event to an integration event, and an integration event "
                    "is not converted: give one of the classes its own counterpart, or remove a converter"
                )
            walk(to, [*path, to], line)

    for start in edges:
        walk(start, [start], start.__name__)
