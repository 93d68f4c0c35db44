"""Several processes of a service that receives: killed, paused, or killed by what they handle; nothing is lost, twice, or out of order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.consume.waiting import until
from tests.consume.world import World
from tests.inbound.real import Paired, items
from tests.inbound.shops import in_order
from tests.relay.real import BROKERS
from tests.workers.conftest import Start, nursery, start
from tests.workers.conftest import world as process_world

__all__ = ["nursery", "start"]

world = process_world
SECONDS = 90.0


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, request.getfixturevalue(f"{request.param}_url")


def config(pair: Paired, **more: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": 5.0}
    if pair.name == "kafka":
        options |= {"partitions": 3, "session": 6.0}
    return {
        "transport": BROKERS[pair.name], "broker": pair.url, "options": options, "mine": pair.mine, "lease": 1.0, "roles": ["consume"], **more,
    }  # fmt: skip


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_another_process_goes_on_when_one_is_gone(world: World, start: Start, broker: tuple[str, str], how: str) -> None:
    pair = Paired(world, broker)
    events = items(1, 2000, keys=40)
    workers = [start("inbound", **config(pair)) for _ in range(2)]
    for worker in workers:
        await worker.says("started")
    async with pair.publishing() as publisher:

        async def publish() -> None:
            for first in range(0, 2000, 40):
                await world.publish(publisher, *events[first : first + 40])
                await asyncio.sleep(0.05)

        publishing = asyncio.create_task(publish())
        await until(lambda: len(world.effects()) > 200, seconds=SECONDS)
        charging = [sum(1 for entry in worker.journal.entries("charging")) for worker in workers]
        active = workers[charging.index(max(charging))]
        if how == "killed":
            active.kill()
        else:
            await active.pause()
        await publishing
        if how == "paused":
            # Longer than any lease, and than it takes the others to take over where nobody holds a lock in the database.
            await asyncio.sleep(3)
            active.resume()
        await until(lambda: len({number for _, number in world.effects()}) == 2000, seconds=SECONDS)
    assert in_order(world.effects(), events)  # type: ignore[arg-type]


async def test_a_process_that_pauses_in_a_handler_repeats_nothing_and_inverts_nothing(
    world: World, start: Start, broker: tuple[str, str]
) -> None:
    """A zombie: its partition, queue or lease is somebody else's while its transaction is open."""
    pair = Paired(world, broker)
    events = items(1, 200, keys=4)
    first = start("inbound", **config(pair, pause_in=50))
    await first.says("started")
    async with pair.publishing() as publisher:
        await world.publish(publisher, *events)
        await first.is_paused()
        second = start("inbound", **config(pair))
        await second.says("started")
        await asyncio.sleep(8)
        first.resume()
        await until(lambda: len({number for _, number in world.effects()}) == 200, seconds=SECONDS)
    assert in_order(world.effects(), events)  # type: ignore[arg-type]


async def test_an_event_that_kills_its_process_dies_alone(world: World, start: Start, broker: tuple[str, str]) -> None:
    pair = Paired(world, broker)
    events = items(1, 40, keys=4)
    others = [event for event in events if event.order_id != "k1" or event.number < 13]
    settings = config(pair, kill=[13])
    async with pair.publishing() as publisher:
        await world.publish(publisher, *events)
        for _ in range(25):
            worker = start("inbound", **settings)
            await until(lambda worker=worker: not worker.alive or _dead(world), seconds=SECONDS)  # type: ignore[misc]
            if _dead(world):
                break
        await until(lambda: len(world.effects()) == len(others), seconds=SECONDS)
    assert in_order(world.effects(), others)  # type: ignore[arg-type]


def _dead(world: World) -> bool:
    return any(row[1] == "dead" for row in world.lanes())
