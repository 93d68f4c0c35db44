"""What PostgreSQL does for the store's statements, as they run, whichever way it plans them. Reported by its own module auto_explain."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database

Mode = Literal["force_custom_plan", "force_generic_plan"]

MODES: tuple[Mode, ...] = ("force_custom_plan", "force_generic_plan")

_SETTINGS = {
    "log_min_duration": "0",
    "log_analyze": "on",
    "log_buffers": "on",
    "log_timing": "off",
    "log_format": "json",
    "log_level": "notice",
}


@dataclass(frozen=True)
class Scan:
    """One visit of a table."""

    kind: str
    index: str | None
    condition: str


@dataclass(frozen=True)
class Plan:
    """A plan that was run.

    Attributes:
        buffers: pages that it touched, in memory or not.
    """

    query: str
    tree: dict[str, Any]

    @property
    def buffers(self) -> int:
        return int(self.tree["Shared Hit Blocks"] + self.tree["Shared Read Blocks"])

    @property
    def rows(self) -> int:
        return int(self.tree["Actual Rows"])

    def conditions(self) -> str:
        """Conditions and filters of every node."""
        return " ".join(str(node.get(name, "")) for node in self._nodes() for name in ("Index Cond", "Recheck Cond", "Filter"))

    def scans(self, table: str) -> list[Scan]:
        """Every visit of a table, by its name. That of a bitmap is found by its index, whose name begins with the table's."""
        found = []
        for node in self._nodes():
            index = node.get("Index Name")
            relation = node.get("Relation Name") or (table if index is not None and index.startswith(table) else None)
            if relation == table and "Scan" in node["Node Type"] and node["Node Type"] != "Bitmap Heap Scan":
                found.append(Scan(node["Node Type"], index, node.get("Index Cond", "")))
        return found

    def _nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.tree]
        while waiting:
            node = waiting.pop()
            waiting += node.get("Plans", [])
            yield node


class Watched:
    """An autocommit connection whose plans are reported to `plans`, in the order in which they ran."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.plans: list[Plan] = []
        driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
        driver.add_notice_handler(self._hear)

    def plan(self, mode: Mode) -> None:
        """Plan for the arguments, or for any."""
        self.connection.execute(text(f"set plan_cache_mode = {mode}"))
        self.plans.clear()

    def _hear(self, notice: psycopg.errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if "plan:\n" in message:
            found = json.loads(message.partition("plan:\n")[2])
            self.plans.append(Plan(found["Query Text"], found["Plan"]))


@contextmanager
def watched(database: Database) -> Iterator[Watched]:
    engine = create_engine(database.sync_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            try:
                connection.execute(text("load 'auto_explain'"))
            except DBAPIError as error:
                pytest.skip(f"the server cannot report plans: {error.orig}")
            for name, value in _SETTINGS.items():
                connection.execute(text(f"set auto_explain.{name} = '{value}'"))
            yield Watched(connection)
    finally:
        engine.dispose()
