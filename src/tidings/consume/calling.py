"""Calling one handler function with what it asks for."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from sqlalchemy.orm import Session

from tidings.codecs.cap import CALLBACK, ID
from tidings.consume.bridge import in_bridged_thread
from tidings.consume.deadline import Deadline
from tidings.consume.failures import printable
from tidings.consume.filters import Filters
from tidings.consume.guard import SessionGuard
from tidings.consume.injection import Need, Parameter, Plan
from tidings.consume.providers import entered
from tidings.context.binding import common, current_envelope
from tidings.envelope import Envelope
from tidings.errors import NoTransaction, TransactionEnded
from tidings.publish.headers import can_travel, written
from tidings.publish.outgoing import Outgoing
from tidings.publish.publish import Publish
from tidings.publish.publisher import Publisher
from tidings.publish.session import capture, publish_in
from tidings.publish.session_buffer import SessionBuffer, flush_until_clean, hears_nobody
from tidings.publish.sqlalchemy_state import open_savepoints, rolled_back_savepoints
from tidings.stores.sql.connections import Connections, Held, in_thread

__all__ = ["AFTER", "HandlerFailed", "Scope", "call", "resolve", "resolve_simply", "resolve_sync"]

logger = logging.getLogger("tidings.consume")

# Names of the module: looking up a member of an Enum costs ten times as much, for each parameter of each event.
_SESSION, _ASYNC_SESSION, _ASYNC_CONNECTION = Need.SESSION, Need.ASYNC_SESSION, Need.ASYNC_CONNECTION
_DRIVER, _ENVELOPE, _ENVELOPES, _PUBLISH = Need.DRIVER, Need.ENVELOPE, Need.ENVELOPES, Need.PUBLISH

#: Where a handler's session keeps its `Scope`, for what has to wait until the transaction that it joined has ended.
AFTER = "_tidings_after_commit"


class HandlerFailed(Exception):
    """A handler raised; `error` is what. With `ran` false it had not begun."""

    def __init__(self, error: BaseException, *, ran: bool = True) -> None:
        super().__init__(type(error).__name__)
        self.error = error
        self.ran = ran


class Scope:
    """What a handler runs in: the transaction's connection (None for a plain handler), and what it publishes."""

    __slots__ = (
        "_connections",
        "_open",
        "_publisher",
        "_savepoints",
        "_sessions",
        "_shared",
        "_works",
        "after",
        "held",
        "outgoing",
        "works",
    )

    def __init__(self, connections: Connections, publisher: Publisher, held: Held | None, *, one_session: bool = False) -> None:
        self._connections = connections
        self._publisher = publisher
        self.held = held
        self.outgoing: list[Outgoing] = []
        self._works: list[Any] = []
        #: What to call once the transaction has committed.
        self.after: list[Callable[[], None]] = []
        #: What to tell how the transaction has ended.
        self.works: list[Any] = []
        #: The savepoints of the connection that were open when an event was published, by its index; few handlers open any.
        self._savepoints: dict[int, tuple[str, ...]] = {}
        self._open = True
        self._shared = one_session
        self._sessions: dict[type[Any], HandlerSession] = {}

    def session(self, kind: type[Any], *, asynchronous: bool) -> HandlerSession:
        """Return the session of this class for a call: a fresh one, or the one that the calls of this transaction share."""
        found = self._sessions.get(kind)
        if found is None:
            assert self.held is not None
            bind = self.held.asynchronous if asynchronous else self.held.sync
            options: dict[str, Any] = {}
            made_by = kind
            domain = self._publisher.domain
            if domain is not None and not domain.empty:
                if asynchronous:
                    options["sync_session_class"] = domain.session_class(kind.sync_session_class)
                else:
                    made_by = domain.session_class(kind)
            session = made_by(bind=bind, expire_on_commit=False, join_transaction_mode="rollback_only", **options)
            vars(getattr(session, "sync_session", session))[AFTER] = self
            found = HandlerSession(session, self.outgoing, self._shared)
            if self._shared:
                self._sessions[kind] = found
        return found

    def stands_in_the_way(self, kind: type[Any] | None) -> bool:
        """Return whether another session than one of this class holds what a call with it, or without any, has to find written."""
        return bool(self._sessions) and kind not in self._sessions

    async def finish(self) -> None:
        """Flush what shared sessions still hold; whoever asks for one then gets a fresh one.

        Raises:
            TransactionEnded: a handler ended the session's transaction.
        """
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            if session.asynchronous:
                await session.session.run_sync(lambda _, end=session.end: end())
            else:
                await self.in_thread(session.end)

    async def in_thread(self, function: Callable[[], None]) -> None:
        """Run a function in a thread that may use the connection."""
        executor = self._connections.executor
        if self.held is not None and self.held.asynchronous is not None:
            await in_bridged_thread(executor, function)
        else:
            await in_thread(executor, function)

    def publish(self, session: Any) -> Publish:
        """Return the `Publish` of this transaction: as `service.publish` on the handler's session, if it has one."""
        target = getattr(session, "sync_session", session)
        return Publish(self._publisher, lambda outgoing: self._accept(outgoing, target))

    def reply(self, event: Any, envelope: Envelope, session: Any) -> None:
        """Publish what a handler returned, if its event asks for a reply by a topic that this event goes to.

        Whoever can send messages must not choose freely where we publish: any other topic gets no reply.
        """
        topic = envelope.headers.get(CALLBACK)
        if not topic:
            return
        outgoing = self._publisher.prepare(event, context=envelope)
        if outgoing.topic != topic:
            logger.warning(
                "%s %s asks for a reply to %s, and %s goes to %s: it gets none", envelope.name, envelope.id, printable(topic, 80),
                type(event).__name__, outgoing.topic, extra={"event_id": str(envelope.id)},
            )  # fmt: skip
            return
        headers = json.loads(outgoing.headers)
        correlation = envelope.headers.get(ID, "")
        headers["correlationid"] = correlation if can_travel(correlation) else str(envelope.id)
        self._accept(outgoing._replace(headers=written(headers)), getattr(session, "sync_session", session))

    def execute(self, session: Any, need: Need) -> Any:
        """Return what executes commands in the handler's session."""
        domain = self._publisher.domain
        assert domain is not None
        return domain.execute_in(getattr(session, "sync_session", session), need is Need.EXECUTE, self._works)

    def check_commands(self) -> None:
        """Look whether a command has failed whose failure the handler has caught.

        Raises:
            UnitOfWorkRolledBack: one has; what it had done is in the handler's transaction.
        """
        works, self._works = self._works, []
        for work in works:
            work.close()
        for work in works:
            work.check()

    async def end(self, committed: bool) -> None:
        """Tell those who wait for it how the transaction has ended."""
        works, self.works = self.works, []
        for work in works:
            if self._connections.asynchronous:
                await work.end(committed)
            else:
                await in_thread(self._connections.executor, work.end_here, committed)

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
        """Refuse what is published and executed from now on."""
        self._open = False
        for work in self._works:
            work.close()


