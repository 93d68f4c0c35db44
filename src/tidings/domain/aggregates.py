"""Recording domain events: on a base class, on a class attribute, or on an object of its own.

An event that is recorded on an object that no transaction knows waits there. When the object comes into a session (or is tracked by a unit of
work), its events move to the transaction, and what is recorded from then on goes there at once, to the innermost savepoint: so a savepoint
that is rolled back takes its events with it, and nothing has to be searched for at the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, overload

__all__ = ["ATTRIBUTE", "SEEN_BY", "AggregateRoot", "DomainEvents", "Waiting", "waiting_of"]

#: Where an object keeps what nobody has collected yet; not a column, and nothing that SQLAlchemy looks at.
ATTRIBUTE = "_tidings_domain_events"

#: What the class of a session whose domain events are seen has; see `Service.attach`.
SEEN_BY = "_tidings_seen_by"


class Waiting:
    """The events of one object that no transaction has.

    Attributes:
        collect: takes new events at once, as long as a transaction tracks the object.
    """

    __slots__ = ("collect", "events")

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.collect: Callable[[Any], None] | None = None

    def record(self, event: Any) -> None:
        """Keep an event, or hand it on."""
        if self.collect is None:
            self.events.append(event)
        else:
            self.collect(event)

    def pull(self) -> list[Any]:
        """Take the events out."""
        events, self.events = self.events, []
        return events


class _Seer(Protocol):
    def recorded(self, session: Any, aggregate: Any, event: Any, /) -> None: ...


def _record(aggregate: Any, event: Any) -> None:
    state = vars(aggregate).get("_sa_instance_state")
    if state is not None and (session := state.session) is not None:
        seer: _Seer | None = getattr(type(session), SEEN_BY, None)
        if seer is not None:
            seer.recorded(session, aggregate, event)
            return
    _waiting(aggregate).record(event)


def _waiting(aggregate: Any) -> Waiting:
    attributes = vars(aggregate)
    found: Waiting | None = attributes.get(ATTRIBUTE)
    if found is None:
        found = attributes[ATTRIBUTE] = Waiting()
    return found


def _pull(aggregate: Any) -> list[Any]:
    found: Waiting | None = vars(aggregate).get(ATTRIBUTE)
    return [] if found is None else found.pull()


class AggregateRoot:
    """A base class that records domain events, with two methods and nothing else; also for SQLAlchemy's declarative models.

    A domain event is any object. It is never serialized, unless an after-commit handler asks for that.
    """

    # Not an annotation in sight: declarative models and dataclasses would take it for a column or a field.

    def record(self, event: object, /) -> None:
        """Record that something has happened. Handlers and converters hear of it before the transaction of this object commits."""
        _record(self, event)

    def pull_events(self) -> list[Any]:
        """Return what was recorded while no transaction knew this object, and forget it: for unit tests, and for saving by other means."""
        return _pull(self)


class Recorder:
    """What `DomainEvents` as a class attribute gives for one object."""

    __slots__ = ("_aggregate",)

    def __init__(self, aggregate: Any) -> None:
        self._aggregate = aggregate

    def record(self, event: object, /) -> None:
        """Record that something has happened to the object."""
        _record(self._aggregate, event)

    def pull_events(self) -> list[Any]:
        """Return what was recorded while no transaction knew the object, and forget it."""
        return _pull(self._aggregate)


class DomainEvents:
    """Domain events without a base class, in either of two ways.

    As a class attribute, `events = DomainEvents()`, it records for each object of the class, mapped ones included: `self.events.record(...)`.
    As an attribute of one object, `self._events = DomainEvents()` in `__init__`, it serves objects that are not mapped and have slots, or
    are frozen; a unit of work finds it by itself when it tracks the object.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = Waiting()

    @overload
    def __get__(self, aggregate: None, owner: type) -> DomainEvents: ...
    @overload
    def __get__(self, aggregate: object, owner: type) -> Recorder: ...
    def __get__(self, aggregate: object | None, owner: type) -> DomainEvents | Recorder:
        return self if aggregate is None else Recorder(aggregate)

    def record(self, event: object, /) -> None:
        """Record that something has happened."""
        self._waiting.record(event)

    def pull_events(self) -> list[Any]:
        """Return what was recorded while no transaction tracked this, and forget it."""
        return self._waiting.pull()


def waiting_of(aggregate: Any) -> list[Waiting]:
    """Return where an object keeps its events: none when it records no events in a way that is known here."""
    if isinstance(aggregate, DomainEvents):
        return [aggregate._waiting]
    if isinstance(aggregate, Recorder):
        aggregate = aggregate._aggregate
    kind = type(aggregate)
    own = getattr(aggregate, "__dict__", {})
    slots = [name for base in kind.__mro__ for name in _slots(base)]
    values = [*own.values(), *(getattr(aggregate, name, None) for name in slots)]
    found = [value._waiting for value in values if isinstance(value, DomainEvents)]
    if isinstance(aggregate, AggregateRoot) or any(
        isinstance(vars(base).get(name), DomainEvents) for base in kind.__mro__ for name in vars(base)
    ):
        found.append(_waiting(aggregate))
    return found


def _slots(base: type) -> tuple[str, ...]:
    slots = vars(base).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
