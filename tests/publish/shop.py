"""The events that are published in these tests, and a store to find them in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from tests.services.databases import Database
from tidings import Contract
from tidings.publish.publisher import Publisher
from tidings.publish.session_buffer import listen_to_sessions
from tidings.stores.sql.migrations.v0001 import statements
from tidings.stores.sql.names import Names
from tidings.stores.sql.postgresql import publish as postgresql
from tidings.stores.sql.sqlite import publish as sqlite

shop = Contract("shop")


@shop.event("order.placed", version=1, key="order")
@dataclass(frozen=True)
class OrderPlaced:
    """An order has been placed."""

    order: str
    note: str = ""


@shop.event("stock.counted", version=1)
@dataclass(frozen=True)
class StockCounted:
    """Somebody has counted; has no key."""

    count: int


@shop.event("price.changed", version=3, key="sku", lock_keys=False)
@dataclass(frozen=True)
class PriceChanged:
    """Its key is too hot to queue for."""

    sku: str


class Base(DeclarativeBase):
    """Tables of the application."""


class Order(Base):
    """What the application itself writes."""

    __tablename__ = "orders"
    name: Mapped[str] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(default="")


@dataclass(frozen=True)
class Row:
    """A row of the outbox, or of the schedule."""

    id: UUID
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    slot: int | None
    headers: dict[str, str]
    data: dict[str, Any]
    keyed: bool | None = None
    due_at: Any = None


@dataclass
class Shop:
    """A database with the store's tables and one of the application, and a publisher for it."""

    database: Database
    wakes: list[str] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = Names("public" if self.postgresql else None, "tidings_")
        self.statements: Any = (postgresql if self.postgresql else sqlite).PublishStatements(self.names)
        listen_to_sessions()  # as a service does
        self.publisher = self.publisher_named("shop")

    @property
    def postgresql(self) -> bool:
        return self.database.kind == "postgresql"

    def publisher_named(self, source: str, **options: Any) -> Publisher:
        return Publisher(source, shop.type_of, self.statements, **{"wake": lambda: self.wakes.append(source)} | options)

    def create(self) -> None:
        with self.connect() as connection:
            for statement in statements(self.database.kind, self.names):
                connection.execute(statement)
            connection.execute("create table orders (name varchar primary key, note varchar not null)")

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """A raw connection in autocommit mode, to look from outside."""
        if self.postgresql:
            with psycopg.connect(self.database.dsn, autocommit=True) as connection:
                yield connection
            return
        lite = sqlite3.connect(self.database.dsn, isolation_level=None, timeout=10)
        try:
            lite.execute("pragma journal_mode = wal").close()
            yield lite
        finally:
            lite.close()

    def engine(self, **options: Any) -> Engine:
        """A synchronous engine; on SQLite one that begins transactions itself, as savepoints need it."""
        engine = create_engine(self.database.sync_url, poolclass=NullPool, **options)
        if not self.postgresql:
            begin_immediate(engine)
        return engine

    def async_engine(self, **options: Any) -> AsyncEngine:
        engine = create_async_engine(self.database.url, poolclass=NullPool, **options)
        if not self.postgresql:
            begin_immediate(engine.sync_engine)
        return engine

    def log(self) -> list[Row]:
        """What has been committed to the outbox, by position."""
        return self._rows("select id, source, name, version, topic, key, slot, headers, data from tidings_outbox order by position")

    def schedule(self) -> list[Row]:
        """What is scheduled."""
        return self._rows(
            "select id, source, name, version, topic, key, slot, headers, data, keyed, due_at from tidings_scheduled order by due_at, id"
        )

    def orders(self) -> list[str]:
        """The orders that the log tells of, by position."""
        return [row.data["order"] for row in self.log()]

    def stored(self) -> list[str]:
        """The rows of the application's own table."""
        with self.connect() as connection:
            return [name for (name,) in connection.execute("select name from orders order by name").fetchall()]

    def _rows(self, sql: str) -> list[Row]:
        with self.connect() as connection:
            rows = connection.execute(sql).fetchall()
        return [Row(UUID(str(row[0])), *row[1:7], _json(row[7]), _json(row[8]), *row[9:]) for row in rows]


def waiting_for_a_key(shop: Shop) -> int:
    """How many transactions wait for one that has published and not committed."""
    with shop.connect() as connection:
        (count,) = connection.execute(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted and "
            "database = (select oid from pg_database where datname = current_database())"
        ).fetchone()
    return int(count)


def begin_immediate(engine: Engine) -> None:
    """Let SQLite transactions begin as SQLAlchemy says, not as the driver guesses, and with the write lock."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("pragma busy_timeout = 10000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("begin immediate")


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


Maker = Callable[[Database], Shop]
