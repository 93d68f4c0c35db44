"""Calling one handler function with what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from sqlalchemy.orm import Session

from tidings.consume.bridge import in_bridged_thread
from tidings.consume.deadline import Deadline
from tidings.consume.guard import SessionGuard
from tidings.consume.injection import Need, Parameter, Plan
from tidings.consume.providers import entered
from tidings.envelope import Envelope
from tidings.errors import NoTransaction
from tidings.publish.context import current_envelope
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import Publish
from tidings.publish.publisher import Publisher
from tidings.publish.session import capture, publish_in
from tidings.publish.session_buffer import SessionBuffer, flush_until_clean, hears_nobody
from tidings.publish.sqlalchemy_state import open_savepoints, rolled_back_savepoints
from tidings.stores.sql.connections import Connections, Held, in_thread

__all__ = ["HandlerFailed", "Scope", "call"]


class HandlerFailed(Exception):
    """A handler raised; `error` is what. With `ran` false it had not begun."""

    def __init__(self, error: BaseException, *, ran: bool = True) -> None:
        super().__init__(type(error).__name__)
        self.error = error
        self.ran = ran


class Scope:
    """What a handler runs in: the transaction's connection (None for a plain handler), and what it publishes."""

    __slots__ = ("_connections", "_open", "_publisher", "_savepoints", "held", "outgoing")

    def __init__(self, connections: Connections, publisher: Publisher, held: Held | None) -> None:
        self._connections = connections
        self._publisher = publisher
        self.held = held
        self.outgoing: list[Outgoing] = []
        #: The savepoints of the connection that were open when an event was published, by its index; few handlers open any.
        self._savepoints: dict[int, tuple[str, ...]] = {}
        self._open = True

    @property
    def connections(self) -> Connections:
        """Where threads and engine are."""
        return self._connections

    def publish(self, session: Any) -> Publish:
        """Return the `Publish` of this transaction: as `service.publish` on the handler's session, if it has one."""
        target = getattr(session, "sync_session", session)
        return Publish(self._publisher, lambda outgoing: self._accept(outgoing, target))

    def published(self) -> list[Outgoing]:
        """Return what was published and not taken back by a savepoint, in order."""
        if not self._savepoints or self.held is None:
            return self.outgoing
        gone = rolled_back_savepoints(self.held.sync)
        return [each for index, each in enumerate(self.outgoing) if gone.isdisjoint(self._savepoints.get(index, ()))]

    def _accept(self, outgoing: Outgoing, session: Any) -> None:
        if not self._open:
            raise NoTransaction("this Publish belongs to a handler that has returned: publish inside the handler, before it returns")
        if session is not None and (session.in_nested_transaction() or SessionBuffer.of(session).pending is not None):
            # Its savepoint decides, and what was published on the session before comes first.
            publish_in(self._publisher, session, outgoing)
            return
        if self.held is not None and self.held.sync.get_nested_transaction() is not None:
            self._savepoints[len(self.outgoing)] = open_savepoints(self.held.sync)
        self.outgoing.append(outgoing)

    def close(self) -> None:
        """Refuse what is published from now on."""
        self._open = False


async def call(plan: Plan, event: Any, envelope: Envelope | list[Envelope], scope: Scope, deadline: Deadline) -> None:
    """Call a handler with an event (or a list of them) and wait for it.

    Raises:
        TimeoutError: it took too long. A thread is waited for all the same: it cannot be stopped.
    """
    token = current_envelope.set(envelope[0] if isinstance(envelope, list) else envelope)
    try:
        # A handler may swallow its cancellation. It has not succeeded for that (invariant 11).
        with deadline:
            if plan.asynchronous:
                await _call_async(plan, event, envelope, scope)
            else:
                await _call_sync(plan, event, envelope, scope)
    finally:
        current_envelope.reset(token)


