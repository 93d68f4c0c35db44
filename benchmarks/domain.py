"""The domain side: an aggregate records an event, one handler hears of it and one converter makes it public, against publishing by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Numeric
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.database import fresh_database, warm
from benchmarks.publish import TASKS, Contender, event, measure
from benchmarks.report import Goal, Section
from benchmarks.settings import Settings
from benchmarks.workload import Order, OrderCreated, OrderPlaced, contract, create_tables
from tidings import Service, Subscriptions
from tidings.domain import AggregateRoot
from tidings.stores import SQLStore

REFERENCE = "publishing the integration event directly"
GOAL = (Goal("ratio", ">=", 0.90),)
KEYS = 10_000


class Base(DeclarativeBase):
    """Of the aggregates."""


class Purchase(AggregateRoot, Base):
    """An order that records what happens to it."""

    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(Numeric)


@dataclass(frozen=True)
class Submitted:
    """A domain event with a plain handler."""

    purchase: Purchase


@dataclass(frozen=True)
class Awaited:
    """A domain event with an asynchronous handler."""

    purchase: Purchase


def handlers() -> Subscriptions:
    """Return a handler and a converter of each domain event; the handlers do nothing, which is what the program would do by itself."""
    made = Subscriptions()

    @made.on(Submitted)
    def plain(event: Submitted, session: Session) -> None: ...

    @made.on(Awaited)
    async def awaited(event: Awaited, session: AsyncSession) -> None: ...

    def to_public(submitted: Submitted | Awaited) -> OrderCreated | OrderPlaced:
        return event(submitted.purchase.id, KEYS)

    made.converts(Submitted)(to_public)
    made.converts(Awaited)(to_public)
    return made


async def run(settings: Settings) -> list[Section]:
    """Measure."""
    async with fresh_database(settings.server, "domain") as database:
        await create_tables(database)
        engine = database.engine(TASKS)
        service = Service("bench", contracts=[contract], store=SQLStore(engine), subscriptions=[handlers()])
        await service.store.upgrade()
        await warm(engine, TASKS)
        plain = async_sessionmaker(engine, expire_on_commit=False)
        attached = async_sessionmaker(engine, expire_on_commit=False)
        service.attach(attached)

        def direct(sessions: async_sessionmaker[AsyncSession]) -> Callable[[int], Awaitable[None]]:
            async def transaction(task: int) -> None:
                order_id = uuid4()
                async with sessions() as session, session.begin():
                    session.add(Order(id=order_id, customer="c", total=10))
                    service.publish(session, event(order_id, KEYS))

            return transaction

        def recorded(kind: type[Submitted | Awaited]) -> Callable[[int], Awaitable[None]]:
            async def transaction(task: int) -> None:
                async with attached() as session, session.begin():
                    purchase = Purchase(id=uuid4(), customer="c", total=10)
                    purchase.record(kind(purchase))
                    session.add(purchase)

            return transaction

        contenders = [
            Contender("published directly", direct(plain), 1),
            Contender("published directly, on an attached session", direct(attached), 1),
            Contender("domain event, handler, converter", recorded(Submitted), 1, goals=GOAL),
            Contender("domain event, async handler, converter", recorded(Awaited), 1, goals=GOAL),
        ]
        try:
            section = await measure(settings, database, service, "the domain side", contenders)
        finally:
            await engine.dispose()
        return [Section(section.title, section.unit, REFERENCE, section.rows)]
