"""The log on SQLite: one writer at a time, so positions are in the order of commits, and position is enough."""

from __future__ import annotations

import asyncio
import random

from tests.services.databases import Database
from tests.stores.events import earliest, everything, ids, insert, outgoing, publish
from tests.stores.opening import opened
from tidings.publish.outgoing import Outgoing
from tidings.stores import SQLStore
from tidings.stores.base import Mark


async def test_reading_can_go_on_from_every_mark(sqlite_store: SQLStore) -> None:
    events = [outgoing() for _ in range(23)]
    await publish(sqlite_store, *events)
    read: list[str] = []
    mark = earliest(sqlite_store)
    while batch := await sqlite_store.call(sqlite_store.log.read, mark, 5):
        if not batch.rows:
            break
        for row, after in zip(batch.rows, batch.marks, strict=True):
            read += ids([row])
            rest = await everything(sqlite_store, after, 7)
            assert read + ids(rest) == ids(events)
        mark = batch.end
    assert read == ids(events)
    assert not batch.more


async def test_a_poll_without_news_stays_where_it_is(sqlite_store: SQLStore) -> None:
    await publish(sqlite_store, outgoing())
    mark = Mark(None, None, 1)
    batch = await sqlite_store.call(sqlite_store.log.read, mark, 10)
    assert (batch.rows, batch.marks, batch.end, batch.more) == ([], [], mark, False)


async def test_every_committed_event_is_read_exactly_once_while_writers_wait_for_one_another(sqlite: Database) -> None:
    chance = random.Random(3)
    committed: list[str] = []

    async def write(store: SQLStore) -> None:
        for _ in range(20):
            events: list[Outgoing] = [outgoing("key") for _ in range(chance.randint(1, 4))]
            async with store.connections.transaction() as held:
                await held.run(insert, store, events)
                await asyncio.sleep(chance.random() * 0.002)
                if chance.random() < 0.7:
                    await held.commit()
                    committed.extend(ids(events))

    async def read(store: SQLStore, limit: int, finished: asyncio.Event) -> list[str]:
        found: list[str] = []
        mark = earliest(store)
        while True:
            last = finished.is_set()
            batch = await store.call(store.log.read, mark, limit)
            found += ids(batch.rows)
            mark = batch.end
            if last and not batch.rows:
                return found
            await asyncio.sleep(0.002)

    async with opened(sqlite) as one, opened(sqlite) as two:
        await one.upgrade()
        finished = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read(two, limit, finished)) for limit in (3, 100)]
            async with asyncio.TaskGroup() as writers:
                for _ in range(4):
                    writers.create_task(write(one))
            finished.set()
    orders = [reader.result() for reader in readers]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == sorted(committed)
