"""Units of work and commands without a database, for unit tests of handlers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tidings.consume.execute import Execute
from tidings.contracts import Contract
from tidings.domain.aggregates import waiting_of
from tidings.errors import NoTransaction
from tidings.testing.assertions import matching
from tidings.testing.recorders import RecordingPublish

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["InMemoryUnitOfWork", "RecordingExecute"]

C = TypeVar("C")
E = TypeVar("E")


class RecordingExecute(Execute):
    """An `Execute` for unit tests, and an `ExecuteSync` by `.sync`: it keeps the commands that it is called with, and executes none.

    Args:
        results: what it returns, by the class of the command: a value, or a function of the command. None for all others.

    Attributes:
        commands: those that it was called with, in order.
        keys: their idempotency keys.
    """

    def __init__(self, results: Mapping[type[Any], Any] | None = None) -> None:
        super().__init__(self._keep)
        self.commands: list[Any] = []
        self.keys: list[str | None] = []
        self._results = dict(results or {})

    async def _keep(self, command: Any, key: str | None) -> Any:
        result = self.sync(command, idempotency_key=key)
        return await result if inspect.isawaitable(result) else result

    def sync(self, command: object, /, *, idempotency_key: str | None = None) -> Any:
        """Be called as an `ExecuteSync` is."""
        self.commands.append(command)
        self.keys.append(idempotency_key)
        result = self._results.get(type(command))
        return result(command) if callable(result) and not isinstance(result, type) else result

    def assert_executed(self, command_type: type[C], where: Callable[[C], bool] | None = None, /, **fields: Any) -> C:
        """Return the first command of a class that has these values in its fields, and that the predicate accepts.

        Raises:
            AssertionError: there is none.
            TypeError: the class has no such field.
        """
        __tracebackhide__ = True
        return matching(self.commands, command_type, where, fields, once=False, context="", verb="executed")

    def assert_nothing_executed(self) -> None:
        """Fail if any command was executed.

        Raises:
            AssertionError: one was.
        """
        __tracebackhide__ = True
        if self.commands:
            raise AssertionError(f"executed: {', '.join(map(repr, self.commands))}")


class InMemoryUnitOfWork:
    """A unit of work without a database, `with` and `async with`: `InMemoryUnitOfWork(orders)`.

    Handlers and converters are not called: a unit test calls them. What is published goes through its contract.

    Args:
        contracts: whose events it publishes.
        session: what it gives as `.session`, e.g. a fake repository; None unless given.

    Attributes:
        publish: the recorder of what is published, to hand to handlers too.
        events: the domain events of everything that was tracked, once the block is left, and what was recorded by hand.
        committed: whether the block was left without exception and without `rollback()`; None while it is open.
    """

    def __init__(self, *contracts: Contract, session: Any = None) -> None:
        self.publish = RecordingPublish(*contracts)
        self.session = session
        self.events: list[Any] = []
        self.committed: bool | None = None
        self._tracked: list[Any] = []
        self._undone = False

    def track(self, aggregate: object, /) -> None:
        """Take an object's domain events when the block is left.

        Raises:
            TypeError: it records no events.
        """
        if not waiting_of(aggregate) and not callable(getattr(aggregate, "pull_events", None)):
            raise TypeError(f"{type(aggregate).__qualname__} records no domain events")
        self._tracked.append(aggregate)

    def record(self, event: object, /) -> None:
        """Record a domain event by hand."""
        self.events.append(event)

    def rollback(self) -> None:
        """Let nothing be committed."""
        self._undone = True

    def assert_recorded(self, event_type: type[E], where: Callable[[E], bool] | None = None, /, **fields: Any) -> E:
        """Return the first domain event of a class that has these values in its attributes, and that the predicate accepts.

        Raises:
            AssertionError: there is none.
        """
        __tracebackhide__ = True
        alike: list[E] = [event for event in self.events if type(event) is event_type]
        for event in alike:
            if all(getattr(event, name) == value for name, value in fields.items()) and (where is None or where(event)):
                return event
        raise AssertionError(f"not recorded: {event_type.__qualname__} {fields or ''}\nrecorded: {self.events!r}")

    def __enter__(self) -> Self:
        if self.committed is not None:
            raise NoTransaction("this unit of work is over: make a new one")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.committed = error is None and not self._undone
        for aggregate in self._tracked if self.committed else ():
            found = waiting_of(aggregate)
            self.events += [event for waiting in found for event in waiting.pull()] if found else aggregate.pull_events()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.__exit__(kind, error, trace)


class Doubles:
    """What `recording(service)` puts in the place of the domain side.

    Attributes:
        execute: keeps the commands.
        units: the units of work that were begun.
    """

    def __init__(self, publish: RecordingPublish) -> None:
        self.execute = RecordingExecute()
        self.units: list[InMemoryUnitOfWork] = []
        self.recorded: list[Any] = []
        self._publish = publish

    def unit_of_work(self, factory: Any = None, /) -> InMemoryUnitOfWork:
        """Return a unit of work that publishes into the recorder."""
        unit = InMemoryUnitOfWork()
        unit.publish = self._publish
        unit.events = self.recorded
        self.units.append(unit)
        return unit

    def record(self, session: object, event: object, /) -> None:
        """Keep a domain event; the session is not looked at."""
        self.recorded.append(event)

    def track(self, session: object, aggregate: object, /) -> None:
        """Keep what an object has recorded so far; the session is not looked at."""
        self.recorded += [event for waiting in waiting_of(aggregate) for event in waiting.pull()]
