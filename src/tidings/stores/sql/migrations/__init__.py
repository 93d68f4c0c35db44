"""Numbered migrations. Each is frozen once released; a change of the tables is a new number, and additive within a major version.

`STEPS[n](dialect, names)` returns the statements that lead from version n to n + 1.
"""

from __future__ import annotations

from collections.abc import Callable

from tidings.stores.sql.migrations import v0001
from tidings.stores.sql.names import Names

__all__ = ["OLDEST_USABLE", "STEPS", "VERSION", "first_row"]

STEPS: tuple[Callable[[str, Names], list[str]], ...] = (v0001.statements,)

#: The schema version that this code creates.
VERSION = len(STEPS)

#: The oldest schema version that this code can still run on; rolling deploys run two versions of the library side by side.
OLDEST_USABLE = 1


def first_row(dialect: str, names: Names, version: int = VERSION) -> str:
    """Return the statement that writes down, in tables just made, their version and the database cluster that they are in."""
    cluster = "(select system_identifier::text from pg_control_system())" if dialect == "postgresql" else "null"
    return f"insert into {names.meta} (schema_version, system_identifier) values ({version}, {cluster})"
