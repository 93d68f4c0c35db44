"""The worlds of the consuming tests, on SQLite and PostgreSQL."""

from __future__ import annotations

from tests.consume.conftest import any_world, pg_world, world

__all__ = ["any_world", "pg_world", "world"]
