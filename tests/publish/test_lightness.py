"""Publishing loads a driver only when a connection of it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "sqlite3", "asyncio")


@pytest.mark.parametrize("module", ["tidings.publish", "tidings.publish.publisher", "tidings.publish.publishing"])
def test_a_module_that_every_publisher_imports_loads_no_driver(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_publishing_on_sqlite3_does_not_load_sqlalchemy() -> None:
    code = """
import sqlite3, sys
from tidings.publish.link import link_to
link_to(sqlite3.connect(":memory:"))
print("sqlalchemy" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
