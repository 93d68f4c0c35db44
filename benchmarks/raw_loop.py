"""The raw loops that handlers are compared with: one reader, four tasks, transactions of 100, inbox rows in bulk, effects once.

Each unit handles one hundred in one transaction with the kind of connection that our handler asks for. Nothing keeps order by key, nothing
is retried, and nobody else may run: it is what the work itself costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from benchmarks.database import Database
from benchmarks.workload import INSERT_EFFECT, RAW_INBOX, Effect, Line, effects

__all__ = ["RawLoop"]

TASKS = 4
SIZE = 100
PAGE = 1000

_READ = (
    "select position, id, source, name, version, topic, key, headers::text, data::text, time from {outbox} "
    "where position > $1 order by position limit $2"
)
_INBOX = sa.text(RAW_INBOX.replace("$1::uuid[]", "cast(:ids as uuid[])"))


class Data(msgspec.Struct):
    """The event as its handler sees it."""

    order_id: UUID
    customer: str
    lines: tuple[Line, ...]


_decode = msgspec.json.Decoder(Data).decode

#: One transaction of events.
Unit = Callable[[Sequence[tuple[UUID, Data]]], Awaitable[None]]


class RawLoop:
    """Drivers of the same backlog.

    Attributes:
        count: events that plain handlers were called with.
    """

    def __init__(self, database: Database, engine: AsyncEngine, outbox: str) -> None:
        self._database = database
        self._engine = engine
        self._read = _READ.format(outbox=outbox)
        self._reader: Any = None
        self._pool: Any = None
        self.count = 0

    async def __aenter__(self) -> RawLoop:
        self._reader = await asyncpg.connect(self._database.dsn)
        self._pool = await asyncpg.create_pool(self._database.dsn, min_size=TASKS, max_size=TASKS)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._pool.close()
        await self._reader.close()

    async def run(self, unit: Unit, size: int = SIZE) -> None:
        """Read the whole log once, four units at a time."""
        waiting: asyncio.Queue[list[tuple[UUID, Data]] | None] = asyncio.Queue(4 * TASKS)

        async def read() -> None:
            position = 0
            while rows := await self._reader.fetch(self._read, position, max(PAGE, size)):
                position = rows[-1][0]
                events = [(row[1], _decode(row[8])) for row in rows]
                for first in range(0, len(events), size):
                    await waiting.put(events[first : first + size])
            for _ in range(TASKS):
                await waiting.put(None)

        async def work() -> None:
            while (events := await waiting.get()) is not None:
                await unit(events)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read())
            for _ in range(TASKS):
                tasks.create_task(work())

    async def driver(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """asyncpg: one INSERT an event."""
        async with self._pool.acquire() as connection, connection.transaction():
            fresh = {row[0] for row in await connection.fetch(RAW_INBOX, [event_id for event_id, _ in events])}
            for event_id, event in events:
                if event_id in fresh:
                    await connection.execute(INSERT_EFFECT, event.order_id)

    async def connection(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """AsyncConnection: one INSERT an event."""
        async with self._engine.begin() as connection:
            fresh = await _inbox(connection, events)
            for event_id, event in events:
                if event_id in fresh:
                    await connection.execute(effects.insert(), {"event_id": event.order_id})

    async def session(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """AsyncSession for each event, joined into one transaction: one INSERT an event."""
        async with self._engine.begin() as connection:
            fresh = await _inbox(connection, events)
            for event_id, event in events:
                if event_id in fresh:
                    async with AsyncSession(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
                        await session.execute(effects.insert(), {"event_id": event.order_id})
                        await session.commit()

    async def orm(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """AsyncSession for each event with an object that it flushes."""
        async with self._engine.begin() as connection:
            fresh = await _inbox(connection, events)
            for event_id, event in events:
                if event_id in fresh:
                    async with AsyncSession(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
                        session.add(Effect(event_id=event.order_id))
                        await session.commit()

    async def one_session(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """One AsyncSession for all, with an object an event; one flush."""
        async with self._engine.begin() as connection:
            fresh = await _inbox(connection, events)
            async with AsyncSession(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
                for event_id, event in events:
                    if event_id in fresh:
                        session.add(Effect(event_id=event.order_id))
                await session.commit()

    async def batch(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """asyncpg: one INSERT for all."""
        async with self._pool.acquire() as connection, connection.transaction():
            fresh = {row[0] for row in await connection.fetch(RAW_INBOX, [event_id for event_id, _ in events])}
            await connection.execute(INSERT_EFFECTS, [event.order_id for event_id, event in events if event_id in fresh])

    async def plain(self, events: Sequence[tuple[UUID, Data]]) -> None:
        """A call an event, no transaction; the inbox rows afterwards."""
        for _ in events:
            await self._call()
        async with self._pool.acquire() as connection:
            await connection.fetch(RAW_INBOX, [event_id for event_id, _ in events])

    async def _call(self) -> None:
        self.count += 1


#: For asyncpg: many effects in one INSERT.
INSERT_EFFECTS = "insert into effects (event_id) select u.id from unnest($1::uuid[]) u(id)"


async def _inbox(connection: AsyncConnection, events: Sequence[tuple[UUID, Data]]) -> set[UUID]:
    return set((await connection.execute(_INBOX, {"ids": [event_id for event_id, _ in events]})).scalars())
