"""A receiver that parks and three workers that retry, with failures, deaths and leases that run out: each event once, in the order of its
lane, and nothing left behind."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection, text

from tests.services.databases import Database
from tests.stores.lanes import item
from tests.stores.opening import opened
from tidings.ids import event_key, lane_of
from tidings.stores import SQLStore
from tidings.stores.base import Claimed, Lease, Parking, Standing
from tidings.stores.sql.connections import Held

SUBSCRIPTION = 1
NO_LANE = "0" * 32
TTL = 0.25
EFFECTS = {
    "postgresql": "create table effects (place bigint generated always as identity primary key, event integer)",
    "sqlite": "create table effects (place integer primary key autoincrement, event integer)",
}


class Storm:
    """One subscription with its events: event n goes into one of the lanes, and may fail whenever it is tried."""

    def __init__(self, store: SQLStore, events: int, lanes: int, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.lanes = [lane_of(str(self.random.randrange(lanes))) for _ in range(events)]
        self.keys = [event_key("shop", str(n)) for n in range(events)]
        self.numbers = {key: n for n, key in enumerate(self.keys)}
        self.received = False
        self.happened: dict[str, int] = defaultdict(int)

    def chance(self, probability: float, what: str) -> bool:
        # The first time for certain: how often something is tried depends on who is faster, and a storm has some of everything.
        happens = what not in self.happened or self.random.random() < probability
        self.happened[what] += happens
        return happens

    def take_effect(self, connection: Connection, events: Sequence[int]) -> None:
        for event in events:
            connection.execute(text("insert into effects (event) values (:event)"), {"event": event})

    def parking(self, event: int, reason: str, delay: float = 0.0, attempts: int = 0) -> Parking:
        return item(self.keys[event], self.lanes[event], reason, event_id=str(event), delay=delay, attempts=attempts)

    # The receiver

    async def receive(self, lease: Lease) -> None:
        event = 0
        while event < len(self.keys):
            size = self.random.randint(1, 12)
            events = list(range(event, min(event + size, len(self.keys))))
            if self.chance(0.25, "received again"):
                # As after a restart: some of what was read before, in order.
                again = self.random.randrange(event + 1)
                events = list(range(again, min(again + size, event))) or events
            if not await self.handle_together(lease, events):
                for one in events:
                    await self.handle_alone(lease, one)
            if events[-1] >= event:
                event = events[-1] + 1
        self.received = True

    async def handle_together(self, lease: Lease, events: Sequence[int]) -> bool:
        async with self.store.connections.transaction() as handling:
            standing = await self.open(handling, events, [self.lanes[event] for event in events])
            ran = [event for index, event in enumerate(events) if index not in standing]
            if ran and self.chance(0.6, "failed together"):
                return False
            await self.prove(handling, lease, ran)
            await handling.commit()
        await self.park(lease, [self.parking(event, "behind") for n, event in enumerate(events) if standing.get(n) == Standing.PARKED])
        return True

    async def handle_alone(self, lease: Lease, event: int) -> None:
        async with self.store.connections.transaction() as handling:
            standing = await self.open(handling, [event], [self.lanes[event]])
            failed = not standing and self.chance(0.5, "failed alone")
            if not failed:
                await self.prove(handling, lease, [] if standing else [event])
                await handling.commit()
        if failed:
            await self.park(lease, [self.parking(event, "failed", delay=self.random.random() * 0.02, attempts=1)])
        elif standing.get(0) == Standing.PARKED:
            await self.park(lease, [self.parking(event, "behind")])

    async def open(self, handling: Held, events: Sequence[int], lanes: Sequence[str]) -> dict[int, int]:
        return await handling.run(self.store.inbox.open, SUBSCRIPTION, [self.keys[event] for event in events], lanes)

    async def prove(self, handling: Held, lease: Lease, ran: Sequence[int]) -> None:
        await handling.run(self.take_effect, ran)
        keys = [self.keys[event] for event in ran]
        assert await handling.run(self.store.inbox.prove, SUBSCRIPTION, keys, lease.reader, lease.shard, lease.token) == len(ran)

    async def park(self, lease: Lease, items: Sequence[Parking]) -> None:
        def write(connection: Connection) -> None:
            assert self.store.leases.holds(connection, lease)
            self.store.lanes.park(connection, SUBSCRIPTION, items)

        if items:
            self.happened["parked"] += len(items)
            await self.store.transact(write)

    # The workers

    async def retry(self, owner: str) -> None:
        while not (self.received and await self.nothing_left()):
            claimed = await self.store.transact(self.store.lanes.claim, [SUBSCRIPTION], 4, TTL, owner)
            for lane in claimed:
                await self.work(lane)
            if not claimed:
                await asyncio.sleep(0.005)

    async def work(self, lane: Claimed) -> None:
        if self.chance(0.06, "died"):
            return
        deliveries = await self.store.call(self.store.lanes.load, lane, 5)
        if not deliveries:
            return  # it was claimed in one round with others, and its lease ran out meanwhile
        head, rest = (
            self.numbers[deliveries[0].event_key.replace("-", "")],
            [self.numbers[d.event_key.replace("-", "")] for d in deliveries[1:]],
        )
        if self.chance(0.3, "failed again"):
            delay = self.random.random() * 0.02
            await self.store.transact(self.store.lanes.release, lane, state="retrying", attempts=lane.attempts, delay=delay)
            return
        slow = self.chance(0.015, "too slow")
        for events in ([head], rest):
            if events and not await self.finish(lane, events, TTL * 1.3 if slow else 0.0):
                return
        await self.store.transact(self.store.lanes.release, lane, state="retrying", attempts=0, delay=0.0)

    async def finish(self, lane: Claimed, events: Sequence[int], pause: float) -> bool:
        if pause:
            await asyncio.sleep(pause)
        async with self.store.connections.transaction() as handling:
            standing = await self.open(handling, events, [NO_LANE] * len(events))
            await handling.run(self.take_effect, [event for index, event in enumerate(events) if index not in standing])
            if not await handling.run(self.store.lanes.finish, lane, [self.keys[event] for event in events], TTL):
                self.happened["lost its lease"] += 1
                return False
            await handling.commit()
        return True

    async def nothing_left(self) -> bool:
        def count(connection: Connection) -> int:
            return int(connection.exec_driver_sql("select count(*) from tidings_lanes").scalar_one())

        return await self.store.call(count) == 0


@pytest.mark.parametrize("seed", [1])
async def test_each_event_once_in_the_order_of_its_lane_and_nothing_left(database: Database, seed: int) -> None:
    events, lanes = (2000, 40) if database.kind == "postgresql" else (250, 10)
    async with opened(database) as store:
        await store.upgrade()
        await store.call(lambda c: c.exec_driver_sql(EFFECTS[database.kind]).close())
        await store.transact(store.registry.register, "shop", {"shop": "earliest"}, [])
        lease = await store.call(store.leases.acquire, "shop/shop@log", "receiver", 600.0)
        assert lease is not None
        storm = Storm(store, events, lanes, seed)
        async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
            tasks.create_task(storm.receive(lease))
            for owner in ("one", "two", "three"):
                tasks.create_task(storm.retry(owner))
        effects = await store.call(lambda c: list(c.exec_driver_sql("select event from effects order by place").scalars()))
        left = [await store.call(lambda c, t=table: c.exec_driver_sql(f"select count(*) from {t}").scalar_one()) for table in
                ("tidings_lanes", "tidings_deliveries")]  # fmt: skip
    assert sorted(effects) == list(range(events))
    by_lane: dict[str, list[int]] = defaultdict(list)
    for event in effects:
        by_lane[storm.lanes[event]].append(event)
    assert all(order == sorted(order) for order in by_lane.values())
    assert left == [0, 0]
    # The storm was one.
    assert storm.happened["parked"] > events / 5
    assert all(storm.happened[what] > 0 for what in ("received again", "failed alone", "failed again", "died"))
