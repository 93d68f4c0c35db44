"""Executing commands: through a list of behaviours to the one handler, in the unit of work."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.util import await_only

from tidings.consume.calling import AFTER
from tidings.consume.execute import Execute, ExecuteSync
from tidings.consume.injection import Need, Plan, is_asynchronous, label_of, plan
from tidings.domain.calling import call_with, call_with_sync
from tidings.domain.outcome import Outcome, Yielded, outcome_of, returns_events, value_hint
from tidings.domain.stage import DomainStage
from tidings.domain.unit_of_work import Work, can_await, current_work, drive, joined, work_of
from tidings.domain.validation import ValidationError, validation_errors
from tidings.errors import ConfigurationError, UnresolvedParameter
from tidings.publish.session import publish
from tidings.stores.sql.connections import in_thread

if TYPE_CHECKING:
    from tidings.domain.dispatch import Domain
    from tidings.stores.sql.store import SQLStore

__all__ = ["Behaviour", "Call", "Commands", "Proceed"]

#: What a behaviour calls to go on: the next behaviour, and in the end the handler. It returns what the handler returned.
Proceed = Callable[[], Awaitable[Any]]


class Behaviour(Protocol):
    """A step that every command goes through: any `async def behaviour(call, proceed)` that returns `await proceed()`."""

    async def __call__(self, call: Call, proceed: Proceed, /) -> Any: ...


@dataclass(slots=True)
class Call:
    """One execution of a command, as behaviours see it.

    Attributes:
        command: the command.
        idempotency_key: the key that it was given, if any.
        handler: the name of its handler, for messages.
        nested: whether it is executed inside the unit of work of something else.
        repeated: whether its key was known, so that the handler was not called.
        succeeding: called in the transaction once the handler has succeeded.
    """

    command: Any
    idempotency_key: str | None
    handler: str
    nested: bool
    entry: Entry
    commands: Commands
    blocking: bool
    repeated: bool = False
    succeeding: list[Callable[[Work], Awaitable[None]]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the command is called."""
        return type(self.command).__qualname__

    @property
    def commits_on_err(self) -> bool:
        """Whether an `Err` is committed too."""
        return self.entry.commit_on_err

    async def validate(self) -> list[ValidationError]:
        """Call the validators of the command; return what they say."""
        return await self.commands.validate(self)


@dataclass(frozen=True, slots=True)
class Entry:
    """The handler of one class of commands, ready to be called."""

    plan: Plan
    label: str
    commit_on_err: bool
    declared: bool
    value_hint: Any


class _Compiled:
    def __init__(self, domain: Domain) -> None:
        self.handlers: dict[type[Any], Entry] = {}
        self.validators: list[tuple[type[Any], Plan, str]] = []
        types = domain.types
        for declared in [each for side in domain.sides for each in side.commands]:
            if declared.command in self.handlers:
                raise ConfigurationError(
                    f"{declared.command.__qualname__} has two handlers, {self.handlers[declared.command].label} and {label_of(declared.function)}: "
                    "a command has one. Remove the other, or make what happened an event, which may have many"
                )
            if declared.command in types:
                raise ConfigurationError(
                    f"{label_of(declared.function)} handles {declared.command.__qualname__} as a command, and it is the integration event "
                    f"{types[declared.command]}: subscribe to it, @handlers.subscribe({declared.command.__name__})"
                )
            resolved, label = _plan(declared.function, declared.command, domain), label_of(declared.function)
            self.handlers[declared.command] = Entry(
                resolved, label, declared.commit_on_err, returns_events(resolved.returns, types), value_hint(resolved.returns, types)
            )
        for validator in [each for side in domain.sides for each in side.validators]:
            self.validators.append((validator.command, _plan(validator.function, validator.command, domain), label_of(validator.function)))


def _plan(function: Any, command: type[Any], domain: Domain) -> Plan:
    resolved = plan(function, (command,), None, domain.providers, async_engine=is_asynchronous(function), yields=True)
    for parameter in resolved.parameters:
        if parameter.need is Need.ENVELOPE:
            raise UnresolvedParameter(f"{label_of(function)}: parameter {parameter.name!r} cannot be resolved: a command has no envelope")
    return resolved


