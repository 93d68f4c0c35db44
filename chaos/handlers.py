"""The subscriptions of a run, once as coroutines and once as plain functions in threads: workers of both kinds share the work.

`view` (a session) and `journal` (a connection) keep order, leave effects and publish; `report` takes lists; `mail` is plain and can only
promise at least once; `audit` handles what the first two publish, in no order, and lets keys go on behind dead events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from chaos.journal import Journal
from chaos.weather import Misdeed, Weather
from chaos.workload import Booked, Deposited, Reminded, Withdrawn
from tidings import Envelope, Publish, Retry, Subscriptions
from tidings.consume.retry import Discard, Reject, RetryLater
from tidings.consume.subscriptions import Options

__all__ = ["Deeds", "asynchronous", "discarded", "threaded"]

Event = Deposited | Withdrawn | Reminded | Booked

#: Seconds that a handler may take, and how long one takes that breaks off there.
LIMIT = 2.5
_RETRY = Retry(attempts=4, base=0.05, max=0.5)
_OPTIONS: Options = {"retry": _RETRY, "concurrency": 6, "timeout": LIMIT}

_STEP = sa.text("""
    insert into steps (subscription, account, last) values (:subscription, :account, 1)
    on conflict (subscription, account) do update set last = steps.last + 1 returning last
""")
_EFFECT = sa.text("""
    insert into effects (subscription, number, "by", account, step, worker) values (:subscription, :number, :by, :account, :step, :worker)
