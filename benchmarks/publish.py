"""Publishing: transactions a second with 0, 1 and 10 events, against the same transaction that publishes nothing.

16 concurrent tasks, one business INSERT in each transaction.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from benchmarks.database import Database, fresh_database, warm
from benchmarks.measuring import Run, interleave, throughput
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import (
    INSERT_ORDER,
    LINES,
    RAW_PUBLISH,
    Order,
    OrderCreated,
    OrderPlaced,
    check,
    contract,
    create_tables,
    orders,
    raw_outbox,
    raw_payload,
)
from tidings import Service
from tidings.stores import SQLStore

TASKS = 16
REFERENCE = "the transaction without events"
ONE = (Goal("ratio", ">=", 0.80),)
TEN = (Goal("ratio", ">=", 0.70),)

Transaction = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Contender:
    """A transaction, and how many events it must leave behind in our outbox and in the raw one."""

    name: str
    transaction: Transaction
    events: int = 0
    raw: int = 0
    goals: tuple[Goal, ...] = ()


def event(order_id: UUID, keys: int) -> OrderCreated | OrderPlaced:
    """Return a new event of an order, with one of so many keys; 0 is an event without a key."""
    if keys == 0:
        return OrderCreated(order_id, "c", LINES)
    return OrderPlaced(order_id, f"customer-{random.randrange(keys)}", LINES)


async def run(settings: Settings) -> list[Section]:
    """Measure with SQLAlchemy's core, its ORM, and plain asyncpg."""
    async with fresh_database(settings.server, "publish") as database:
        await create_tables(database)
        engine = database.engine(TASKS)
        service = Service("bench", contracts=[contract], store=SQLStore(engine))
        await service.store.upgrade()
        await warm(engine, TASKS)
        connections = [await asyncpg.connect(database.dsn) for _ in range(TASKS)]
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        tables = {
            "SQLAlchemy AsyncSession, core INSERT": core(service, sessions),
            "SQLAlchemy AsyncSession, ORM object": orm(service, sessions),
            "asyncpg": driver(service, connections),
        }
        try:
            return [
                await measure(settings, database, service, title, contenders)
                for title, contenders in tables.items()
                if settings.wants(title)
            ]
        finally:
            for connection in connections:
                await connection.close()
            await engine.dispose()


async def measure(
    settings: Settings, database: Database, service: Service, title: str, contenders: list[Contender], *tables: str
) -> Section:
    """Run contenders, the first of which is the reference; `tables` are further ones to be emptied before each run."""
    outbox = service.store.names.outbox

    async def once(contender: Contender, seconds: float) -> float:
        await database.clear(outbox, "orders", "raw_outbox", *tables)
        done, elapsed = await throughput(contender.transaction, TASKS, seconds)
        found = await database.admin.fetchrow(
            f"select (select count(*) from orders) as orders, (select count(distinct id) from {outbox}) as events, "
            f"(select count(*) from {outbox}) as rows, (select count(*) from raw_outbox) as raw"
        )
        check(
            contender.name,
            orders=(found["orders"], done),
            events=(found["events"], done * contender.events),
            rows=(found["rows"], done * contender.events),
            raw=(found["raw"], done * contender.raw),
        )
        return done / elapsed

    for contender in contenders:
        await once(contender, 0.3)
    runs: dict[str, Run] = {contender.name: partial(once, contender, settings.choose(1.0, 0.3)) for contender in contenders}
    # Short runs, and many of them: a machine's speed drifts by more within half a minute than what an event costs.
    figures = await interleave(f"publish, {title}", runs, settings.count(3, 1) * settings.rounds)
    base = figures[contenders[0].name]
    rows = [
        Row(contender.name, figures[contender.name], None if contender is contenders[0] else base, contender.goals)
        for contender in contenders
    ]
    return Section(f"publish: {title}, {TASKS} tasks", "transactions/s", REFERENCE, rows)


def core(service: Service, sessions: async_sessionmaker[AsyncSession]) -> list[Contender]:
    """Transactions whose business INSERT is a core statement."""

    async def bare(task: int) -> None:
        async with sessions() as session, session.begin():
            await session.execute(orders.insert().values(id=uuid4(), customer="c", total=10))

    async def raw(task: int) -> None:
        order_id = uuid4()
        async with sessions() as session, session.begin():
            await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
            await session.execute(
                raw_outbox.insert().values(event_id=order_id, topic="order.created", key="c", data=raw_payload(order_id, "c"))
            )

    def publishing(events: int, keys: int) -> Transaction:
        async def ours(task: int) -> None:
            order_id = uuid4()
            async with sessions() as session, session.begin():
                await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
                for _ in range(events):
                    service.publish(session, event(order_id, keys))

        return ours

    return [
        Contender("bare transaction", bare),
        Contender("0 events (the bare transaction again)", publishing(0, 0)),
        Contender("raw: a second INSERT by hand", raw, raw=1),
        *with_events(publishing),
    ]


def orm(service: Service, sessions: async_sessionmaker[AsyncSession]) -> list[Contender]:
    """Transactions whose business INSERT is the flush of an object."""

    async def bare(task: int) -> None:
        async with sessions() as session, session.begin():
            session.add(Order(id=uuid4(), customer="c", total=10))

    def publishing(events: int, keys: int) -> Transaction:
        async def ours(task: int) -> None:
            order_id = uuid4()
            async with sessions() as session, session.begin():
                session.add(Order(id=order_id, customer="c", total=10))
                for _ in range(events):
                    service.publish(session, event(order_id, keys))

        return ours

    return [
        Contender("bare transaction", bare),
        Contender("1 event, 10,000 keys", publishing(1, 10_000), 1, goals=ONE),
        Contender("10 events, 10,000 keys", publishing(10, 10_000), 10, goals=TEN),
    ]


def driver(service: Service, connections: list[Any]) -> list[Contender]:
    """Transactions on the driver's own connections, without SQLAlchemy."""

    async def bare(task: int) -> None:
        connection = connections[task]
        async with connection.transaction():
            await connection.execute(INSERT_ORDER, uuid4(), "c", 10)

    async def raw(task: int) -> None:
        connection, order_id = connections[task], uuid4()
        async with connection.transaction():
            await connection.execute(INSERT_ORDER, order_id, "c", 10)
            await connection.execute(RAW_PUBLISH, order_id, "order.created", "c", raw_payload(order_id, "c"))

    def publishing(events: int, keys: int) -> Transaction:
        async def ours(task: int) -> None:
            connection, order_id = connections[task], uuid4()
            async with service.publishing(connection) as publish:
                await connection.execute(INSERT_ORDER, order_id, "c", 10)
                for _ in range(events):
                    publish(event(order_id, keys))

        return ours

    return [
        Contender("bare transaction", bare),
        Contender("0 events (an empty block)", publishing(0, 0)),
        Contender("raw: a second INSERT by hand", raw, raw=1),
        # The goals are for SQLAlchemy: here the bare transaction has three round trips, and the fourth is a third of it.
        *with_events(publishing, goals=False),
    ]


def with_events(publishing: Callable[[int, int], Transaction], *, goals: bool = True) -> list[Contender]:
    """Return one contender for each number of events and of keys."""
    return [
        Contender(
            f"{events} event{'s' if events > 1 else ''}, {f'{keys:,} keys' if keys else 'no key'}", publishing(events, keys), events,
            goals=() if not goals or 0 < keys < 10_000 else ONE if events == 1 else TEN,
        )
        for events in (1, 10)
        for keys in (0, 10_000, 100, 10)
    ]  # fmt: skip
