"""Declaring handlers. A `Subscriptions` is a value: modules with handlers import neither an engine nor the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Concatenate, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from tidings.consume.breaker import Breaker
from tidings.consume.declarations import (
    DeclaredCommand,
    DeclaredConverter,
    DeclaredHandler,
    DeclaredValidator,
    DomainSide,
    OnDuplicate,
    Phase,
)
from tidings.consume.limits import Limit, Rate
from tidings.consume.retry import Retry
from tidings.errors import ConfigurationError

__all__ = ["GROUPS", "Options", "Subscription", "SubscriptionOptions", "Subscriptions", "is_group"]

#: What the name of a subscription is made of.
NAMES = "1 to 200 printable characters"

#: What the name of a service or a group is made of.
GROUPS = "1 to 100 printable characters without '/', '@' or spaces"

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")


class Options(TypedDict, total=False):
    """How a subscription runs; every option has a default.

    Attributes:
        retry: when a failed event is tried again.
        breaker: when it stops taking events because what its handlers need is down.
        concurrency: how many handlers run at once, 1 to 1,000, in all processes together, those of events that are tried again included.
            Without it, eight run in the process that reads, and events that are tried again beside them, in any.
        rate: how many events are handled in a time, in all processes together, each attempt that waited for its turn counted.
        ordered: keep order by key (default); `False` handles every event on its own.
        timeout: seconds a handler may take (default 60), or None.
        on_dead: `block` keeps the later events of a key waiting behind a dead one (default); `continue` lets them pass.
        shared: let events share a transaction under load (default); `False` gives each its own.
        session_per: `event` gives each event a session of its own (default). With `transaction`, events that share a transaction share a
            session too, flushed once at the end: several times faster with the ORM, and an event finds what the ones before it have loaded
            and not yet written. After a failure they are handled one by one, each in a session of its own.
        renamed_from: the name that this subscription had before.
    """

    retry: Retry | None
    breaker: Breaker | None
    concurrency: int
    rate: Rate | None
    ordered: bool
    timeout: float | timedelta | None
    on_dead: Literal["block", "continue"]
    shared: bool
    session_per: Literal["event", "transaction"]
    renamed_from: str | None


class SubscribeOptions(Options, total=False):
    """`Options`, and the stored name and the group, for a subscription of one function."""

    name: str
    group: str | None


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """`Options` with their defaults, checked; `limit` is what they say of concurrency and rate, and nothing else."""

    retry: Retry | None = None
    breaker: Breaker | None = None
    concurrency: int = 8
    rate: Rate | None = None
    limit: Limit = field(default_factory=Limit)
    ordered: bool = True
    timeout: float | None = 60.0
    on_dead: Literal["block", "continue"] = "block"
    shared: bool = True
    session_per: Literal["event", "transaction"] = "event"
    renamed_from: str | None = None

    @classmethod
    def of(cls, subscription: str, options: Options) -> SubscriptionOptions:
        """Check options and fill in the defaults.

        Raises:
            ConfigurationError: an option is unknown or out of its range.
        """
        known = Options.__annotations__
        for name in options:
            if name not in known:
                raise ConfigurationError(f"subscription {subscription!r}: there is no option {name!r}; there are {', '.join(known)}")
        for name in ("ordered", "shared"):
            if not isinstance(given := options.get(name, True), bool):
                raise ConfigurationError(f"subscription {subscription!r}: {name}={given!r} is neither True nor False")
        former = options.get("renamed_from")
        if former is not None and not is_name(former):
            raise ConfigurationError(f"subscription {subscription!r}: renamed_from={former!r}: give the name that it had, {NAMES}")
        timeout = options.get("timeout", 60.0)
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and (not isinstance(seconds, int | float) or isinstance(seconds, bool) or not seconds > 0):
            raise ConfigurationError(
                f"subscription {subscription!r}: timeout={timeout!r} is not positive; give seconds, a timedelta or None"
            )
        result = cls(**{**options, "timeout": seconds})  # type: ignore[arg-type]
        if result.rate is not None and not isinstance(result.rate, Rate):
            raise ConfigurationError(
                f"subscription {subscription!r}: rate={result.rate!r} is not a Rate(...), e.g. Rate(100, per=timedelta(seconds=1))"
            )
        if not isinstance(result.concurrency, int) or not 1 <= result.concurrency <= 1000:
            raise ConfigurationError(f"subscription {subscription!r}: concurrency={result.concurrency!r} is not a number from 1 to 1000")
        if result.on_dead not in ("block", "continue"):
            raise ConfigurationError(f"subscription {subscription!r}: on_dead={result.on_dead!r} is neither 'block' nor 'continue'")
        if result.session_per not in ("event", "transaction"):
            raise ConfigurationError(
                f"subscription {subscription!r}: session_per={result.session_per!r} is neither 'event' nor 'transaction'"
            )
        if result.retry is not None and not isinstance(result.retry, Retry):
            raise ConfigurationError(f"subscription {subscription!r}: retry={result.retry!r} is not a Retry(...)")
        if result.breaker is not None and not isinstance(result.breaker, Breaker):
            raise ConfigurationError(f"subscription {subscription!r}: breaker={result.breaker!r} is not a Breaker(...)")
        return replace(result, limit=Limit(options.get("concurrency"), result.rate))


@dataclass(frozen=True, slots=True)
class Declared:
    """One handler function for one or several event classes; with `batch`, it takes a list of at most that many events."""

    events: tuple[type[Any], ...]
    function: Callable[..., Any]
    batch: int | None = None


@dataclass(slots=True)
class Subscription:
    """One or several handlers under one stored name, with one policy. Order by key holds across all of them.

    Attributes:
        name: the stored name. Renaming it without `renamed_from` is refused, because a new name would handle old events again.
        group: who shares one cursor, 1 to 100 printable characters without '/', '@' or spaces; None is the service's own group.
    """

    name: str
    group: str | None
    options: SubscriptionOptions
    handlers: list[Declared] = field(default_factory=list)

    @overload
    def on(self, a: type[A], /) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]: ...
    @overload
    def on(self, a: type[A], b: type[B], /) -> Callable[[Callable[Concatenate[A | B, P], R]], Callable[Concatenate[A | B, P], R]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], /
    ) -> Callable[[Callable[Concatenate[A | B | C, P], R]], Callable[Concatenate[A | B | C, P], R]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], d: type[D], /
    ) -> Callable[[Callable[Concatenate[A | B | C | D, P], R]], Callable[Concatenate[A | B | C | D, P], R]]: ...
    @overload
    def on(
        self, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /
    ) -> Callable[[Callable[Concatenate[A | B | C | D | E, P], R]], Callable[Concatenate[A | B | C | D | E, P], R]]: ...
    def on(self, *events: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a handler of these event classes. Its first parameter is the event; the others are injected by their types."""
        return self._add(events, None)

    def _add(self, events: tuple[type[Any], ...], batch: int | None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        if not events or not all(isinstance(event, type) for event in events):
            raise ConfigurationError(f"subscription {self.name!r}: give the event classes that it handles, e.g. subscribe(OrderPlaced)")
        if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or not 1 <= batch <= 10_000):
            raise ConfigurationError(f"subscription {self.name!r}: batch={batch!r} is not a number from 1 to 10000")
        for event in events:
            if any(event in declared.events for declared in self.handlers):
                raise ConfigurationError(f"subscription {self.name!r} handles {event.__qualname__} twice: use two subscriptions")

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            if not callable(function):
                raise ConfigurationError(f"subscription {self.name!r}: {function!r} is not a function")
            self.handlers.append(Declared(events, function, batch))
            return function

        return decorate