""")
_WRONG = sa.text("select nothing from no_such_table")
_CUT = sa.text("select pg_terminate_backend(pg_backend_pid())")


def discarded(subscription: str, number: int) -> bool:
    """Return whether the handlers of this subscription say that this event needs no handling."""
    return subscription == "journal" and number % 31 == 0


class Deeds:
    """What handlers do, right and wrong.

    Args:
        slow: seconds that a slow handler takes.
        auditors: the group of `audit`; None is that of the others.
    """

    def __init__(self, worker: str, weather: Weather, mails: Journal, slow: float, auditors: str | None = None) -> None:
        self.worker = worker
        self.weather = weather
        self.mails = mails
        self.slow = slow
        self.auditors = auditors

    def misdeed(self, subscription: str, events: Sequence[Event], envelopes: Sequence[Envelope]) -> Misdeed:
        """Return the first thing that goes wrong with any of these; raise what is raised before the effect."""
        for event, envelope in zip(events, envelopes, strict=True):
            misdeed = self.weather.of(subscription, event.number, envelope.attempt)
            if misdeed == "early":
                raise RuntimeError(f"{subscription} fails early")
            if misdeed == "later":
                raise RetryLater(0.2)
            if misdeed == "reject":
                raise Reject(f"{subscription} rejects")
            if misdeed != "fine":
                return misdeed
        return "fine"

    def parameters(self, subscription: str, event: Event) -> dict[str, Any]:
        """Return the parameters of an effect, but for its step."""
        by = event.by if isinstance(event, Booked) else None
        return {"subscription": subscription, "number": event.number, "by": by, "account": event.account, "worker": self.worker}

    def seconds(self, misdeed: Misdeed) -> float:
        """Return how long it takes."""
        return {"slow": self.slow, "timeout": LIMIT + 0.5}.get(misdeed, 0.0)


def asynchronous(deeds: Deeds) -> Subscriptions:
    """Return the subscriptions as coroutines, for an asynchronous engine."""
    handlers = Subscriptions()

    async def leave(connection: AsyncSession | AsyncConnection, subscription: str, events: Sequence[Event], misdeed: Misdeed) -> None:
        for event in events:
            parameters = deeds.parameters(subscription, event)
            step = 0 if subscription == "audit" else await connection.scalar(_STEP, parameters)
            await connection.execute(_EFFECT, {**parameters, "step": step})
        await asyncio.sleep(deeds.seconds(misdeed))
        if misdeed == "late":
            raise RuntimeError(f"{subscription} fails late")
        if misdeed == "nested":
            try:
                async with connection.begin_nested():
                    await connection.execute(_WRONG)
            except SQLAlchemyError:
                pass
        elif misdeed in ("swallow", "swallow cut"):
            with suppress(SQLAlchemyError):
                await connection.execute(_WRONG if misdeed == "swallow" else _CUT)
        elif misdeed == "cut":
            await connection.execute(_CUT)
        elif misdeed in ("rollback", "commit") and isinstance(connection, AsyncSession):
            await (connection.rollback() if misdeed == "rollback" else connection.commit())

    view = handlers.subscription("view", **_OPTIONS)

    @view.on(Deposited, Withdrawn, Reminded)
    async def _view(event: Deposited | Withdrawn | Reminded, session: AsyncSession, publish: Publish, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("view", [event], [envelope])
        publish(Booked(event.number, event.account, "view"))
        await leave(session, "view", [event], misdeed)

    journal = handlers.subscription("journal", **_OPTIONS)

    @journal.on(Deposited, Withdrawn)
    async def _journal(event: Deposited | Withdrawn, connection: AsyncConnection, publish: Publish, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("journal", [event], [envelope])
        await leave(connection, "journal", [event], misdeed)
        if discarded("journal", event.number):
            raise Discard("of no interest")
        publish(Booked(event.number, event.account, "journal"))

    @handlers.subscribe(Deposited, Withdrawn, name="report", batch=20, **_OPTIONS)
    async def _report(events: list[Deposited | Withdrawn], session: AsyncSession, envelopes: list[Envelope]) -> None:
        misdeed = deeds.misdeed("report", events, envelopes)
        await leave(session, "report", events, misdeed)

    @handlers.subscribe(Deposited, name="mail", **_OPTIONS)
    async def _mail(event: Deposited, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("mail", [event], [envelope])
        await asyncio.sleep(deeds.seconds(misdeed))
        if misdeed == "late":
            raise RuntimeError("mail fails late")
        deeds.mails.write(number=event.number, account=event.account, worker=deeds.worker)

    @handlers.subscribe(Booked, name="audit", group=deeds.auditors, ordered=False, on_dead="continue", **_OPTIONS)
    async def _audit(event: Booked, session: AsyncSession, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("audit", [event], [envelope])
        await leave(session, "audit", [event], misdeed)

    return handlers


def threaded(deeds: Deeds) -> Subscriptions:
    """Return the same subscriptions as plain functions, for a synchronous engine."""
    handlers = Subscriptions()

    def leave(connection: Session | sa.Connection, subscription: str, events: Sequence[Event], misdeed: Misdeed) -> None:
        for event in events:
            parameters = deeds.parameters(subscription, event)
            step = 0 if subscription == "audit" else connection.scalar(_STEP, parameters)
            connection.execute(_EFFECT, {**parameters, "step": step})
        time.sleep(deeds.seconds(misdeed))
        if misdeed == "late":
            raise RuntimeError(f"{subscription} fails late")
        if misdeed == "nested":
            try:
                with connection.begin_nested():
                    connection.execute(_WRONG)
            except SQLAlchemyError:
                pass
        elif misdeed in ("swallow", "swallow cut"):
            with suppress(SQLAlchemyError):
                connection.execute(_WRONG if misdeed == "swallow" else _CUT)
        elif misdeed == "cut":
            connection.execute(_CUT)
        elif misdeed in ("rollback", "commit") and isinstance(connection, Session):
            (connection.rollback if misdeed == "rollback" else connection.commit)()

    view = handlers.subscription("view", **_OPTIONS)

    @view.on(Deposited, Withdrawn, Reminded)
    def _view(event: Deposited | Withdrawn | Reminded, session: Session, publish: Publish, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("view", [event], [envelope])
        publish(Booked(event.number, event.account, "view"))
        leave(session, "view", [event], misdeed)

    journal = handlers.subscription("journal", **_OPTIONS)

    @journal.on(Deposited, Withdrawn)
    def _journal(event: Deposited | Withdrawn, connection: sa.Connection, publish: Publish, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("journal", [event], [envelope])
        leave(connection, "journal", [event], misdeed)
        if discarded("journal", event.number):
            raise Discard("of no interest")
        publish(Booked(event.number, event.account, "journal"))

    @handlers.subscribe(Deposited, Withdrawn, name="report", batch=20, **_OPTIONS)
    def _report(events: list[Deposited | Withdrawn], session: Session, envelopes: list[Envelope]) -> None:
        misdeed = deeds.misdeed("report", events, envelopes)
        leave(session, "report", events, misdeed)

    @handlers.subscribe(Deposited, name="mail", **_OPTIONS)
    def _mail(event: Deposited, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("mail", [event], [envelope])
        time.sleep(deeds.seconds(misdeed))
        if misdeed == "late":
            raise RuntimeError("mail fails late")
        deeds.mails.write(number=event.number, account=event.account, worker=deeds.worker)

    @handlers.subscribe(Booked, name="audit", group=deeds.auditors, ordered=False, on_dead="continue", **_OPTIONS)
    def _audit(event: Booked, session: Session, envelope: Envelope) -> None:
        misdeed = deeds.misdeed("audit", [event], [envelope])
        leave(session, "audit", [event], misdeed)

    return handlers
