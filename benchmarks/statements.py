"""Counts the statements that an engine's connections run, ours apart from the handlers'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["counted"]


@contextmanager
def counted(engine: AsyncEngine) -> Iterator[Counter[str]]:
    """Count for a block: `handler` for statements on `effects`, `transaction` for BEGIN, COMMIT and ROLLBACK, `ours` for all others, and
    `commits` as SQLAlchemy tells them.

    Statements go to asyncpg past SQLAlchemy or through it, which prepares them itself: each way is listened to where it passes. Only
    connections that are opened inside the block are counted.
    """
    counts: Counter[str] = Counter()

    def note(statement: str) -> None:
        words = statement.lower()
        kind = "handler" if "effects" in words else "transaction" if words.startswith(("begin", "commit", "rollback")) else "ours"
        counts[kind] += 1

    def connected(connection: Any, record: object) -> None:
        if hasattr(connection.driver_connection, "add_query_logger"):
            connection.driver_connection.add_query_logger(lambda query: note(query.query))

    def executed(connection: object, cursor: object, statement: str, *rest: object) -> None:
        note(statement)

    def committed(connection: object) -> None:
        counts["commits"] += 1

    listeners = (("connect", connected), ("before_cursor_execute", executed), ("commit", committed))
    for name, listener in listeners:
        event.listen(engine.sync_engine, name, listener)
    try:
        yield counts
    finally:
        for name, listener in listeners:
            event.remove(engine.sync_engine, name, listener)