async def _call_async(plan: Plan, event: Any, envelope: Any, scope: Scope) -> None:
    session = guard = None
    if plan.session is not None:
        assert scope.held is not None
        session = plan.session(bind=scope.held.asynchronous, expire_on_commit=False, join_transaction_mode="rollback_only")
        capture(session.sync_session, scope.outgoing.extend)
        guard = SessionGuard(session.sync_session)
    if plan.simple:
        values = {p.name: _value(p, envelope, scope, session) for p in plan.parameters}
        await plan.function(event, **values)
    else:
        error: BaseException | None = None
        async with AsyncExitStack() as stack:
            values = {p.name: await _resolve(p, envelope, scope, session, stack) for p in plan.parameters}
            try:
                await plan.function(event, **values)
            except BaseException as raised:
                error = raised
                raise
        if error is not None:
            raise error  # a provider's context manager swallowed it: the handler has failed all the same
    if session is not None and guard is not None:
        guard.check()
        await session.run_sync(_end)


async def _call_sync(plan: Plan, event: Any, envelope: Any, scope: Scope) -> None:
    def run() -> None:
        session = guard = None
        if plan.session is not None:
            assert scope.held is not None
            session = plan.session(bind=scope.held.sync, expire_on_commit=False, join_transaction_mode="rollback_only")
            capture(session, scope.outgoing.extend)
            guard = SessionGuard(session)
        result: Any = None
        error: BaseException | None = None
        with ExitStack() as stack:
            values = {p.name: _resolve_sync(p, envelope, scope, session, stack) for p in plan.parameters}
            try:
                result = plan.function(event, **values)
            except BaseException as raised:
                error = raised
                raise
        if error is not None:
            raise error  # a provider's context manager swallowed it: the handler has failed all the same
        if hasattr(result, "__await__"):
            raise TypeError(f"{plan.function!r} is a plain def but returned an awaitable: make it async def")
        if session is not None and guard is not None:
            guard.check()
            _end(session)

    executor = scope.connections.executor
    if scope.held is not None and scope.held.asynchronous is not None:
        await in_bridged_thread(executor, run)
    else:
        await in_thread(executor, run)


def _end(session: Session) -> None:
    # Commits the session into the transaction that it joined: a flush, and its published events come out. The transaction goes on.
    if session.in_transaction():
        if SessionBuffer.of(session).pending is None and hears_nobody(session):
            # A commit that nobody would notice: what it does besides flushing costs as much as a small handler.
            flush_until_clean(session)
        else:
            session.commit()
    session.close()


def _value(parameter: Parameter, envelope: Any, scope: Scope, session: Any) -> Any:
    need = parameter.need
    if need is Need.ENVELOPE or need is Need.ENVELOPES:
        return envelope
    if need is Need.SESSION or need is Need.ASYNC_SESSION:
        return session
    if need is Need.PUBLISH:
        return scope.publish(session)
    if need is Need.PROVIDED:
        assert parameter.provider is not None
        return parameter.provider.value
    assert scope.held is not None
    if need is Need.CONNECTION:
        return scope.held.sync
    if need is Need.ASYNC_CONNECTION:
        return scope.held.asynchronous
    return scope.held.sync.connection.driver_connection


async def _resolve(parameter: Parameter, envelope: Any, scope: Scope, session: Any, stack: AsyncExitStack) -> Any:
    factory = _factory(parameter)
    if factory is None:
        return _value(parameter, envelope, scope, session)
    inner = {p.name: await _resolve(p, envelope, scope, session, stack) for p in parameter.inner}
    made = factory(**inner)
    if hasattr(made, "__await__"):
        made = await made
    if not entered(made):
        return made
    if hasattr(made, "__aenter__"):
        return await stack.enter_async_context(made)
    return stack.enter_context(made)


def _resolve_sync(parameter: Parameter, envelope: Any, scope: Scope, session: Any, stack: ExitStack) -> Any:
    factory = _factory(parameter)
    if factory is None:
        return _value(parameter, envelope, scope, session)
    inner = {p.name: _resolve_sync(p, envelope, scope, session, stack) for p in parameter.inner}
    made = factory(**inner)
    return stack.enter_context(made) if entered(made) else made


def _factory(parameter: Parameter) -> Callable[..., Any] | None:
    return parameter.provider.factory if parameter.provider is not None else None