class Commands:
    """Executes the commands of one service.

    Args:
        behaviours: the steps from the outside inward.
    """

    def __init__(self, domain: Domain, store: SQLStore, behaviours: Sequence[Behaviour]) -> None:
        for behaviour in behaviours:
            if isinstance(behaviour, type) or not callable(behaviour):
                raise ConfigurationError(
                    f"Service behaviours has {behaviour!r}: give instances, as in Validation(), or async functions of (call, proceed)"
                )
        self.domain = domain
        self.store = store
        self.behaviours = tuple(behaviours)
        self._compiled: _Compiled | None = None
        self._size = -1

    def move(self, store: SQLStore) -> None:
        """Work with another store from now on."""
        self.store = store
        self._compiled = None

    @property
    def audited(self) -> bool:
        """Whether executions are written down."""
        return any(getattr(behaviour, "keeps_audit", False) for behaviour in self.behaviours)

    @property
    def blocking(self) -> bool:
        """Whether all sessions are synchronous, so that commands run in a thread."""
        factories = [getattr(factory, "session_factory", factory) for factory in self.domain.factories]
        return bool(factories) and not any(isinstance(factory, async_sessionmaker) for factory in factories)

    def compile(self) -> _Compiled:
        """Resolve and check handlers and validators; again if more were declared meanwhile.

        Raises:
            ConfigurationError: a command has two handlers, or a function cannot be called.
        """
        sides = self.domain.sides
        size = sum(len(side.commands) + len(side.validators) for side in sides)
        if self._compiled is None or size != self._size:
            self.domain.compile()
            compiled = _Compiled(self.domain)
            if self.blocking:
                entries = [(entry.plan, entry.label) for entry in compiled.handlers.values()]
                for resolved, label in [*entries, *((resolved, label) for _, resolved, label in compiled.validators)]:
                    if resolved.asynchronous:
                        raise ConfigurationError(
                            f"{label} is async, and the attached session factory is synchronous: write it with def, or attach an async_sessionmaker"
                        )
            self._compiled, self._size = compiled, size
        return self._compiled

    async def execute(self, command: Any, key: str | None = None) -> Any:
        """Execute a command; with synchronous sessions, in a thread."""
        if self.blocking:
            result: list[Any] = []
            await in_thread(self.store.connections.executor, lambda: result.append(self.execute_sync(command, key)))
            return result[0]
        return await self.run(command, key, blocking=False)

    def execute_sync(self, command: Any, key: str | None = None) -> Any:
        """Execute a command here and now.

        Raises:
            ConfigurationError: it begins a unit of work, or is written down by `Audit`, and that is asynchronous here.
        """
        if self.audited and self.store.connections.asynchronous and not self.blocking and current_work(self.domain) is None:
            raise ConfigurationError(
                "Audit() writes to a store with an asynchronous engine: `await service.execute(...)`, or attach a sessionmaker"
            )
        return drive(self.run(command, key, blocking=True))

    def inside(self, session: Any, *, asynchronous: bool, works: list[Work]) -> Execute | ExecuteSync:
        """Return what executes commands in a session that somebody else commits.

        Args:
            works: takes what has to be asked, when the handler has returned, whether a command has failed.
        """
        work = work_of(session)
        works.append(work)

        if asynchronous:

            async def execute(command: Any, key: str | None) -> Any:
                with self._joining(work):
                    return await self.run(command, key, blocking=False)

            return Execute(execute)

        def execute_sync(command: Any, key: str | None) -> Any:
            with self._joining(work):
                return drive(self.run(command, key, blocking=True))

        return ExecuteSync(execute_sync)

    @contextmanager
    def _joining(self, work: Work) -> Iterator[None]:
        """Let a command join a transaction that somebody else ends, and see to it that its end is heard of if somebody waits for it."""
        try:
            with joined(self.domain, work):
                yield
        finally:
            if work.finished and not work.watched:
                work.watched = True
                scope = vars(work.sync).get(AFTER)
                if scope is not None:
                    scope.works.append(work)
                else:
                    DomainStage.of(work.sync, self.domain).watch(work.sync, work)

    async def run(self, command: Any, key: str | None, *, blocking: bool) -> Any:
        """Lead a command through the behaviours to its handler."""
        entry = self.compile().handlers.get(type(command))
        if entry is None and isinstance(command, type):
            raise ConfigurationError(f"execute was given the class {command.__qualname__}: give a command, {command.__name__}(...)")
        if entry is None:
            raise ConfigurationError(
                f"service {self.domain.service!r} has no handler for the command {type(command).__qualname__}: write one with "
                f"@handlers.handles({type(command).__name__}), and give its Subscriptions to the service"
            )
        if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 200 or not key.isprintable()):
            # In short: it may be a whole request body.
            raise ConfigurationError(f"idempotency_key={reprlib.repr(key)} is not a text of 1 to 200 printable characters")
        if key is not None and not any(getattr(behaviour, "keeps_keys", False) for behaviour in self.behaviours):
            raise ConfigurationError("idempotency_key was given, and the service has no Idempotency() among its behaviours")
        work = current_work(self.domain)
        call = Call(command, key, entry.label, work is not None, entry, self, blocking)
        try:
            return await self._step(call, 0)
        except BaseException as error:
            if work is not None:
                work.fail(error)
            raise

    async def _step(self, call: Call, number: int) -> Any:
        if number == len(self.behaviours):
            return await self._handle(call)
        return await self.behaviours[number](call, lambda: self._step(call, number + 1))

    async def _handle(self, call: Call) -> Any:
        entry = call.entry
        work = current_work(self.domain)
        if entry.plan.transactional and work is None:
            raise ConfigurationError(f"{entry.label} needs a transaction: put Transactional() into Service(behaviours=[...])")
        result = await self.call(entry.plan, call, work)
        outcome: Outcome = outcome_of(result, self.domain.types, entry.label, declared=entry.declared)
        if outcome.events and (not outcome.failed or entry.commit_on_err):
            if work is None:
                raise ConfigurationError(f"{entry.label} publishes events: put Transactional() into Service(behaviours=[...])")
            for event in outcome.events:
                publish(self.domain.publisher, work.sync, event)
        return outcome.value

    async def validate(self, call: Call) -> list[ValidationError]:
        """Call the validators of a command."""
        found: list[ValidationError] = []
        work = current_work(self.domain)
        for command, resolved, label in self.compile().validators:
            if isinstance(call.command, command):
                if resolved.transactional and work is None:
                    async with self.domain.unit_of_work(blocking=call.blocking) as unit:
                        result = await self.call(resolved, call, current_work(self.domain))
                        unit.rollback()
                else:
                    result = await self.call(resolved, call, work)
                if isinstance(result, Yielded):
                    result = [*result.items, *([] if result.value is None else [result.value])]
                found += validation_errors(result, label)
        return found

    async def call(self, resolved: Plan, call: Call, work: Work | None) -> Any:
        """Call a handler or validator with what it asks for, in the way that fits it and the session."""
        domain, session = self.domain, None if work is None else work.sync
        if resolved.asynchronous:
            if not call.blocking:
                return await call_with(domain, resolved, call.command, session)
            if not can_await():
                raise ConfigurationError(f"{label_of(resolved.function)} is async, and nobody can await it here: write it with def")
            return await_only(call_with(domain, resolved, call.command, session))
        if work is not None and isinstance(work.session, AsyncSession) and not call.blocking:
            result = await work.session.run_sync(lambda found: call_with_sync(domain, resolved, call.command, found))
        else:
            result = call_with_sync(domain, resolved, call.command, session)
        if inspect.isawaitable(result):
            raise ConfigurationError(f"{label_of(resolved.function)} is a plain def but returned an awaitable: make it async def")
        return result
