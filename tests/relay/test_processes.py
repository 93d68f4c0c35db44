"""Several processes of a service that relays: one of them does, and another one goes on when that one is killed, or paused."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tests.relay.real import BROKERS, arrivals, group_of, transport_to
from tests.relay.sent import in_order
from tests.workers.checks import owner, publisher, reader_among
from tests.workers.conftest import Start, nursery, start
from tests.workers.conftest import world as process_world

__all__ = ["nursery", "start"]

world = process_world
LEASE = 1.0


@pytest.fixture(params=["rabbitmq", "redis", "kafka"])
def broker(request: pytest.FixtureRequest) -> tuple[str, str]:
    """One for each of the things that a failure may mean."""
    return request.param, request.getfixturevalue(f"{request.param}_url")


def config(broker: tuple[str, str]) -> dict[str, object]:
    name, url = broker
    options = {"partitions": 3} if name == "kafka" else {}
    return {"transport": BROKERS[name], "broker": url, "options": {**options, "timeout": 5.0}, "lease": LEASE, "roles": ["relay"]}


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_another_process_goes_on_when_one_is_gone(world: World, start: Start, broker: tuple[str, str], how: str) -> None:
    mine = f"{uuid4().hex[:8]}-"
    transport = transport_to(*broker)
    group = await group_of(transport)
    reader = f"shop/relay:{broker[0]}@log"
    service = publisher(world)
    workers = [start("relay", **config(broker)) for _ in range(3)]
    for worker in workers:
        await worker.says("started")
    events = [OrderPlaced(f"{mine}{number % 40}", number) for number in range(1, 4001)]

    async def publish() -> None:
        for first in range(0, 4000, 40):
            await world.publish(service, *events[first : first + 40])
            await asyncio.sleep(0.02)

    publishing = asyncio.create_task(publish())
    active, others = await reader_among(world, workers, reader)
    await until(lambda: world.one("select high from tidings_checkpoints where reader = :reader", reader=reader) > 200, seconds=40)
    if how == "killed":
        active.kill()
    else:
        await active.pause()
    await reader_among(world, others, reader)
    await publishing
    if how == "paused":
        active.resume()
    found = await arrivals(transport, group, events, mine=mine)
    assert in_order(found, events)
    if how == "paused":
        lost = ("another worker", "was not renewed in time")
        await until(lambda: any(word in entry["message"] for entry in active.journal.entries("log") for word in lost), "it notices", 40)
    assert owner(world, reader) is not None
