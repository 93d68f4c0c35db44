"""The contract: the set of events that one module or bounded context promises to the outside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar, overload

from tidings.codecs import Scope, Unresolved
from tidings.codecs.shapes import name_of
from tidings.contracts.declaration import check_key_fields, check_name, check_text, check_topic, doc_of, entity_name, event_name
from tidings.contracts.event_type import EventType, Readings, label_of
from tidings.contracts.naming import TopicNamer, by_event_name
from tidings.contracts.versions import Upcaster, chain, stranded
from tidings.errors import ContractError, DecodeError, DuplicateEvent

__all__ = ["Contract"]

E = TypeVar("E")
Old = TypeVar("Old")
New = TypeVar("New")

_COROUTINE = 0x80  # inspect.CO_COROUTINE


class _Declare(Protocol):
    def __call__(self, cls: type[E], /) -> type[E]: ...


class Contract:
    """The events that one module promises to others: `orders = Contract("orders")`.

    Args:
        name: of the module or bounded context, e.g. `orders`.
        domain: what topic namers call the domain; the name unless given.
        source: the CloudEvents `source` of its events, a URI reference; the publishing service's unless given.
        type_prefix: put before the event's name in the CloudEvents `type`, e.g. `com.example.`.
        schema_base: the URI under which the JSON Schemas of its events are published, for the CloudEvents `dataschema`.
        namer: names the topics; by the event's name unless given. See `tidings.contracts.naming`.

    Raises:
        ContractError: the name, the domain or one of the texts is unusable.
    """

    def __init__(
        self,
        name: str,
        *,
        domain: str | None = None,
        source: str | None = None,
        type_prefix: str | None = None,
        schema_base: str | None = None,
        namer: TopicNamer = by_event_name,
    ) -> None:
        check_name(name, "the name of a contract")
        if domain is not None:
            check_name(domain, f"the domain of contract {name}")
        check_text(source, f"the source of contract {name}")
        check_text(type_prefix, f"the type_prefix of contract {name}")
        check_text(schema_base, f"the schema_base of contract {name}")
        if not callable(namer):
            raise ContractError(
                f"{namer!r} cannot name the topics of contract {name}. Give a function, e.g. namer=by_event_name, or leave it out"
            )
        self.name = name
        self.domain = name if domain is None else domain
        self.source = source
        self.type_prefix = type_prefix
        self.schema_base = schema_base
        self.namer = namer
        self._types: dict[tuple[str, int | None], EventType[Any]] = {}
        self._by_class: dict[type, EventType[Any]] = {}
        self._upcasters: dict[str, dict[int, Upcaster]] = {}

    def __repr__(self) -> str:
        return f"<Contract {self.name}: {len(self._types)} event types>"

    def event(
        self,
        name: str | None = None,
        *,
        version: int | None = 1,
        key: str | Sequence[str] | None = None,
        topic: str | None = None,
        domain: str | None = None,
        entity: type | str | None = None,
        internal: bool = False,
        pluralize: bool | None = None,
        lock_keys: bool = True,
    ) -> _Declare:
        """Make the decorated class an event of this contract and return it as it is.

        Types that cannot be resolved yet, because the module has not been read to its end, are checked when they are first needed, at the
        latest by `check`.

        Args:
            name: of the fact, e.g. `order.placed`; the class's name, without `V2` and `IntegrationEvent` at its end, unless given.
            version: 1 to 32767, or None for a type that will never have versions.
            key: the field, or the fields, that order is kept by; fields can be marked with `Annotated[..., PartitionKey()]` instead.
            topic: put in place of the topic that the namer would derive.
            domain: this event's, if it is not the contract's.
            entity: the class or the name of what the event is about. Topic namers give one topic to all events of an entity; a scalar such
                as UUID counts as none.
            internal: whether it is for the publishing service only.
            pluralize: True or False to put the topic into the plural or not; None for derived topics only.
            lock_keys: False lets publishers of one key commit side by side, at the price that subscribers may see them in different orders.

        Raises:
            ContractError: the class, a field's type, the name, the version, the key or the topic is unusable; the message says why.
            DuplicateEvent: the name and version are declared already.
        """
        if name is not None and not isinstance(name, str):
            raise ContractError(f"{name!r} is no event name. Write the decorator with parentheses: @{self.name}.event('order.placed')")

        if key is not None and not isinstance(key, Sequence):
            raise ContractError(f"{key!r} cannot be the key of an event. Give the name of a field, or several, e.g. key='order_id'")

        def declare(cls: type[E], /) -> type[E]:
            if not isinstance(cls, type):
                raise ContractError(f"{cls!r} is not a class. Decorate a frozen dataclass, msgspec.Struct, attrs class or pydantic model")
            fields = (key,) if isinstance(key, str) else tuple(key or ())
            check_key_fields(cls, fields)
            if topic is not None:
                check_topic(topic, name_of(cls))
            if domain is not None:
                check_name(domain, f"the domain of {name_of(cls)}")
            event_type = EventType(
                contract=self,
                name=event_name(name, version, cls),
                version=version,
                cls=cls,
                internal=internal,
                lock_keys=lock_keys,
                key_fields=fields,
                explicit_topic=topic,
                domain=self.domain if domain is None else domain,
                entity=entity_name(entity),
                pluralize=pluralize,
                doc=doc_of(cls),
                _readings=Readings(Scope.of(sys._getframe(1), cls)),
            )
            self._add(event_type)
            return cls

        return declare

    def upcast(self, old: type[Old], new: type[New], /) -> Callable[[Callable[[Old], New]], Callable[[Old], New]]:
        """Make the decorated function the upcaster from one version of an event to a newer one; it must be pure, and not async.

        Raises:
            ContractError: a class is no event of this contract, the two have different names, the second is not newer than the first, or
                the first has an upcaster already.
        """
        source, target = self.type_of(old), self.type_of(new)
        if source.name != target.name:
            raise ContractError(f"An upcaster leads from version to version of one event, and {source} and {target} are two events")
        if source.version is None or target.version is None or source.version >= target.version:
            raise ContractError(
                f"An upcaster leads to a newer version, and {target} ({name_of(new)}) is not newer than {source} ({name_of(old)}). "
                "Swap the two, or correct their versions"
            )
        start, end = source.version, target.version

        def declare(function: Callable[[Old], New]) -> Callable[[Old], New]:
            if getattr(getattr(function, "__code__", None), "co_flags", 0) & _COROUTINE:
                raise ContractError(f"The upcaster from {source} to {target} is async. Write it with def: it may only look at the event")
            steps = self._upcasters.setdefault(source.name, {})
            if start in steps:
                raise ContractError(
                    f"{source} has an upcaster already, to v{steps[start].to}. Remove one: from every version there is one way upward"
                )
            steps[start] = Upcaster(end, function)
            return function

        return declare

    @overload
    def __getitem__(self, item: str) -> EventType[Any]: ...
    @overload
    def __getitem__(self, item: tuple[str, int | None]) -> EventType[Any]: ...
    def __getitem__(self, item: str | tuple[str, int | None]) -> EventType[Any]:
        """Return the newest version of an event, or the version asked for.

        Raises:
            ContractError: there is none.
        """
        name, *version = (item,) if isinstance(item, str) else item
        event_type = self.get(name, *version)
        if event_type is None:
            wanted = label_of(name, *version) if version else name
            raise ContractError(f"Contract {self.name} has no event {wanted}. Its events are {', '.join(map(str, self)) or 'none'}")
        return event_type

    def get(self, name: str, *version: int | None) -> EventType[Any] | None:
        """Return the newest version of an event, or the version asked for; None when there is none."""
        if version:
            return self._types.get((name, version[0]))
        return max(self._versions_of(name), key=lambda event_type: event_type.version or 0, default=None)

    def type_of(self, cls: type[E]) -> EventType[E]:
        """Return the event type of a class.

        Raises:
            ContractError: the class is no event of this contract.
        """
        event_type = self._by_class.get(cls)
        if event_type is None:
            raise ContractError(
                f"{name_of(cls)} is no event of contract {self.name}. Decorate it with @{self.name}.event(...), or use the contract that "
                "declares it"
            )
        return event_type

    def __contains__(self, cls: object) -> bool:
        return cls in self._by_class

    def __iter__(self) -> Iterator[EventType[Any]]:
        """Iterate over the event types in the order of their declaration."""
        return iter(tuple(self._types.values()))

    def __len__(self) -> int:
        return len(self._types)

    def check(self) -> None:
        """Check what can be known only when everything has been declared.

        Raises:
            ContractError: a field's type does not exist or cannot be in an event, or an older version of an event with upcasters has no
                way to the newest.
        """
        for event_type in self:
            event_type.check()
        for name, steps in self._upcasters.items():
            versions = [event_type.version for event_type in self._versions_of(name) if event_type.version is not None]
            if lost := stranded(versions, steps):
                raise ContractError(
                    f"No chain of upcasters leads from {label_of(name, lost[0])} to the newest version, {max(versions)}. Declare one for "
                    f"{', '.join(f'v{version}' for version in lost)}: @{self.name}.upcast(Old, New)"
                )

    def path(self, name: str, from_version: int | None, to_version: int | None) -> tuple[Callable[[Any], Any], ...] | None:
        """Return the upcasters from one version of an event to another, in order: none for the same version; None when there is no way."""
        steps = self._chain(name, from_version, to_version)
        return None if steps is None else tuple(step.function for step in steps)

    def upcast_to(self, event_type: EventType[Any], data: str | bytes, target: EventType[E]) -> E:
        """Decode data as one version of an event and take it to another.

        Raises:
            DecodeError: the data is no such event, no upcasters lead to `target`, or one of them raised or returned something else.
        """
        if event_type is target:
            return target.decode(data)
        steps = self._chain(event_type.name, event_type.version, target.version) if event_type.name == target.name else None
        if steps is None:
            raise DecodeError(f"No chain of upcasters leads from {event_type} to {target}. Declare one: @{self.name}.upcast(Old, New)")
        event = event_type.decode(data)
        at = event_type
        for step in steps:
            following = self._types[event_type.name, step.to]
            try:
                event = step.function(event)
            except Exception as error:
                raise DecodeError(f"The upcaster from {at} to {following} raised {type(error).__name__}: {error}") from error
            if type(event) is not following.cls:
                raise DecodeError(
                    f"The upcaster from {at} to {following} returned {name_of(type(event))} instead of {name_of(following.cls)}. Correct it"
                )
            at = following
        result: E = event
        return result

    def _add(self, event_type: EventType[Any]) -> None:
        cls, identity = event_type.cls, (event_type.name, event_type.version)
        if identity in self._types:
            raise DuplicateEvent(
                f"{event_type} is declared twice in contract {self.name}: by {name_of(self._types[identity].cls)} and {name_of(cls)}. "
                "Give one of them another name or version"
            )
        if cls in self._by_class:
            raise ContractError(f"{name_of(cls)} is {self._by_class[cls]} already and cannot be {event_type} too. Write a class of its own")
        for other in self._versions_of(event_type.name):
            if other.version is None or event_type.version is None:
                raise ContractError(
                    f"{event_type.name} is declared with a version and without ({name_of(other.cls)}, {name_of(cls)}). Give both a version"
                )
        # A type that is defined further down in the module can be checked only later, by `check`.
        with suppress(Unresolved):
            event_type.check()
        self._types[identity] = self._by_class[cls] = event_type

    def _versions_of(self, name: str) -> list[EventType[Any]]:
        return [event_type for event_type in self._types.values() if event_type.name == name]

    def _chain(self, name: str, from_version: int | None, to_version: int | None) -> tuple[Upcaster, ...] | None:
        if from_version == to_version:
            return ()
        if from_version is None or to_version is None:
            return None
        return chain(self._upcasters.get(name, {}), from_version, to_version)
