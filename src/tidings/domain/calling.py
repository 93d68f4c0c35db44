"""Calling the handlers of domain events: inside the transaction that is about to commit, or after it."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import AsyncExitStack, ExitStack
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_session
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from tidings.consume.calling import resolve, resolve_simply, resolve_sync
from tidings.consume.injection import Need, Plan
from tidings.domain.outcome import Yielded
from tidings.domain.reactions import Handler
from tidings.domain.unit_of_work import can_await
from tidings.errors import ConfigurationError
from tidings.publish.publish import Publish
from tidings.publish.session import publish_in

if TYPE_CHECKING:
    from tidings.domain.dispatch import Domain
    from tidings.domain.stage import DomainStage, Recorded

__all__ = ["Inside", "call_after", "call_inside", "call_with", "call_with_sync", "can_await"]

logger = logging.getLogger("tidings.domain")


class _Held:
    """The connection of a session, as what is injected asks for it."""

    def __init__(self, session: Session, asynchronous: AsyncConnection | None = None) -> None:
        self._session = session
        self.asynchronous = asynchronous

    @property
    def sync(self) -> Connection:
        return self._session.connection()


class Inside:
    """What is injected into a function that runs in a session's transaction, or outside any (None)."""

    def __init__(self, domain: Domain, session: Session | None) -> None:
        self._domain = domain
        self._session = session
        self._works: list[Any] = []
        self.held: _Held | None = None if session is None else _Held(session)

    def publish(self, _: Any) -> Publish:
        """Return a `Publish` of this transaction."""
        publisher, session = self._domain.publisher, self._session
        assert session is not None
        return Publish(publisher, lambda outgoing: publish_in(publisher, session, outgoing))

    def execute(self, _: Any, need: Need) -> Any:
        """Return what executes commands in this transaction."""
        assert self._session is not None
        return self._domain.execute_in(self._session, need is Need.EXECUTE, self._works)

    def close(self) -> None:
        """The function has returned: its commands join no more."""
        for work in self._works:
            work.close()

    def check(self) -> None:
        """Look whether a command has failed whose failure was caught, or still runs."""
        self.close()
        for work in self._works:
            work.check()


def call_inside(domain: Domain, handler: Handler, recorded: Recorded, session: Session, stage: DomainStage) -> None:
    """Call a handler in the transaction that is about to commit.

    Raises:
        ConfigurationError: it is async, and nobody can await it.
    """
    stage.current = recorded, handler.label
    plan = handler.plan
    try:
        if not plan.asynchronous:
            result = call_with_sync(domain, plan, recorded.event, session)
            if hasattr(result, "__await__"):
                raise TypeError(f"{handler.label} is a plain def but returned an awaitable: make it async def")
        elif can_await():
            await_only(call_with(domain, plan, recorded.event, session))
        else:
            raise ConfigurationError(
                f"{handler.label} is async, and this session is synchronous and cannot await it: write it with def, use an AsyncSession, or handle "
                "the event after the commit, phase='after_commit'"
            )
    except Exception as error:
        error.add_note(f"in {handler.label}, about the domain event {type(recorded.event).__qualname__}")
        raise
    finally:
        stage.current = None


def call_after(domain: Domain, handler: Handler, event: Any) -> None:
    """Call a best-effort handler; what it raises is logged and counted."""
    try:
        if not handler.plan.asynchronous:
            call_with_sync(domain, handler.plan, event, None)
        elif can_await():
            await_only(call_with(domain, handler.plan, event, None))
        else:
            raise ConfigurationError(f"{handler.label} is async, and the session that has committed is synchronous: write it with def")
    except Exception as error:
        domain.counters.add("", "best_effort_failed")
        logger.exception(
            "%s failed after the commit, and is not called again: best effort", handler.label,
            extra={"event_class": type(event).__qualname__, "error_type": type(error).__qualname__},
        )  # fmt: skip


async def call_with(domain: Domain, plan: Plan, subject: Any, session: Session | None) -> Any:
    """Call an async function with what it asks for; return what it returns."""
    inside = Inside(domain, session)
    try:
        return await _call_with(inside, plan, subject, session)
    finally:
        inside.close()


async def _call_with(inside: Inside, plan: Plan, subject: Any, session: Session | None) -> Any:
    given: AsyncSession | None = None
    if session is not None and plan.transactional:
        given = async_session(session)
        if given is None and any(parameter.need in (Need.ASYNC_SESSION, Need.ASYNC_CONNECTION) for parameter in plan.parameters):
            raise ConfigurationError(f"{plan.function!r} asks for an AsyncSession, and the transaction belongs to a synchronous one")
        _check_kind(plan, given)
        assert inside.held is not None
        if given is not None and any(parameter.need is Need.ASYNC_CONNECTION for parameter in plan.parameters):
            inside.held.asynchronous = await given.connection()
    if plan.simple:
        values = {p.name: resolve_simply(p, None, inside, given) for p in plan.parameters}
        made = plan.function(subject, **values)
        result = Yielded([item async for item in made], None) if hasattr(made, "__aiter__") else await made
        inside.check()
        return result
    error: BaseException | None = None
    result = None
    async with AsyncExitStack() as stack:
        values = {p.name: await resolve(p, None, inside, given, stack) for p in plan.parameters}
        try:
            made = plan.function(subject, **values)
            result = Yielded([item async for item in made], None) if hasattr(made, "__aiter__") else await made
        except BaseException as raised:
            error = raised
            raise
    if error is not None:
        raise error  # a provider's context manager swallowed it: the handler has failed all the same
    inside.check()
    return result


def call_with_sync(domain: Domain, plan: Plan, subject: Any, session: Session | None) -> Any:
    """Call a plain function with what it asks for; return what it returns."""
    inside = Inside(domain, session)
    try:
        return _call_with_sync(inside, plan, subject, session)
    finally:
        inside.close()


def _call_with_sync(inside: Inside, plan: Plan, subject: Any, session: Session | None) -> Any:
    _check_kind(plan, session)
    if plan.simple:
        result = plan.function(subject, **{p.name: resolve_simply(p, None, inside, session) for p in plan.parameters})
        if isinstance(result, GeneratorType):
            result = _exhausted(result)
        inside.check()
        return result
    error: BaseException | None = None
    result = None
    with ExitStack() as stack:
        values = {p.name: resolve_sync(p, None, inside, session, stack) for p in plan.parameters}
        try:
            result = plan.function(subject, **values)
            if isinstance(result, GeneratorType):
                result = _exhausted(result)
        except BaseException as raised:
            error = raised
            raise
    if error is not None:
        raise error  # as above
    inside.check()
    return result


def _exhausted(generator: Generator[Any, None, Any]) -> Yielded:
    items: list[Any] = []
    while True:
        try:
            items.append(next(generator))
        except StopIteration as done:
            return Yielded(items, done.value)


def _check_kind(plan: Plan, session: Any) -> None:
    if plan.session is not None and session is not None and not isinstance(session, plan.session):
        raise ConfigurationError(
            f"{plan.function!r} asks for a {plan.session.__qualname__}, and the transaction belongs to a {type(session).__qualname__}: "
            "ask for the class that the attached session factory makes"
        )