class HandlerSession:
    """A session on the connection of the handler transaction.

    Attributes:
        session: what the handler gets.
        shared: whether several calls use it, one after another.
    """

    __slots__ = ("_guard", "_sync", "asynchronous", "session", "shared")

    def __init__(self, session: Any, outgoing: list[Outgoing], shared: bool) -> None:
        self.session = session
        self.asynchronous = hasattr(session, "sync_session")
        self._sync: Session = session.sync_session if self.asynchronous else session
        self.shared = shared
        capture(self._sync, outgoing.extend)
        self._guard = SessionGuard(self._sync)

    def check(self) -> None:
        """Look whether the handler has left the session as it must.

        Raises:
            TransactionEnded: it ended the session's transaction, or left a savepoint open for the next event.
        """
        self._guard.check()
        if self.shared and self._sync.in_nested_transaction():
            raise TransactionEnded("the handler left a savepoint open in a session that the next event shares: leave its block")

    def end(self) -> None:
        """Commit the session into the transaction that it joined: a flush, and its published events come out. That transaction goes on."""
        self._guard.check()
        session = self._sync
        if session.in_transaction():
            # A commit that nobody would notice is left out: what it does besides flushing costs as much as a small handler. Closing takes
            # nothing back: the connection's transaction is not the session's to end. An open savepoint would be.
            if self._needs_no_commit():
                flush_until_clean(session)
            if not self._needs_no_commit():  # the flush may have published
                session.commit()
        session.close()

    def _needs_no_commit(self) -> bool:
        session = self._sync
        # A session in which a flush has failed refuses to commit.
        buffer = SessionBuffer.of(session)
        return (
            buffer.pending is None
            and (buffer.stage is None or buffer.stage.idle)
            and session.is_active
            and not session.in_nested_transaction()
            and hears_nobody(session)
        )


