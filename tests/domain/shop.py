"""A shop whose orders record domain events, on a database of each kind, with synchronous and asynchronous sessions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from tests.services.databases import Database
from tidings import Contract, Service, Subscriptions
from tidings.domain import AggregateRoot
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

orders = Contract("orders")


@orders.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    """An order has been placed."""

    order_id: str
    total: int = 0


@orders.event("stock.reserved")
@dataclass(frozen=True)
class StockReserved:
    """Goods are set aside."""

    order_id: str


class OrderSubmitted:
    """A domain event that cannot be serialized: it holds the order itself."""

    def __init__(self, order: Order) -> None:
        self.order = order


@dataclass(frozen=True)
class Noted:
    """A domain event that could be serialized."""

    text: str


class Base(DeclarativeBase):
    """Tables of the application."""


class Order(AggregateRoot, Base):
    """A mapped aggregate."""

    __tablename__ = "orders"

    name: Mapped[str] = mapped_column(primary_key=True)
    total: Mapped[int] = mapped_column(default=0)

    def submit(self) -> Order:
        self.record(OrderSubmitted(self))
        return self


class Note(Base):
    """What handlers leave behind; its number is given by the database."""

    __tablename__ = "notes"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    text: Mapped[str]


class Shop:
    """A service on a database, with a session factory attached.

    Attributes:
        sessions: makes the sessions that the tests write with.
    """

    def __init__(self, database: Database, *, asynchronous: bool) -> None:
        self.database = database
        self.asynchronous = asynchronous
        engine: Engine | AsyncEngine
        if asynchronous:
            engine = create_async_engine(database.url, poolclass=NullPool)
        else:
            engine = sa.create_engine(database.sync_url, poolclass=NullPool)
        if database.kind == "sqlite":
            configure(engine)
        self.engine = engine
        self.store = SQLStore(engine)
        self.sessions: Any = (
            async_sessionmaker(engine, expire_on_commit=False)
            if isinstance(engine, AsyncEngine)
            else sessionmaker(engine, expire_on_commit=False)
        )
        self._eyes = sa.create_engine(database.sync_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def service(self, *subscriptions: Subscriptions, attach: bool = True, **options: Any) -> Service:
        service = Service("shop", contracts=[orders], subscriptions=subscriptions, store=self.store, **options)
        service.tuning.longest = 0.05
        if attach:
            service.attach(self.sessions)
        return service

    async def create(self) -> None:
        await self.store.upgrade()
        with sa.create_engine(self.database.sync_url, poolclass=NullPool).begin() as connection:
            Base.metadata.create_all(connection)

    async def transact(self, function: Callable[[Session], object]) -> None:
        """Run a function in a transaction of a session of the factory."""
        if self.asynchronous:
            async with self.sessions() as session, session.begin():
                await session.run_sync(function)
        else:
            with self.sessions() as session, session.begin():
                function(session)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Look from outside at what has been committed."""
        with self._eyes.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(sql))]

    def log(self) -> list[tuple[str, dict[str, Any]]]:
        """Return name and data of what has been published, by position."""
        found = self.rows("select name, data from tidings_outbox order by position")
        return [(name, json.loads(data) if isinstance(data, str) else data) for name, data in found]

    def notes(self) -> list[str]:
        return [text for (text,) in self.rows("select text from notes order by number")]

    def orders(self) -> list[str]:
        return [name for (name,) in self.rows("select name from orders order by name")]


def open_session(shop: Shop) -> AsyncSession:
    session: AsyncSession = shop.sessions()
    return session
