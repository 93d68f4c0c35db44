"""The few words in which the supported databases differ, so that a statement without a trap is written once for all of them.

Statements that carry an invariant of their own stand in `postgresql/` and `sqlite/`, printed as they run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

__all__ = ["POSTGRESQL", "SQLITE", "Dialect", "as_datetime"]

_SQLITE_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


class Dialect(NamedTuple):
    """Words of one database: its clock, and lists as a single parameter."""

    name: Literal["postgresql", "sqlite"]
    now: str

    def after(self, parameter: str) -> str:
        """Return the database's time, that many seconds from now; `parameter` is `$n`, a number."""
        if self.name == "postgresql":
            return f"(clock_timestamp() + {parameter}::float8 * interval '1 second')"
        return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ({parameter}) || ' seconds')"

    def among(self, column: str, parameter: str, kind: str) -> str:
        """Return a condition: the column is one of a list that was given through `items`."""
        if self.name == "postgresql":
            return f"{column} = any({parameter}::{kind}[])"
        return f"{column} in (select value from json_each({parameter}))"

    def items(self, values: Sequence[Any]) -> Any:
        """Return a list as the parameter that `among` takes."""
        return list(values) if self.name == "postgresql" else json.dumps(list(values))

    def cast(self, parameter: str, kind: str) -> str:
        """Return the parameter with its type, where the database wants to know it."""
        return f"{parameter}::{kind}" if self.name == "postgresql" else parameter


POSTGRESQL = Dialect("postgresql", "clock_timestamp()")
SQLITE = Dialect("sqlite", _SQLITE_NOW)


def as_datetime(value: datetime | str | None) -> datetime | None:
    """Return a time column's value as an aware datetime; SQLite gives text."""
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return value.astimezone(UTC) if value is not None else None