async def call(
    plan: Plan, event: Any, envelope: Envelope | list[Envelope], scope: Scope, deadline: Deadline, filters: Filters | None = None
) -> None:
    """Call a handler with an event (or a list of them) and wait for it.

    Raises:
        TimeoutError: it took too long. A thread is waited for all the same: it cannot be stopped.
    """
    if scope._sessions and scope.stands_in_the_way(plan.session):
        # Effects and events stand in the order of the calls.
        with deadline:
            await scope.finish()
    token = current_envelope.set(common(envelope) if isinstance(envelope, list) else envelope)
    try:
        # A handler may swallow its cancellation. It has not succeeded for that (invariant 11).
        with deadline:
            if filters is not None:
                run = _call_async if plan.asynchronous else _call_sync
                await filters.around(plan, event, envelope, lambda: run(plan, event, envelope, scope))
            elif plan.asynchronous:
                await _call_async(plan, event, envelope, scope)
            else:
                await _call_sync(plan, event, envelope, scope)
    finally:
        current_envelope.reset(token)


async def _call_async(plan: Plan, event: Any, envelope: Any, scope: Scope) -> None:
    result: Any = None
    used = None if plan.session is None else scope.session(plan.session, asynchronous=True)
    session = None if used is None else used.session
    if plan.simple:
        values: dict[str, Any] = {}
        for parameter in plan.parameters:
            values[parameter.name] = resolve_simply(parameter, envelope, scope, session)
        result = await plan.function(event, **values)
    else:
        error: BaseException | None = None
        async with AsyncExitStack() as stack:
            values = {p.name: await resolve(p, envelope, scope, session, stack) for p in plan.parameters}
            try:
                result = await plan.function(event, **values)
            except BaseException as raised:
                error = raised
                raise
        if error is not None:
            raise error  # a provider's context manager swallowed it: the handler has failed all the same
    if plan.replies and result is not None:
        scope.reply(result, envelope, session)
    if scope._works:
        scope.check_commands()
    if used is not None:
        used.check()
        if not used.shared:
            await used.session.run_sync(lambda _: used.end())


async def _call_sync(plan: Plan, event: Any, envelope: Any, scope: Scope) -> None:
    def run() -> None:
        used = None if plan.session is None else scope.session(plan.session, asynchronous=False)
        session = None if used is None else used.session
        result: Any = None
        error: BaseException | None = None
        with ExitStack() as stack:
            values = {p.name: resolve_sync(p, envelope, scope, session, stack) for p in plan.parameters}
            try:
                result = plan.function(event, **values)
            except BaseException as raised:
                error = raised
                raise
        if error is not None:
            raise error  # a provider's context manager swallowed it: the handler has failed all the same
        if hasattr(result, "__await__"):
            raise TypeError(f"{plan.function!r} is a plain def but returned an awaitable: make it async def")
        if plan.replies and result is not None:
            scope.reply(result, envelope, session)
        scope.check_commands()
        if used is not None:
            used.check()
            if not used.shared:
                used.end()

    await scope.in_thread(run)


def resolve_simply(parameter: Parameter, envelope: Any, scope: Any, session: Any) -> Any:
    """Return what a parameter stands for that no factory provides."""
    need = parameter.need
    if need is _SESSION or need is _ASYNC_SESSION:
        return session
    if need is _DRIVER:
        return scope.held.sync.connection.driver_connection
    if need is _ASYNC_CONNECTION:
        return scope.held.asynchronous
    if need is _ENVELOPE or need is _ENVELOPES:
        return envelope
    if need is _PUBLISH:
        return scope.publish(session)
    if need is Need.CONNECTION:
        return scope.held.sync
    if need is Need.PROVIDED:
        assert parameter.provider is not None
        return parameter.provider.value
    return scope.execute(session, need)


async def resolve(parameter: Parameter, envelope: Any, scope: Any, session: Any, stack: AsyncExitStack) -> Any:
    """Return what a parameter of an async function stands for; what has to be left after the call goes on the stack."""
    factory = _factory(parameter)
    if factory is None:
        return resolve_simply(parameter, envelope, scope, session)
    inner = {p.name: await resolve(p, envelope, scope, session, stack) for p in parameter.inner}
    made = factory(**inner)
    if hasattr(made, "__await__"):
        made = await made
    if not entered(made):
        return made
    if hasattr(made, "__aenter__"):
        return await stack.enter_async_context(made)
    return stack.enter_context(made)


def resolve_sync(parameter: Parameter, envelope: Any, scope: Any, session: Any, stack: ExitStack) -> Any:
    """Return what a parameter of a plain function stands for; what has to be left after the call goes on the stack."""
    factory = _factory(parameter)
    if factory is None:
        return resolve_simply(parameter, envelope, scope, session)
    inner = {p.name: resolve_sync(p, envelope, scope, session, stack) for p in parameter.inner}
    made = factory(**inner)
    return stack.enter_context(made) if entered(made) else made


def _factory(parameter: Parameter) -> Callable[..., Any] | None:
    return parameter.provider.factory if parameter.provider is not None else None
