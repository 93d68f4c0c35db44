"""The promises, under load and under fire. Each run prints its seed; TIDINGS_TEST_SEED=... makes the same decisions again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Publish, Retry, Service, Subscriptions

ROOT = Path(__file__).parents[2]
KEYS = [f"k{number}" for number in range(8)]


@pytest.fixture
def seed() -> str:
    chosen = os.environ.get("TIDINGS_TEST_SEED") or str(random.randrange(1 << 32))
    print(f"TIDINGS_TEST_SEED={chosen}")
    return chosen


# --- many writers, one reader


@dataclass
class Committed:
    """An event of a committed transaction, with when its transaction began to commit, and when that was over."""

    key: str
    number: int
    began: float
    ended: float


class Writers:
    """Tasks that publish in transactions of every kind, and remember what was committed."""

    def __init__(self, world: World, service: Service, seed: str, rounds: int) -> None:
        self.world = world
        self.service = service
        self.seed = seed
        self.rounds = rounds
        self.committed: list[Committed] = []
        self.rolled_back: list[int] = []
        self._number = 0

    async def run(self, open_for: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in range(16):
                tasks.create_task(self._write(random.Random(f"{self.seed}/{name}")))
            tasks.create_task(self._write_slowly(open_for))

    def _publish(self, session: AsyncSession, key: str) -> tuple[str, int]:
        self._number += 1
        self.service.publish(session, OrderPlaced(key, self._number))
        return key, self._number

    async def _commit(self, session: AsyncSession, published: list[tuple[str, int]]) -> None:
        began = time.monotonic()
        await session.commit()
        ended = time.monotonic()
        self.committed += [Committed(key, number, began, ended) for key, number in published]

    async def _write(self, chance: random.Random) -> None:
        for _ in range(self.rounds):
            published: list[tuple[str, int]] = []
            async with AsyncSession(self.world.engine) as session:
                for _ in range(chance.randint(1, 4)):
                    if chance.random() < 0.3:
                        savepoint = await session.begin_nested()
                        inside = [self._publish(session, chance.choice(KEYS)) for _ in range(2)]
                        await self._work(session, chance)
                        if chance.random() < 0.5:
                            await savepoint.rollback()
                            self.rolled_back += [number for _, number in inside]
                        else:
                            await savepoint.commit()
                            published += inside
                    else:
                        published.append(self._publish(session, chance.choice(KEYS)))
                        await self._work(session, chance)
                end = chance.random()
                if end < 0.75:
                    await self._commit(session, published)
                else:
                    if end < 0.9:
                        await session.rollback()
                    # else it is closed as it is
                    self.rolled_back += [number for _, number in published]

    async def _work(self, session: AsyncSession, chance: random.Random) -> None:
        if chance.random() < 0.3:
            await session.execute(sa.text("insert into effects (subscription) values ('writer')"))
        if self.world.kind == "postgresql":
            await asyncio.sleep(chance.random() * 0.01)

    async def _write_slowly(self, seconds: float) -> None:
        """Write early and commit late: its rows have low numbers, and become visible after higher ones were read."""
        async with AsyncSession(self.world.engine) as session:
            await session.execute(sa.text("insert into effects (subscription) values ('writer')"))
            if self.world.kind == "postgresql":
                # A row of the log itself, drawn early, as another publisher's long transaction would have it.
                late = [("late", 1_000_000), ("late", 1_000_001)]
                for key, number in late:
                    await session.execute(
                        sa.text(
                            "insert into tidings_outbox (id, source, name, version, topic, key, slot, headers, data) values "
                            "(gen_random_uuid(), 'shop', 'order.placed', 1, 't', :key, 1, '{}', json_build_object('order_id', cast(:key as text), "
                            "'number', cast(:number as int)))"
                        ),
                        {"key": key, "number": number},
                    )
            else:
                late = []
            await asyncio.sleep(seconds)
            late += [self._publish(session, key) for key in KEYS]
            await self._commit(session, late)


async def test_every_committed_event_is_handled_once_and_in_order_while_many_write(world: World, seed: str) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))
        await effect(session, "bill", event)

    @handlers.subscribe(OrderPlaced, concurrency=4, retry=Retry(attempts=9, base=0.01, max=0.05))
    async def flaky(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await effect(session, "flaky", event)
        if envelope.attempt == 1 and event.number % 13 == 0:
            raise ValueError("no luck")

    service = world.service(handlers)
    writers = Writers(world, service, seed, rounds=12 if world.kind == "postgresql" else 5)
    async with service:
        await writers.run(open_for=2.5 if world.kind == "postgresql" else 0.3)
        expected = Counter(each.number for each in writers.committed)
        for name in ("bill", "flaky"):
            await until(lambda name=name: len(world.effects(name)) >= len(expected), f"{name}: all of {len(expected)}")  # type: ignore[misc]
        await until_equal(world.lanes, [])

    assert len(writers.rolled_back) > 20
    log = [(row["key"], _number(row)) for row in world.published("order.placed")]
    assert Counter(number for _, number in log) == expected
    for name in ("bill", "flaky"):
        effects = world.effects(name)
        assert Counter(number for _, number in effects) == expected
        for key in [*KEYS, "late"]:
            assert [number for each, number in effects if each == key] == [number for each, number in log if each == key]
    assert sorted(_number(row) for row in world.published("order.billed")) == sorted(expected)
    # What had been committed before another of its key began to commit is before it in the log.
    place = {number: index for index, (_, number) in enumerate(log)}
    for key in KEYS:
        events = sorted((each for each in writers.committed if each.key == key), key=lambda each: place[each.number])
        latest = 0.0
        for each in events:
            assert each.ended >= latest, f"{each} stands behind one that began to commit later"
            latest = max(latest, each.began)


# --- killed and started again


async def start(world: World, calls: Path, seed: str) -> Process:
    command = [sys.executable, "-m", "tests.consume.mortal", world.database.url, str(calls), seed]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()) == b"reading\n"
    return process


async def test_effects_happen_once_although_the_process_is_killed_again_and_again(world: World, seed: str, tmp_path: Path) -> None:
    count, calls = 300, tmp_path / "calls"
    chance = random.Random(seed)
    service = world.service()
    events = [OrderPlaced(chance.choice(KEYS), number) for number in range(count)]
    await world.publish(service, *events[: count // 2])

    async def publish_the_rest() -> None:
        for first in range(count // 2, count, 10):
            await world.publish(service, *events[first : first + 10])
            await asyncio.sleep(0.02)

    def handled() -> int:
        return int(world.one("select count(*) from tidings_inbox"))

    def done() -> bool:
        return handled() == 5 * count and not world.lanes()

    kills = 0
    publishing = asyncio.create_task(publish_the_rest())
    deadline = time.monotonic() + 120
    while not (publishing.done() and done()):
        assert time.monotonic() < deadline, f"{handled()} {world.lanes()} {world.deliveries()}"
        before = handled()
        process = await start(world, calls, f"{seed}/{kills}")
        # The lease of the one before has to end first.
        while handled() == before and not done() and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        moment = time.monotonic() + chance.random() * 0.6
        # Six times whatever happens, then only until all is done.
        while time.monotonic() < moment or (kills >= 6 and not done() and time.monotonic() < deadline):
            await asyncio.sleep(0.002)
        process.kill()
        await process.wait()
        kills += 1
    await publishing

    for name in ("bill", "store", "flaky", "receipt"):
        effects = world.effects(name)
        assert Counter(number for _, number in effects) == Counter(range(count)), name
        for key in KEYS:
            mine = [number for each, number in effects if each == key]
            assert mine == [event.number for event in events if event.order_id == key], name
    assert Counter(_number(row) for row in world.published("order.billed")) == Counter(range(count))
    called = Counter(int(line) for line in calls.read_text().split())
    assert set(called) == set(range(count))
    assert sum(called.values()) - count <= 50 * kills


def _number(row: dict[str, object]) -> int:
    import json

    data = row["data"]
    return int((json.loads(data) if isinstance(data, str) else data)["number"])  # type: ignore[index]
