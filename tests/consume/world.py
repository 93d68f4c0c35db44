"""A database with our tables and a table for the effects of handlers, and what tests do with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.consume.shop import shop
from tests.services.databases import Database
from tidings import Contract, Service, Subscriptions
from tidings.ids import uuid7
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

__all__ = ["EFFECT", "World", "effect", "effect_sync", "make_async_engine", "make_sync_engine", "open_world"]

#: How handlers leave a trace: `number` tells the order of the inserts, and nothing here keeps a trace from being left twice.
EFFECT = sa.text("insert into effects (subscription, key, value) values (:subscription, :key, :value)")


async def effect(session: AsyncSession, subscription: str, event: Any) -> None:
    """Leave the trace of an event in a handler's session."""
    await session.execute(EFFECT, {"subscription": subscription, "key": event.order_id, "value": event.number})


def effect_sync(session: Session | sa.Connection, subscription: str, event: Any) -> None:
    """Leave the trace of an event in a handler's session or connection."""
    session.execute(EFFECT, {"subscription": subscription, "key": event.order_id, "value": event.number})


class World:
    """What one test has: an engine for the service, the store, and eyes of its own on the database.

    Attributes:
        engine: of the services; asynchronous or not, as the test's parameter says.
    """

    def __init__(self, database: Database, engine: Engine | AsyncEngine) -> None:
        self.database = database
        self.engine = engine
        self.kind = database.kind
        self.store = SQLStore(engine)
        self._engines: list[Engine | AsyncEngine] = [engine]
        self._eyes = sa.create_engine(database.sync_url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)

    @property
    def asynchronous(self) -> bool:
        return isinstance(self.engine, AsyncEngine)

    def service(
        self, *subscriptions: Subscriptions, name: str = "shop", contracts: Sequence[Contract] = (shop,), engine: Any = None, **options: Any
    ) -> Service:
        """Make a service that polls and renews faster than one in production."""
        store = self.store if engine is None else SQLStore(engine)
        service = Service(name, contracts=contracts, subscriptions=subscriptions, store=store, **options)
        service.tuning.longest = 0.05
        return service

    def another_engine(self, **options: Any) -> AsyncEngine:
        """Return a further asynchronous engine on the same database, as another process would have it."""
        engine = make_async_engine(self.database, **options)
        self._engines.append(engine)
        return engine

    async def publish(self, service: Service, *events: object, **options: Any) -> None:
        """Publish events in one transaction."""

        def publish(session: Session) -> None:
            for event in events:
                service.publish(session, event, **options)

        await self.transact(publish)

    async def transact(self, function: Callable[[Session], object]) -> None:
        """Run a function in a transaction of the user's engine."""

        def run() -> None:
            with Session(self.engine) as session, session.begin():
                function(session)

        if isinstance(self.engine, AsyncEngine):
            async with AsyncSession(self.engine) as session, session.begin():
                await session.run_sync(function)
        else:
            await asyncio.to_thread(run)

    async def execute(self, sql: str, **parameters: Any) -> None:
        """Run one statement in a transaction of the user's engine."""
        await self.transact(lambda session: session.execute(sa.text(sql), parameters))

    async def insert_row(
        self,
        *,
        event_id: str | None = None,
        source: str = "shop",
        name: str = "order.placed",
        version: int | None = 1,
        key: str | None = "a",
        headers: str = "{}",
        data: str = '{"order_id":"a","number":0}',
    ) -> str:
        """Insert a row into the log as somebody might who is not us; return its id."""
        chosen = str(uuid7()) if event_id is None else event_id
        casts = ("", "", "") if self.kind == "sqlite" else ("::uuid", "::json", "::json")
        columns = "id, source, name, version, topic, key, slot, headers, data" + (", time" if self.kind == "sqlite" else "")
        values = ":id{}, :source, :name, :version, 't', :key, 1, :headers{}, :data{}".format(*casts)
        values += ", strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if self.kind == "sqlite" else ""
        insert = f"insert into tidings_outbox ({columns}) values ({values})".replace("::", "\\:\\:")
        await self.execute(insert, id=chosen, source=source, name=name, version=version, key=key, headers=headers, data=data)
        return chosen

    def rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """Look into the database."""
        with self._eyes.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql), parameters)]

    def one(self, sql: str, **parameters: Any) -> Any:
        """Look up one value."""
        return self.rows(sql, **parameters)[0][0]

    def effects(self, subscription: str | None = None) -> list[tuple[str, int]]:
        """Return the traces that were left, as (key, value) in the order in which they were left."""
        where = "" if subscription is None else "where subscription = :subscription"
        parameters = {} if subscription is None else {"subscription": subscription}
        return [(row[0], row[1]) for row in self.rows(f"select key, value from effects {where} order by number", **parameters)]

    def lanes(self) -> list[tuple[str | None, str, int, int]]:
        """Return the lanes as (key, state, depth, attempts)."""
        return [
            (row[0], row[1], row[2], row[3])
            for row in self.rows("select key, state, depth, attempts from tidings_lanes order by key, state")
        ]

    def deliveries(self) -> list[tuple[str | None, str, int, str | None]]:
        """Return the parked events as (key, reason, attempts, error type) in the order of their lanes."""
        sql = "select key, reason, attempts, error_type from tidings_deliveries order by key, number"
        return [(row[0], row[1], row[2], row[3]) for row in self.rows(sql)]

    def published(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of the log of one event name, in order."""
        with self._eyes.connect() as connection:
            rows = connection.execute(sa.text("select * from tidings_outbox where name = :name order by position"), {"name": name})
            return [dict(row._mapping) for row in rows]

    def checkpoint(self) -> dict[str, Any]:
        """Return the only reader's row."""
        with self._eyes.connect() as connection:
            (row,) = connection.execute(sa.text("select * from tidings_checkpoints where kind = 'log'"))
            return dict(row._mapping)

    async def read_again(self) -> None:
        """Set every reader's checkpoint back to the beginning of the log; the services must be stopped."""
        windows = "" if self.kind == "sqlite" else ", previous = '1:1:', current = null"
        await self.execute(f"update tidings_checkpoints set position = 0{windows} where kind = 'log'")

    async def close(self) -> None:
        self._eyes.dispose()
        for engine in self._engines:
            if isinstance(engine, AsyncEngine):
                await engine.dispose()
            else:
                engine.dispose()


def make_async_engine(database: Database, busy_timeout: float = 10.0, **options: Any) -> AsyncEngine:
    # asyncpg leaves a future with an error behind when a connection is lost while it asks for TLS.
    arguments = {} if database.kind == "sqlite" else {"ssl": False}
    engine = create_async_engine(database.url, **{"pool_size": 20, "connect_args": arguments, **options})
    if database.kind == "sqlite":
        configure(engine, busy_timeout)
    return engine


def make_sync_engine(database: Database, **options: Any) -> Engine:
    engine = sa.create_engine(database.sync_url, **{"pool_size": 20, **options})
    if database.kind == "sqlite":
        configure(engine)
    return engine


@asynccontextmanager
async def open_world(database: Database, *, asynchronous: bool = True) -> AsyncIterator[World]:
    """Make our tables and the table of effects, and dispose of all engines in the end."""
    world = World(database, make_async_engine(database) if asynchronous else make_sync_engine(database))
    try:
        await world.store.upgrade()
        number = "integer primary key autoincrement" if world.kind == "sqlite" else "bigint generated always as identity"
        await world.execute(f"create table effects (number {number}, subscription text, key text, value integer)")
        yield world
    finally:
        world.store.close()
        await world.close()
