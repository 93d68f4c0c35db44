"""Several processes of one service: one reads for a group at a time, and another goes on when that one is gone."""

from __future__ import annotations

import asyncio

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.workers.checks import each_once_and_in_order, owner, publisher, reader_among
from tests.workers.conftest import Start
from tests.workers.events import orders

LEASE = 1.0


async def test_one_worker_reads_for_a_group_at_a_time(any_world: World, start: Start) -> None:
    service = publisher(any_world)
    workers = [start(lease=10) for _ in range(3)]
    for worker in workers:
        await worker.says("started")
    active, others = await reader_among(any_world, workers)
    events = orders(1, 60)
    for first in range(0, 60, 10):
        await any_world.publish(service, *events[first : first + 10])
    await each_once_and_in_order(any_world, events)
    assert len(active.journal.entries("charging")) == 60
    assert not any(worker.said("charging") for worker in others)


async def test_when_the_reader_is_killed_another_one_goes_on(any_world: World, start: Start) -> None:
    service = publisher(any_world)
    workers = [start(lease=LEASE) for _ in range(3)]
    events = orders(1, 400)

    async def publish() -> None:
        for first in range(0, 400, 20):
            await any_world.publish(service, *events[first : first + 20])
            await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish())
    active, others = await reader_among(any_world, workers)
    await active.says("charging")
    killed = active.kill()
    await until(lambda: any(worker.said("charging") for worker in others), "another worker goes on", 40)
    taken_over = min(entry["at"] for worker in others for entry in worker.journal.entries("charging"))
    await publishing
    await each_once_and_in_order(any_world, events)
    # Until the lease has run out, and until somebody looks: two thirds of that at most, and what a busy machine adds.
    assert taken_over - killed < LEASE * 1.4 + 10


async def test_eight_web_workers_publish_and_one_of_them_handles(any_world: World, start: Start) -> None:
    """As under `uvicorn --workers 8`: each serves requests, one reads, and the others take over from it."""
    workers = [start(lease=LEASE, web=True, publish=30, key=f"w{place}-", pause_between=0.02) for place in range(8)]
    for worker in workers:
        await worker.says("started")
    events = [[OrderPlaced(f"w{place}-{number % 5}", number) for number in range(1, 31)] for place in range(8)]
    # The one that handles has published everything, so that it is clear what has to arrive; then it dies.
    active, others = await reader_among(any_world, workers)
    await active.says("published", number=30)
    active.kill()
    taken_over, _ = await reader_among(any_world, others)
    for worker in others:
        await worker.says("published", number=30)
    await taken_over.stop()
    expected = [event for of_worker in events for event in of_worker]
    await until_equal(lambda: len(set(any_world.effects())), len(expected), 40)
    # Numbers repeat from worker to worker; keys do not.
    assert sorted(any_world.effects()) == sorted((event.order_id, event.number) for event in expected)
    for key in {event.order_id for event in expected}:
        numbers = [number for found, number in any_world.effects() if found == key]
        assert numbers == sorted(numbers)
    # Who handled had the lease: on a busy machine it changes hands more often than by the two that ended.
    claims = any_world.one("select lease_token from tidings_checkpoints where reader = 'shop/shop@log'")
    assert 1 <= len([worker for worker in workers if worker.said("charging")]) <= claims


async def test_a_reader_that_is_stopped_gives_its_lease_up(any_world: World, start: Start) -> None:
    service = publisher(any_world)
    workers = [start(lease=3) for _ in range(2)]
    for worker in workers:
        await worker.says("started")
    active, (other,) = await reader_among(any_world, workers)
    await any_world.publish(service, *orders(1, 50))
    await active.stop()
    assert owner(any_world) != active.pid
    assert await reader_among(any_world, [other]) == (other, [])
    await any_world.publish(service, *orders(51, 60))
    await each_once_and_in_order(any_world, orders(1, 60))


async def test_two_services_share_a_database_and_nothing_else(world: World, start: Start) -> None:
    service = publisher(world)
    shop, ledger = start(lease=LEASE), start("ledger", lease=LEASE)
    await shop.says("started")
    await ledger.says("started")
    await world.publish(service, *orders(1, 50))
    await each_once_and_in_order(world, orders(1, 50))
    await each_once_and_in_order(world, orders(1, 50), "book")
    shop.kill()
    await world.publish(service, *orders(51, 60))
    await each_once_and_in_order(world, orders(1, 60), "book")
    assert len(world.effects("charge")) == 50
    await start(lease=LEASE).says("charging", number=60)
    await each_once_and_in_order(world, orders(1, 60))
