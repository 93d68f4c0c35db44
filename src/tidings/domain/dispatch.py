"""Handling the domain events of a session, just before its transaction commits: in rounds, until nothing new is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tidings.consume.calling import AFTER
from tidings.consume.counters import Counters
from tidings.consume.declarations import DeclaredConverter, DomainSide
from tidings.consume.injection import label_of
from tidings.consume.providers import Providers
from tidings.context.binding import in_same_context
from tidings.contracts import Contract, EventType
from tidings.domain.aggregates import ATTRIBUTE, SEEN_BY, DomainEvents, Waiting, waiting_of
from tidings.domain.calling import call_after, call_inside
from tidings.domain.reactions import Reactions, ReactionsByClass, internal_events
from tidings.domain.stage import DomainStage, Recorded
from tidings.domain.unit_of_work import UnitOfWork, current_work
from tidings.errors import ConfigurationError, DomainEventRecursion, DuplicatePublication, InvalidEvent, TransactionEnded
from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import Publisher
from tidings.publish.session import publish_in
from tidings.publish.session_buffer import SessionBuffer, commits_root, flush_until_clean
from tidings.publish.sqlalchemy_state import is_whole

if TYPE_CHECKING:
    from tidings.consume.subscriptions import Subscriptions
    from tidings.domain.commands import Commands
    from tidings.stores.sql.store import SQLStore

__all__ = ["Domain", "Factory"]

logger = logging.getLogger("tidings.domain")

#: How many events may cause one another.
LIMIT = 10

Factory = sessionmaker[Any] | async_sessionmaker[Any] | scoped_session[Any] | async_scoped_session[Any]


class _Converted(NamedTuple):
    outgoing: Outgoing
    converter: DeclaredConverter
    recorded: Recorded


class Domain:
    """The domain side of one service.

    Attributes:
        types: the service's event types; durable domain events are added to them.
    """

    def __init__(
        self,
        service: str,
        publisher: Publisher,
        declared: Sequence[Subscriptions],
        types: dict[type[Any], EventType[Any]],
        providers: Providers,
        counters: Counters,
    ) -> None:
        self.service = service
        self.publisher = publisher
        self.types = types
        self.providers = providers
        self.counters = counters
        self.factories: list[Any] = []
        self._declared = declared
        self._compiled: ReactionsByClass | None = None
        self._size = -1
        self._internal: Contract | None = None
        self._classes: dict[type[Any], type[Any]] = {}
        self.commands: Commands | None = None
        publisher.domain = self

    # Putting together

    @property
    def sides(self) -> list[DomainSide]:
        """What was declared."""
        return [subscriptions.domain for subscriptions in self._declared]

    @property
    def empty(self) -> bool:
        """Whether nobody wants to hear of domain events."""
        return not any(side.handlers or side.converters or side.durable for side in self.sides)

    def compile(self) -> ReactionsByClass:
        """Resolve and check what was declared; again if more was declared meanwhile.

        Raises:
            ConfigurationError: something does not fit; the message says how to mend it.
        """
        size = 0
        for subscriptions in self._declared:
            side = subscriptions.domain
            size += len(side.handlers) + len(side.converters) + len(side.durable)
        if self._compiled is None or size != self._size:
            durable = [each for side in self.sides for each in side.durable]
            for kind in self._internal or ():
                self.types.pop(kind.cls, None)
            contract = internal_events(self.service, durable, self.types)
            self._internal = contract
            self.types.update({kind.cls: kind for kind in contract})
            compiled = ReactionsByClass(self.sides, self.types, [kind.cls for kind in contract], self.providers)
            self._refuse_subscriptions()
            for factory in self.factories:
                _check(factory, compiled)
            self._compiled, self._size = compiled, size
        return self._compiled

    def move(self, publisher: Publisher, providers: Providers, store: SQLStore) -> None:
        """Work with other parts from now on: those of a service that is under test."""
        self.publisher, self.providers = publisher, providers
        self._compiled = None
        if self.commands is not None:
            self.commands.move(store)

    def attach(self, factory: Factory, *, listed: bool = True) -> None:
        """See the domain events of every session that the factory makes from now on.

        Args:
            listed: whether units of work may use it.

        Raises:
            ConfigurationError: it is no session factory, another service has it, or it makes synchronous sessions and a handler is async.
        """
        maker: Any = factory
        if isinstance(maker, (scoped_session, async_scoped_session)):
            maker = maker.session_factory
        if isinstance(maker, async_sessionmaker):
            base = maker.kw.get("sync_session_class") or maker.class_.sync_session_class
            if self._is_mine(base):
                return
            maker.configure(sync_session_class=self.session_class(base))
        elif isinstance(maker, sessionmaker):
            if self._is_mine(maker.class_):
                return
            self._listen(maker.class_)
        else:
            raise ConfigurationError(f"attach({factory!r}): give a sessionmaker(...), an async_sessionmaker(...), or a scoped form of one")
        if listed:
            self.factories.append(factory)
        if self._compiled is not None:
            _check(factory, self._compiled)

    def session_class(self, base: type[Any]) -> type[Any]:
        """Return a subclass of a session class whose domain events are seen."""
        found = self._classes.get(base)
        if found is None:
            found = self._classes[base] = type(base.__name__, (base,), {"__module__": base.__module__})
            self._listen(found)
        return found

    def _is_mine(self, cls: type[Any]) -> bool:
        seer = getattr(cls, SEEN_BY, None)
        if seer is None or seer is self:
            return seer is self
        raise ConfigurationError(f"this session factory is attached to service {seer.service!r} already: make one for {self.service!r}")

    def _listen(self, cls: type[Any]) -> None:
        setattr(cls, SEEN_BY, self)
        event.listen(cls, "after_attach", self._after_attach)

    def _refuse_subscriptions(self) -> None:
        mine = {handler.event for side in self.sides for handler in side.handlers}
        mine |= {converter.event for side in self.sides for converter in side.converters}
        for subscription in [each for subscriptions in self._declared for each in subscriptions.subscriptions]:
            for cls in [cls for declared in subscription.handlers for cls in declared.events]:
                if cls in mine and cls not in self.types:
                    raise ConfigurationError(
                        f"subscription {subscription.name!r} handles {cls.__qualname__}, which is a domain event and never leaves its transaction: "
                        f"handle it with @handlers.on({cls.__name__}), after the commit with phase='after_commit', or convert it to an "
                        f"integration event with @handlers.converts({cls.__name__}) and subscribe to that"
                    )

    # Recording

    def recorded(self, session: Session, aggregate: Any, recorded: Any) -> None:
        """Take an event that a mapped object of the session has recorded."""
        attributes = vars(aggregate)
        home: Waiting | None = None
        if attributes["_sa_instance_state"].key is None:
            home = attributes.get(ATTRIBUTE)
            if home is None:
                home = attributes[ATTRIBUTE] = Waiting()
        DomainStage.of(session, self).record(session, recorded, None if home is None else aggregate, home)

    def _after_attach(self, session: Session, instance: Any) -> None:
        attributes = vars(instance)
        waiting: Waiting | None = attributes.get(ATTRIBUTE)
        if waiting is not None and waiting.events:
            for each in waiting.pull():
                self.recorded(session, instance, each)
        for value in attributes.values():
            if type(value) is DomainEvents:
                DomainStage.of(session, self).track(session, [value._waiting])

    def record(self, session: Session, recorded: Any) -> None:
        """Record an event in the session's transaction, without an object that it happened to."""
        DomainStage.of(session, self).record(session, recorded)

    def track(self, session: Session, aggregate: Any) -> None:
        """Take what an object that is not mapped has recorded and will record, until the session's transaction ends.

        Raises:
            TypeError: it records no events.
        """
        found = waiting_of(aggregate)
        stage = DomainStage.of(session, self)
        if found:
            stage.track(session, found)
        elif callable(getattr(aggregate, "pull_events", None)):
            stage.pull_from(session, aggregate)
        else:
            raise TypeError(
                f"{type(aggregate).__qualname__} records no domain events: derive it from AggregateRoot, give it events = DomainEvents(), or a "
                "method pull_events()"
            )

    # Units of work and commands

    def factory(self, chosen: Any = None) -> Any:
        """Return the session factory to use: the one given, or the only one that is attached.

        Raises:
            ConfigurationError: none is attached, or several are, or the one given is not.
        """
        if chosen is not None:
            if chosen not in self.factories:
                raise ConfigurationError(f"{chosen!r} is not attached: service.attach(session_factory), before its first unit of work")
            return chosen
        if len(self.factories) != 1:
            raise ConfigurationError(
                f"several session factories are attached to service {self.service!r}: say which, service.unit_of_work(factory)"
                if self.factories
                else f"service {self.service!r} has no session factory: service.attach(async_sessionmaker(engine)), or a sessionmaker"
            )
        return self.factories[0]

    def unit_of_work(self, factory: Any = None, *, blocking: bool = False) -> UnitOfWork:
        """Return a new unit of work."""
        return UnitOfWork(self, factory, blocking=blocking)

    def execute_in(self, session: Session, asynchronous: bool, works: list[Any]) -> Any:
        """Return what executes commands in a session that somebody else commits."""
        assert self.commands is not None
        return self.commands.inside(session, asynchronous=asynchronous, works=works)

    # Handling

    def handle(self, session: Session, stage: DomainStage) -> None:
        """Handle what a session has recorded, in rounds, until nothing new is recorded.

        Raises:
            DomainEventRecursion: the events of ten rounds have caused one another.
            DuplicatePublication: a converter and the program publish the same fact.
            TransactionEnded: a handler has ended the transaction behind the session's back, or swallowed an error that has.
        """
        reactions = self.compile()
        root = session.get_transaction()
        assert root is not None
        converted: dict[UUID, _Converted] = {}
        rounds = 0
        while batch := stage.take(session):
            rounds += 1
            if rounds > LIMIT:
                raise DomainEventRecursion(_recursion(batch[0]))
            todo = [(recorded, reactions.of(type(recorded.event))) for recorded in batch]
            for recorded, found in todo:
                for handler in found.before_save:
                    call_inside(self, handler, recorded, session, stage)
            flush_until_clean(session)
            for recorded, found in todo:
                self._react(session, stage, recorded, found, converted)
            if not is_whole(session, root):
                raise TransactionEnded(
                    "a handler of domain events has ended the transaction that it runs in, or swallowed a database error that has: leave commit and "
                    "rollback to whoever commits the session, and catch errors inside session.begin_nested()"
                )
            commits_root(session, root)  # closes savepoints that a handler has left open
        if converted:
            _look_for_duplicates(session, converted)
        work = current_work(self)
        if work is not None and work.sync is session:
            work.check()  # a handler may have asked for the rollback

    def _react(self, session: Session, stage: DomainStage, recorded: Recorded, found: Reactions, converted: dict[UUID, _Converted]) -> None:
        for converter in found.converters:
            for integration_event in self._convert(converter, recorded):
                outgoing = self.publisher.prepare(integration_event)
                publish_in(self.publisher, session, outgoing)
                if converter.on_duplicate != "allow":
                    converted[outgoing.id] = _Converted(outgoing, converter, recorded)
        if found.durable:
            publish_in(self.publisher, session, self.publisher.prepare(recorded.event))
        for handler in found.before_commit:
            call_inside(self, handler, recorded, session, stage)
        for handler in found.best_effort:
            self._later(session, stage, lambda handler=handler: call_after(self, handler, recorded.event))  # type: ignore[misc]

    def _convert(self, converter: DeclaredConverter, recorded: Recorded) -> Iterable[Any]:
        result = converter.function(recorded.event)
        if result is None:
            return ()
        several = (result,) if type(result) in self.types else result
        if not isinstance(several, Iterable) or isinstance(several, (str, bytes, Mapping)):
            raise InvalidEvent(
                f"{label_of(converter.function)} returned {result!r:.200} for {type(recorded.event).__qualname__}: a converter returns an event of "
                "the service's contracts, several in an iterable, or None"
            )
        return [each for each in several if each is not None]

    def _later(self, session: Session, stage: DomainStage, call: Callable[[], None]) -> None:
        scope = vars(session).get(AFTER)
        if scope is not None:
            scope.after.append(in_same_context(call))
        elif isinstance(session.get_bind(), Connection):
            self.counters.add("", "best_effort_skipped")
            logger.warning(
                "a best-effort handler is not called: its session joined the transaction of a connection, and nobody says when that commits; "
                "make the handler durable"
            )
        else:
            stage.after.append(call)