class Subscriptions:
    """The handlers of one module. Give it to `Service(subscriptions=[...])`."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []
        self.domain = DomainSide()

    def subscription(self, name: str, *, group: str | None = None, **options: Unpack[Options]) -> Subscription:
        """Return a new subscription that takes several handlers: `@orders.on(OrderPlaced)`, `@orders.on(OrderCancelled)`.

        Raises:
            ConfigurationError: the name is empty or too long, or an option is wrong.
        """
        result = _subscription(name, group, options)
        self.subscriptions.append(result)
        return result

    @overload
    def subscribe(
        self, a: type[A], /, *, batch: None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], /, *, batch: int, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[list[A], P], R]], Callable[Concatenate[list[A], P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], /, *, batch: None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[A | B, P], R]], Callable[Concatenate[A | B, P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], /, *, batch: int, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[list[A | B], P], R]], Callable[Concatenate[list[A | B], P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], /, *, batch: None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[A | B | C, P], R]], Callable[Concatenate[A | B | C, P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], /, *, batch: int, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[list[A | B | C], P], R]], Callable[Concatenate[list[A | B | C], P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], d: type[D], /, *, batch: None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[A | B | C | D, P], R]], Callable[Concatenate[A | B | C | D, P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], d: type[D], /, *, batch: int, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[list[A | B | C | D], P], R]], Callable[Concatenate[list[A | B | C | D], P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, *, batch: None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[A | B | C | D | E, P], R]], Callable[Concatenate[A | B | C | D | E, P], R]]: ...
    @overload
    def subscribe(
        self, a: type[A], b: type[B], c: type[C], d: type[D], e: type[E], /, *, batch: int, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[Concatenate[list[A | B | C | D | E], P], R]], Callable[Concatenate[list[A | B | C | D | E], P], R]]: ...
    def subscribe(
        self, *events: type[Any], batch: int | None = None, **options: Unpack[SubscribeOptions]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make the function a subscription of its own, named after it unless `name` says otherwise.

        Its first parameter is the event, or with `batch` a list of at most that many events, handled in one call and one transaction.
        The other parameters are injected by their types: `Envelope`, `Publish`, a SQLAlchemy session or connection, the driver's
        connection of that transaction, and whatever the service provides. A plain `def` runs in a thread.

        Raises:
            ConfigurationError: an option is wrong.
        """
        own: dict[str, Any] = {**options}
        name: str | None = own.pop("name", None)
        group: str | None = own.pop("group", None)

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            chosen = getattr(function, "__name__", "") if name is None else name
            if name is None and (not chosen.strip("_") or chosen == "<lambda>"):
                raise ConfigurationError(f"the handler {function!r} has no name to be stored under: give name='...'")
            result = _subscription(chosen, group, own)
            result._add(events, batch)(function)
            self.subscriptions.append(result)
            return function

        return decorate

    @overload
    def on(
        self, event: type[A], /, *, phase: Literal["before_save", "before_commit"] = "before_commit"
    ) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]: ...
    @overload
    def on(
        self, event: type[A], /, *, phase: Literal["after_commit"], durable: Literal[False]
    ) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]: ...
    @overload
    def on(
        self,
        event: type[A],
        /,
        *,
        phase: Literal["after_commit"],
        durable: Literal[True] = True,
        event_name: str | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]: ...
    def on(
        self,
        event: type[Any],
        /,
        *,
        phase: Phase = "before_commit",
        durable: bool | None = None,
        event_name: str | None = None,
        **options: Unpack[SubscribeOptions],
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make the function a handler of a domain event and of its subclasses; `object` stands for all of them.

        Its first parameter is the event; the others are injected by their types, as for subscriptions.

        Args:
            event: the class of the domain event; anything but an integration event.
            phase: `before_commit` (default) runs in the transaction in which the event was recorded, when everything has been flushed, so that
                the database has given its ids; `before_save` runs there too, before the last flush. What either raises rolls all back.
            durable: with `after_commit`, the event is encoded into the log in the same transaction and handled after it by a subscription,
                with retries (True, the default); or the function is called with the object itself in this process once the transaction
                has committed, outside any transaction, and what it raises is logged and counted only (False).
            event_name: under which name a durable event stands in the log; by default made of the service's name and the class's.
            options: of a durable handler's subscription, as in `subscribe`.

        Raises:
            ConfigurationError: an option is wrong, or of another phase.
        """
        if not isinstance(event, type):
            raise ConfigurationError(f"on({event!r}): give the class of the domain event, e.g. on(OrderSubmitted)")
        if phase not in ("before_save", "before_commit", "after_commit"):
            raise ConfigurationError(f"on({event.__name__}, phase={phase!r}): there are 'before_save', 'before_commit' and 'after_commit'")
        if phase != "after_commit" and durable is not None:
            raise ConfigurationError(f"on({event.__name__}, durable={durable}): only handlers with phase='after_commit' may say so")
        if phase == "after_commit" and durable is not False:
            self.domain.durable.append((event, event_name))
            return self.subscribe(event, **options)
        if options or event_name is not None:
            given = ", ".join([*options, *(["event_name"] if event_name is not None else [])])
            raise ConfigurationError(
                f"on({event.__name__}): {given} can be given to durable handlers only, which have phase='after_commit'"
            )

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self.domain.handlers.append(DeclaredHandler(event, function, phase))
            return function

        return decorate

    def converts(self, event: type[A], /, *, on_duplicate: OnDuplicate = "warn") -> Callable[[Callable[[A], R]], Callable[[A], R]]:
        """Make the function the converter of a domain event: it returns an integration event, several in an iterable, or None.

        It is called for every recorded event of the class, and of subclasses that have no converter of their own, when everything has been
        flushed; what it returns is published in the transaction. It takes the event alone, and is a plain `def`.

        Args:
            event: the class of the domain event.
            on_duplicate: what to do if the transaction also publishes, by hand, an event of the same type with the same key and the same
                data: `warn` in the log, raise an `error` (DuplicatePublication), or `allow` it.

        Raises:
            ConfigurationError: it is no class, or `on_duplicate` is something else.
        """
        if not isinstance(event, type):
            raise ConfigurationError(f"converts({event!r}): give the class of the domain event, e.g. converts(OrderSubmitted)")
        if on_duplicate not in ("warn", "error", "allow"):
            raise ConfigurationError(f"converts({event.__name__}, on_duplicate={on_duplicate!r}): there are 'warn', 'error' and 'allow'")

        def decorate(function: Callable[[A], R]) -> Callable[[A], R]:
            self.domain.converters.append(DeclaredConverter(event, function, on_duplicate))
            return function

        return decorate

    def handles(
        self, command: type[A], /, *, commit_on_err: bool = False
    ) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]:
        """Make the function the handler of a command, the only one; see `Service.execute`.

        Its first parameter is the command; the others are injected by their types.

        Args:
            command: the class of the command.
            commit_on_err: commit, and publish, although the handler returns an `Err`.

        Raises:
            ConfigurationError: it is no class.
        """
        if not isinstance(command, type):
            raise ConfigurationError(f"handles({command!r}): give the class of the command, e.g. handles(PlaceOrder)")

        def decorate(function: Callable[Concatenate[A, P], R]) -> Callable[Concatenate[A, P], R]:
            self.domain.commands.append(DeclaredCommand(command, function, commit_on_err))
            return function

        return decorate

    def validates(self, command: type[A], /) -> Callable[[Callable[Concatenate[A, P], R]], Callable[Concatenate[A, P], R]]:
        """Make the function a validator of a command and of its subclasses; see `Service.execute`.

        It returns or yields `ValidationError`s: one, several in an iterable, or None. It may be async, and its other parameters are injected.

        Raises:
            ConfigurationError: it is no class.
        """
        if not isinstance(command, type):
            raise ConfigurationError(f"validates({command!r}): give the class of the command, e.g. validates(PlaceOrder)")

        def decorate(function: Callable[Concatenate[A, P], R]) -> Callable[Concatenate[A, P], R]:
            self.domain.validators.append(DeclaredValidator(command, function))
            return function

        return decorate


def is_name(name: object) -> bool:
    """Whether a subscription can have this name."""
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()


def is_group(name: object) -> bool:
    """Whether a service or a group can have this name: `group/subscription` and `group@environment` can be told apart."""
    return isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() and not any(character in name for character in "/@ ")


def _subscription(name: str, group: str | None, options: Any) -> Subscription:
    if not is_name(name):
        raise ConfigurationError(f"a subscription's name has {NAMES}, not {name!r}")
    if group is not None and not is_group(group):
        raise ConfigurationError(f"subscription {name!r}: group={group!r}: give {GROUPS}")
    return Subscription(name, group, SubscriptionOptions.of(name, options))
