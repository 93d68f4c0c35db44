"""Readers with a past, for tests that restore or move their database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from tests.stores.events import ids, insert, outgoing, publish, read_on
from tidings.stores import SQLStore
from tidings.stores.base import Lease

READER = "shop/shop@log"


async def register(store: SQLStore, group: str = "shop") -> str:
    await store.transact(store.registry.register, "shop", {group: "earliest"}, [])
    return f"shop/{group}@log"


async def acquire(store: SQLStore, reader: str = READER, owner: str = "me") -> Lease:
    lease = await store.call(store.leases.acquire, reader, owner, 30.0)
    assert lease is not None
    return lease


async def read_some(store: SQLStore, limit: int, count: int, reader: str = READER) -> list[str]:
    """Read and finish that many events as a receiver does, and write the checkpoint."""
    lease = await acquire(store, reader)
    mark = lease.mark
    rows: list[Any] = []
    while len(rows) < count:
        batch = await store.call(store.log.read, mark, limit)
        taken = min(len(batch.rows), count - len(rows))
        rows += batch.rows[:taken]
        mark = batch.end if taken == len(batch.rows) else batch.marks[taken - 1]
    high = max((row[0] for row in rows), default=0)
    assert await store.call(store.leases.move, lease, mark, max(high, lease.high), same_window=False)
    await store.call(store.leases.release, lease)
    return ids(rows)


async def read_rest(store: SQLStore, reader: str = READER) -> list[str]:
    lease = await acquire(store, reader)
    rows, _, mark = await store.call(read_on, store, lease.mark)
    assert await store.call(store.leases.move, lease, mark, max([lease.high, *(row[0] for row in rows)]), same_window=False)
    await store.call(store.leases.release, lease)
    return ids(rows)


async def state(store: SQLStore) -> tuple[int, str]:
    def look(connection: Connection) -> tuple[int, str]:
        row = connection.exec_driver_sql(f"select generation, system_identifier from {store.names.meta}").one()
        return row[0], row[1]

    return await store.call(look)


async def execute(store: SQLStore, *statements: str) -> None:
    def run(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    await store.transact(run)


async def history(store: SQLStore) -> tuple[list[str], list[str]]:
    """A reader that has read some of the log, with a late transaction behind it; return what it has read and what it has not."""
    await register(store)
    before = [outgoing() for _ in range(4)]
    late = [outgoing(), outgoing()]
    after = [outgoing() for _ in range(3)]
    unread = [outgoing() for _ in range(2)]
    await publish(store, *before)
    async with store.connections.transaction() as slow:
        await slow.run(insert, store, late)
        await publish(store, *after)
        assert await read_some(store, 100, 7) == ids([*before, *after])
        await slow.commit()
    await publish(store, *unread)
    return ids([*before, *after]), ids([*late, *unread])
