"""Which transports an event goes to: by its topic, else by its contract, else where all of a service's events go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, TypeAlias, get_args

from tidings.codecs.wire import Wire
from tidings.contracts import Contract, EventType
from tidings.errors import ConfigurationError
from tidings.transports.base import Transport
from tidings.transports.local import Local

__all__ = ["PREFIX", "Destination", "Routes", "Routing", "is_relay", "relay_name"]

#: Where events go: one transport, or several at once. `Local()` keeps them for this service's own subscribers, who then read them in the log;
#: else these receive them from the first broker, as everybody does.
Destination: TypeAlias = "Transport | Local | Sequence[Transport | Local]"
Routes: TypeAlias = "Mapping[Contract | str, Destination]"

#: What a destination is once it is checked: the brokers, and whether the service's own subscribers read the log.
_Where: TypeAlias = "tuple[tuple[Transport, ...], bool]"

#: What the group and the subscription of a relay begin with, in the store's tables.
PREFIX = "relay:"

_NEEDED = ("name", "failure", "ordered", "binding", "wire", "provision", "publisher", "receiver")


def relay_name(transport: Transport) -> str:
    """Return what the relay to a transport is called in the store's tables: as group, for its checkpoint, and as subscription."""
    return PREFIX + transport.name


def is_relay(group: str) -> bool:
    """Whether the group of this name is a relay's."""
    return group.startswith(PREFIX)


class Routing:
    """Pure: what goes where.

    Args:
        default: where events go that no route names.
        routes: by contract, or by topic, which comes first.
        types: the event types of the service's contracts.
        environment: given to topic namers.

    Attributes:
        brokers: every transport that is not `Local`, once.
        types, environment: as given.

    Raises:
        ConfigurationError: something is no transport, two transports have one name, or a route is for a contract that the service lacks.
    """

    def __init__(
        self, default: Destination, routes: Routes, contracts: Sequence[Contract], types: Sequence[EventType[Any]], environment: str | None
    ) -> None:
        self._default = _listed("transport", default)
        self._by_contract: dict[str, _Where] = {}
        self._by_topic: dict[str, _Where] = {}
        for key, destination in routes.items():
            if isinstance(key, Contract):
                if key not in contracts:
                    raise ConfigurationError(
                        f"Service routes has contract {key.name!r}, which the service lacks: give it to Service(contracts=[...])"
                    )
                self._by_contract[key.name] = _listed(f"routes[{key.name}]", destination)
            elif isinstance(key, str) and key:
                self._by_topic[key] = _listed(f"routes[{key!r}]", destination)
            else:
                raise ConfigurationError(f"Service routes has {key!r}: the keys are contracts and topics")
        self.brokers = self._distinct()
        self.learn(types)
        self.environment = environment

    def learn(self, types: Iterable[EventType[Any]]) -> None:
        """Know these event types and no others."""
        self.types = list(types)
        self._types = {(kind.name, kind.version): kind for kind in self.types}
        self._names: dict[str, EventType[Any]] = {}
        for kind in self.types:
            known = self._names.get(kind.name)
            if known is None or (kind.version or 0) > (known.version or 0):
                self._names[kind.name] = kind

    def _distinct(self) -> tuple[Transport, ...]:
        found: dict[str, Transport] = {}
        wheres = (self._default, *self._by_contract.values(), *self._by_topic.values())
        for transport in chain.from_iterable(brokers for brokers, _ in wheres):
            if found.setdefault(transport.name, transport) != transport:
                raise ConfigurationError(
                    f"two transports are called {transport.name!r}, and their checkpoints would be mixed up: give one of them another "
                    f"name, {type(transport).__name__}(..., name='...')"
                )
        return tuple(found.values())

    def type_of(self, name: str, version: int | None) -> EventType[Any] | None:
        """Return what is known of an event: its own version's type, else that of the newest; None when nothing knows its name."""
        return self._types.get((name, version)) or self._names.get(name)

    def goes(self, transport: Transport, name: str, version: int | None, topic: str) -> Literal["yes", "no", "unknown"]:
        """Say whether an event goes to a transport; `unknown` when no contract of this process has its name: another deploy's may."""
        kind = self.type_of(name, version)
        if kind is None:
            chosen = self._by_topic.get(topic)
            return "unknown" if chosen is None or transport in chosen[0] else "no"
        return "no" if kind.internal or transport not in self._of(kind, topic)[0] else "yes"

    def source(self, kind: EventType[Any], topic: str) -> Transport | None:
        """Return where the service's own subscribers get events of this type from; None is the log."""
        brokers, local = self._of(kind, topic)
        return None if kind.internal or local or not brokers else brokers[0]

    def comes_by(self, name: str, version: int | None, topic: str) -> Transport | None:
        """Return what `source` does, of an event in the log; the log for one that no contract of this process has."""
        kind = self.type_of(name, version)
        return None if kind is None else self.source(kind, topic)

    def topics(self, transport: Transport) -> list[str]:
        """Return the topics whose events go to a transport."""
        found: set[str] = set()
        for kind in self._types.values():
            topic = kind.topic(self.environment)
            if not kind.internal and transport in self._of(kind, topic)[0]:
                found.add(topic)
        return sorted(found)

    def collision(self, header: str) -> str | None:
        """Say why the transports cannot carry a publisher's header of this name, and what to do about it; None when they can."""
        from tidings.codecs.collisions import collision

        cap = any(transport.wire == "cap" for transport in self.brokers)
        return collision(header, tuple(transport.binding for transport in self.brokers), cap=cap)

    def _of(self, kind: EventType[Any], topic: str) -> _Where:
        by_topic = self._by_topic.get(topic)
        return self._by_contract.get(kind.contract.name, self._default) if by_topic is None else by_topic


def _listed(what: str, destination: Destination) -> _Where:
    """Check a destination."""
    given: Any = destination
    several: Sequence[Any] = given if isinstance(given, list | tuple) else (given,)
    if not several:
        raise ConfigurationError(f"Service {what} is empty: give a transport, or Local() for this service's own subscribers only")
    for one in several:
        if not isinstance(one, Local) and (isinstance(one, type) or not all(hasattr(one, name) for name in _NEEDED)):
            raise ConfigurationError(
                f"Service {what}={one!r} is no transport: give RabbitMQ(url), Kafka(url), NATS(url), Redis(url) or Local()"
            )
        if not isinstance(one, Local) and one.wire not in get_args(Wire):
            raise ConfigurationError(f"transport {one.name!r} has wire={one.wire!r}: give {' or '.join(map(repr, get_args(Wire)))}")
    brokers: list[Any] = [one for one in several if not isinstance(one, Local)]
    return tuple(brokers), len(brokers) < len(several)
