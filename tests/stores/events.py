"""Events for the log, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from tidings.ids import slot_of, uuid7
from tidings.publish.outgoing import Outgoing
from tidings.stores import SQLStore
from tidings.stores.base import Batch, Mark
from tidings.stores.sql.driver import run

#: The mark before everything, as the registry gives it to a group that starts at the earliest event.
EARLIEST = {"postgresql": Mark("1:1:", None, 0), "sqlite": Mark(None, None, 0)}


def outgoing(
    key: str | None = None, *, lock: bool = True, due: datetime | timedelta | None = None, headers: str = "{}", **data: Any
) -> Outgoing:
    """An event as a publisher hands it to the store."""
    slot = None if key is None else slot_of(key)
    return Outgoing(uuid7(), "shop", "order.placed", 1, "orders", key, slot, lock and key is not None, headers, json.dumps(data), due)


def insert(connection: Connection, store: SQLStore, events: Sequence[Outgoing]) -> None:
    """Insert events into the log or the schedule, as the last statements of the connection's transaction."""
    for command in store.publishing.publish(events):
        run(connection, command)


async def publish(store: SQLStore, *events: Outgoing) -> None:
    """Publish events in a transaction of their own."""
    await store.transact(insert, store, events)


def earliest(store: SQLStore) -> Mark:
    return EARLIEST[store.dialect.name]


def ids(rows: Iterable[Any]) -> list[str]:
    """The ids of rows of the log, or of events."""
    return [str(row[1] if not isinstance(row, Outgoing) else row.id) for row in rows]


def read_on(connection: Connection, store: SQLStore, mark: Mark, limit: int = 1000) -> tuple[list[Any], list[Mark], Mark]:
    """Read until there is no more; return the rows, the mark after each, and the mark to read on from."""
    rows: list[Any] = []
    marks: list[Mark] = []
    while True:
        batch: Batch = store.log.read(connection, mark, limit)
        assert len(batch.rows) == len(batch.marks) <= limit
        rows += batch.rows
        marks += batch.marks
        mark = batch.end
        if not batch.more and not batch.rows:
            return rows, marks, mark


async def everything(store: SQLStore, mark: Mark | None = None, limit: int = 1000) -> list[Any]:
    """Read the log from a mark on, by default from the earliest event, until there is no more."""
    rows, _, _ = await store.call(read_on, store, mark or earliest(store), limit)
    return rows
