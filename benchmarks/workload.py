"""The work that every benchmark does: an order is placed in a transaction of its own, and a handler writes one row of effect.

The event is about 300 bytes of JSON. The raw tables are what a careful person would write by hand, without a library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.database import Database
from tidings import Contract

__all__ = [
    "INSERT_EFFECT",
    "INSERT_ORDER",
    "LINES",
    "RAW_INBOX",
    "RAW_PUBLISH",
    "Effect",
    "Line",
    "Order",
    "OrderCreated",
    "OrderPlaced",
    "WrongResult",
    "check",
    "contract",
    "create_tables",
    "effects",
    "orders",
    "raw_outbox",
    "raw_payload",
]

TABLES = """
create table orders (
  id uuid primary key, customer text not null, total numeric(12, 2) not null, created_at timestamptz not null default now());
create table effects (
  id bigserial primary key, event_id uuid not null, at timestamptz not null default clock_timestamp());
create table raw_outbox (
  position bigint generated always as identity primary key, tx xid8 not null default pg_current_xact_id(),
  event_id uuid not null, topic text not null, key text, headers jsonb, data bytea not null, at timestamptz not null default now());
create index on raw_outbox (tx, position);
create table raw_inbox (
  subscription text not null, event_id uuid not null, at timestamptz not null default now(), primary key (subscription, event_id));
"""

# For asyncpg.
INSERT_ORDER = "insert into orders (id, customer, total) values ($1, $2, $3)"
INSERT_EFFECT = "insert into effects (event_id) values ($1)"
RAW_PUBLISH = "insert into raw_outbox (event_id, topic, key, data) values ($1, $2, $3, $4)"
#: One statement for the inbox rows of many events; returns those that are new.
RAW_INBOX = """
insert into raw_inbox (subscription, event_id) select 'bench', u.id from unnest($1::uuid[]) u(id) on conflict do nothing returning event_id
"""

# For SQLAlchemy. `effects` leaves out its generated columns, so that no INSERT asks for them back.
metadata = sa.MetaData()
orders = sa.Table(
    "orders", metadata, sa.Column("id", sa.Uuid, primary_key=True), sa.Column("customer", sa.String), sa.Column("total", sa.Numeric)
)
effects = sa.Table("effects", metadata, sa.Column("event_id", sa.Uuid))
raw_outbox = sa.Table(
    "raw_outbox", metadata, sa.Column("event_id", sa.Uuid), sa.Column("topic", sa.String), sa.Column("key", sa.String),
    sa.Column("data", sa.LargeBinary),
)  # fmt: skip


class Base(DeclarativeBase):
    """Of the mapped classes."""


class Order(Base):
    """An order, for applications that use the ORM."""

    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[int] = mapped_column(sa.Numeric)


class Effect(Base):
    """An effect, for handlers that use the ORM."""

    __tablename__ = "effects"
    event_id: Mapped[UUID] = mapped_column(primary_key=True)


contract = Contract("bench")


@dataclass(frozen=True)
class Line:
    """One line of an order."""

    sku: str
    qty: int
    price: str


@contract.event("order.created")
@dataclass(frozen=True)
class OrderCreated:
    """An event without a key."""

    order_id: UUID
    customer: str
    lines: tuple[Line, ...]


@contract.event("order.placed", key="customer")
@dataclass(frozen=True)
class OrderPlaced:
    """The same event with a key: those of one customer keep their order."""

    order_id: UUID
    customer: str
    lines: tuple[Line, ...]


LINES = tuple(Line(f"SKU-{number * 7:05d}", number, "19.99") for number in range(1, 6))

_encode = msgspec.json.Encoder().encode


def raw_payload(order_id: UUID, customer: str) -> bytes:
    """Return the event as JSON, encoded as fast as Python can."""
    return _encode({"order_id": order_id, "customer": customer, "lines": LINES})


class WrongResult(Exception):
    """What was measured did not do its work: its figure is worth nothing."""


def check(what: str, **facts: tuple[Any, Any]) -> None:
    """Compare what was found with what had to be.

    Raises:
        WrongResult: they differ.
    """
    wrong = [f"{name} is {found}, not {wanted}" for name, (found, wanted) in facts.items() if found != wanted]
    if wrong:
        raise WrongResult(f"{what}: {'; '.join(wrong)}")


async def create_tables(database: Database) -> None:
    """Make the tables of the application, and those of the raw references."""
    await database.admin.execute(TABLES)
