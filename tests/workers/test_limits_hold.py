"""Limits on concurrency and rate hold over all processes, also when one of them is killed or paused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tests.workers.conftest import Start
from tests.workers.processes import Worker

LEASE = 1.0


async def publish(world: World, count: int) -> None:
    await world.publish(world.service(), *(OrderPlaced(f"k{number}", number) for number in range(count)))


def spans(workers: Sequence[Worker]) -> list[tuple[float, float | None, Worker]]:
    """Return when each call began and ended, by which worker; None if it never did."""
    found = []
    for worker in workers:
        open_: dict[int, float] = {}
        for entry in worker.journal.entries():
            if entry["what"] == "begin":
                open_[entry["number"]] = entry["at"]
            elif entry["what"] == "end" and entry["number"] in open_:
                found.append((open_.pop(entry["number"]), entry["at"], worker))
        found += [(at, None, worker) for at in open_.values()]
    return sorted(found, key=lambda span: span[0])


def at_once(found: list[tuple[float, float | None, Worker]]) -> int:
    """Return how many calls ran at once at most; those that never ended are left out."""
    moments = sorted([(begin, 1) for begin, end, _ in found if end is not None] + [(end, -1) for _, end, _ in found if end is not None])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def handled(world: World) -> int:
    return int(
        world.one("select count(*) from tidings_inbox where subscription_id in (select id from tidings_subscriptions where name = 'call')")
    )


async def test_concurrency_holds_over_three_workers_one_of_which_is_killed(any_world: World, start: Start) -> None:
    workers = [start("limited", lease=LEASE, concurrency=2) for _ in range(3)]
    for worker in workers:
        await worker.says("started")
    await publish(any_world, 60)
    await until(lambda: handled(any_world) >= 15, seconds=60)
    killed = max(workers, key=lambda worker: len(worker.journal.entries("begin")))
    killed.kill()
    await until(lambda: handled(any_world) == 60 and any_world.lanes() == [], seconds=60)
    assert at_once(spans(workers)) <= 2
    assert len({worker for _, _, worker in spans(workers)}) >= 2


async def test_a_worker_that_was_paused_begins_nothing_with_what_others_have_by_now(world: World, start: Start) -> None:
    workers = [start("limited", lease=LEASE, concurrency=2, takes=0.05) for _ in range(2)]
    for worker in workers:
        await worker.says("started")
    await publish(world, 120)
    await until(lambda: handled(world) >= 10, seconds=60)
    paused = max(workers, key=lambda worker: len(worker.journal.entries("begin")))
    (other,) = (worker for worker in workers if worker is not paused)
    at = await paused.pause()
    before = len(other.journal.entries("begin"))
    await until(lambda: len(other.journal.entries("begin")) > before + 10, seconds=60)
    paused.resume()
    await until(lambda: handled(world) == 120 and world.lanes() == [], seconds=60)
    found = spans(workers)
    # What was under way when it was paused goes on when it wakes up, and so does what had its permit and had not begun; nobody can stop that.
    under_way = [span for span in found if span[2] is paused and (span[1] is None or span[1] >= at)][:2]
    assert at_once([span for span in found if span not in under_way]) <= 2


async def test_a_rate_holds_over_three_workers_one_of_which_is_killed(any_world: World, start: Start) -> None:
    workers = [start("limited", lease=LEASE, rate=40, burst=4, takes=0.001) for _ in range(3)]
    for worker in workers:
        await worker.says("started")
    await publish(any_world, 40)
    await until(lambda: handled(any_world) >= 10, seconds=60)
    killed = max(workers, key=lambda worker: len(worker.journal.entries("begin")))
    killed.kill()
    await until(lambda: handled(any_world) == 40 and any_world.lanes() == [], seconds=60)
    times = sorted(entry["at"] for worker in workers for entry in worker.journal.entries("begin"))
    assert len(times) >= 80
    for first in range(len(times)):
        for last in range(first, len(times)):
            # A token may be used a moment after it was taken.
            assert last - first + 1 <= 4 + 40 * (times[last] - times[first] + 0.25) + 1


async def test_a_limit_of_the_whole_service_holds_over_groups_that_different_workers_read(world: World, start: Start) -> None:
    workers = [start("limited", lease=LEASE, total=3, takes=0.02) for _ in range(3)]
    for worker in workers:
        await worker.says("started")
    await publish(world, 60)
    await until(lambda: world.one("select count(*) from tidings_inbox") == 120 and world.lanes() == [], seconds=60)
    assert 2 <= at_once(spans(workers)) <= 3
    await asyncio.gather(*(worker.stop() for worker in workers))
    assert world.rows("select * from tidings_permits") == []
