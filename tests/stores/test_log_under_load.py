"""Nothing is skipped and nothing comes twice, however writers and readers meet (invariants 1, 2 and 5)."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from tests.services.databases import Database
from tests.stores.events import earliest, outgoing
from tests.stores.opening import opened
from tidings.publish.outgoing import Outgoing
from tidings.stores import SQLStore
from tidings.stores.base import Mark

_SECONDS = 5.0
_WRITERS = 16
_KEYS = [f"key-{n}" for n in range(25)]


class Load:
    """Writers in every state that a transaction can be in, and what of theirs was committed."""

    def __init__(self, store: SQLStore, dsn: str, seed: int) -> None:
        self.store = store
        self.dsn = dsn
        self.random = random.Random(seed)
        self.committed: set[str] = set()
        self.done: dict[str, int] = defaultdict(int)

    async def insert(self, connection: asyncpg.Connection[Any], events: Sequence[Outgoing]) -> None:
        for command in self.store.publishing.publish(events):
            await connection.execute(command.sql.numbered, *command.arguments)

    def events(self, least: int = 1) -> list[Outgoing]:
        count = least + int(self.random.expovariate(1 / 3))
        return [outgoing(self.random.choice([None, *_KEYS])) for _ in range(count)]

    async def pause(self) -> None:
        await asyncio.sleep(self.random.expovariate(1 / 0.004))

    async def write(self, writer: int, until: float) -> None:
        connection = await asyncpg.connect(self.dsn)
        ways = [self.commit] * 12 + [self.roll_back] * 3 + [self.savepoints] * 3 + [self.prepare] * 2
        number = 0
        while asyncio.get_running_loop().time() < until:
            number += 1
            way = self.random.choice(ways)
            await way(connection, f"{writer}-{number}")
            self.done[way.__name__] += 1
            await self.pause()
        await connection.close()

    async def commit(self, connection: asyncpg.Connection[Any], name: str) -> None:
        events = self.events()
        async with connection.transaction():
            # The number is drawn before the wait, so that commits come in another order than numbers.
            await connection.execute("select pg_current_xact_id()")
            await self.pause()
            await self.insert(connection, events)
        self.note(events)

    async def roll_back(self, connection: asyncpg.Connection[Any], name: str) -> None:
        transaction = connection.transaction()
        await transaction.start()
        await self.insert(connection, self.events())
        await self.pause()
        await transaction.rollback()

    async def savepoints(self, connection: asyncpg.Connection[Any], name: str) -> None:
        kept = self.events()
        async with connection.transaction():
            undone = connection.transaction()
            await undone.start()
            await self.insert(connection, self.events())
            await undone.rollback()
            await self.pause()
            async with connection.transaction():
                await self.insert(connection, kept)
        self.note(kept)

    async def prepare(self, connection: asyncpg.Connection[Any], name: str) -> None:
        events = self.events()
        await connection.execute("begin")
        await self.insert(connection, events)
        await connection.execute(f"prepare transaction '{name}'")
        await self.pause()
        if self.random.random() < 0.3:
            await connection.execute(f"rollback prepared '{name}'")
        else:
            await connection.execute(f"commit prepared '{name}'")
            self.note(events)

    async def burst(self, after: float) -> None:
        await asyncio.sleep(after)
        connection = await asyncpg.connect(self.dsn)
        events = [outgoing(f"burst-{n % 100}") for n in range(5000)]
        async with connection.transaction():
            await self.insert(connection, events)
        self.note(events)
        await connection.close()

    async def stay_open(self, seconds: float) -> None:
        """The first to write, and the last to commit; with keys of its own, which nobody waits for."""
        connection = await asyncpg.connect(self.dsn)
        events = [outgoing(f"slow-{n}", lock=False) for n in range(20)]
        async with connection.transaction():
            await self.insert(connection, events)
            await asyncio.sleep(seconds)
        self.note(events)
        await connection.close()

    def note(self, events: Sequence[Outgoing]) -> None:
        self.committed.update(str(event.id) for event in events)


async def read(store: SQLStore, limit: int, finished: asyncio.Event) -> list[tuple[int, str, str | None]]:
    """Read as a receiver does, until the writers have finished and there is no more; return positions, ids and keys in order."""
    found: list[tuple[int, str, str | None]] = []
    mark: Mark = earliest(store)
    async with store.connections.autocommit() as held:
        while True:
            last = finished.is_set()
            batch = await held.run(store.log.read, mark, limit)
            assert len(batch.rows) == len(batch.marks)
            found += [(row[0], str(row[1]), row[6]) for row in batch.rows]
            mark = batch.end
            if not batch.more:
                if last and not batch.rows:
                    return found
                await asyncio.sleep(0.003)


@pytest.mark.parametrize("seed", [7])
async def test_every_committed_event_is_read_exactly_once_by_everyone(postgresql: Database, seed: int) -> None:
    async with opened(postgresql) as store:
        await store.upgrade()
        load = Load(store, postgresql.dsn, seed)
        finished = asyncio.Event()
        until = asyncio.get_running_loop().time() + _SECONDS
        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read(store, limit, finished)) for limit in (3, 20, 500)]
            async with asyncio.TaskGroup() as writers:
                writers.create_task(load.stay_open(_SECONDS * 0.7))
                writers.create_task(load.burst(_SECONDS * 0.3))
                for writer in range(_WRITERS):
                    writers.create_task(load.write(writer, until))
            finished.set()
        orders = [reader.result() for reader in readers]
        async with store.connections.autocommit() as held:
            stored = {str(row[0]) for row in await held.run(lambda c: c.exec_driver_sql("select id from tidings_outbox").all())}

    assert stored == load.committed  # what is committed is what the writers were told was committed
    assert all(load.done[way] > 0 for way in ("commit", "roll_back", "savepoints", "prepare"))
    for order in orders:
        seen = [event for _, event, _ in order]
        assert len(seen) == len(set(seen))
        assert set(seen) == load.committed
        # Positions really went backwards: someone who went by position would have skipped events.
        assert any(later[0] < earlier[0] for earlier, later in zip(order, order[1:], strict=False))
    by_key = [keys_in_order(order) for order in orders]
    assert by_key[0] == by_key[1] == by_key[2]
    # With the keys' locks, the order that everyone sees is that of the positions.
    for key, events in by_key[0].items():
        assert [position for position, _ in events] == sorted(position for position, _ in events), key


def keys_in_order(order: Sequence[tuple[int, str, str | None]]) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for position, event, key in order:
        if key is not None:
            found[key].append((position, event))
    return found