def _check(factory: Any, reactions: ReactionsByClass) -> None:
    maker = factory.session_factory if isinstance(factory, (scoped_session, async_scoped_session)) else factory
    if isinstance(maker, async_sessionmaker):
        return
    for handler in reactions.handlers:
        if handler.plan.asynchronous:
            raise ConfigurationError(_not_awaitable(handler.label))


def _look_for_duplicates(session: Session, converted: dict[UUID, _Converted]) -> None:
    """Find what was published by hand although a converter has published the very same: same type, key and data."""
    pending = SessionBuffer.of(session).pending
    if pending is None:
        return
    same: dict[tuple[Any, ...], _Converted] = {_fact(by.outgoing): by for by in converted.values()}
    for frame in pending.frames.values():
        for _, item, _ in frame:
            if not isinstance(item, Outgoing) or item.id in converted:
                continue
            found = same.get(_fact(item))
            if found is None:
                continue
            message = (
                f"{item.name} {item.key or ''} is published twice in one transaction: by {label_of(found.converter.function)}, which converts "
                f"{type(found.recorded.event).__qualname__}, and by hand. Remove one of them, or say on_duplicate='allow'"
            )
            if found.converter.on_duplicate == "error":
                raise DuplicatePublication(message)
            logger.warning("%s", message)


def _fact(outgoing: Outgoing) -> tuple[Any, ...]:
    return outgoing.name, outgoing.version, outgoing.key, outgoing.data


def _recursion(recorded: Recorded) -> str:
    steps = [type(recorded.event).__qualname__]
    at: Recorded | None = recorded
    while at is not None and at.cause is not None:
        steps.append(f"{type(at.cause.event).__qualname__} -> ({at.by})")
        at = at.cause
    chain = " -> ".join(reversed(steps))
    return (
        f"domain events have caused one another {LIMIT} times, and nothing was committed: {chain}. Let a handler record nothing when there is "
        "nothing left to do, or let the chain go on after the commit, with phase='after_commit'"
    )


def _not_awaitable(label: str) -> str:
    return (
        f"{label} is async, and a synchronous Session cannot await it: write it with def, attach an async_sessionmaker instead, or handle the "
        "event after the commit, phase='after_commit'"
    )
