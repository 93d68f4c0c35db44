"""What the databases' tables are made of, in SQLAlchemy's words: types, defaults, and names that no naming convention changes."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import conv
from sqlalchemy.types import TypeEngine, UserDefinedType

__all__ = ["POSTGRESQL_WORDS", "SQLITE_WORDS", "Maker", "PgSnapshot", "Words", "Xid8"]


class Xid8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name."""
        return "xid8"


class PgSnapshot(UserDefinedType[str]):
    """PostgreSQL's snapshot: which transactions were finished at a moment."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        """Return the type's name."""
        return "pg_snapshot"


class Words(NamedTuple):
    """Types and defaults of one database; a default of None is none."""

    postgresql: bool
    uuid: TypeEngine[Any]
    json: TypeEngine[Any]
    time: TypeEngine[Any]
    bytes: TypeEngine[Any]
    small: TypeEngine[Any]
    big: TypeEngine[Any]
    boolean: TypeEngine[Any]
    now: Any
    true: Any
    nothing: Any
    true_check: str


POSTGRESQL_WORDS = Words(
    True, Uuid(), JSON(), DateTime(timezone=True), LargeBinary(), SmallInteger(), BigInteger(), Boolean(), text("clock_timestamp()"),
    text("true"), text("'[]'::json"), "singleton",
)  # fmt: skip
SQLITE_WORDS = Words(
    False, Text(), Text(), Text(), LargeBinary(), Integer(), Integer(), Integer(), None, text("1"), text("'[]'"), "singleton = 1"
)  # fmt: skip
_STATES = {"lanes": "'retrying', 'dead'", "checkpoints": "'active', 'paused', 'retired'"}
_STATES["subscriptions"] = _STATES["checkpoints"]


class Maker:
    """Makes tables, indexes and constraints with the names that the migrations give them, whatever conventions `into` has."""

    def __init__(self, made: MetaData, schema: str | None, prefix: str) -> None:
        self._made = made
        self._schema = schema
        self._prefix = prefix

    def table(self, name: str, *items: SchemaItem, **options: Any) -> Table:
        return Table(f"{self._prefix}{name}", self._made, *items, schema=self._schema, **options)

    def index(self, name: str, *columns: str, **options: Any) -> Index:
        return Index(f"{self._prefix}{name}", *columns, **options)

    def check(self, name: str, condition: str) -> CheckConstraint:
        return CheckConstraint(condition, name=conv(f"{self._prefix}{name}_check"))

    def state(self, table: str, default: str = "active") -> list[SchemaItem]:
        column = Column("state", Text, nullable=False, server_default=text(f"'{default}'"))
        return [column, self.check(f"{table}_state", f"state in ({_STATES[table]})")]
