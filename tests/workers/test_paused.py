"""Invariant 7: a worker that is paused (SIGSTOP) loses its leases, and what it does when it wakes up harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.consume.shop import MailWanted, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.workers.checks import each_once_and_in_order, progress, publisher, reader_among
from tests.workers.conftest import Start
from tests.workers.events import orders
from tests.workers.processes import Worker

LEASE = 1.0


class Switch:
    """What workers wait for: a file that appears."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def on(self) -> None:
        self._path.touch()


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    return Switch(tmp_path / "switch")


async def notices(worker: Worker) -> None:
    """Wait until a worker that was resumed has found out that it was replaced."""
    lost = ("another worker", "the database cannot be used", "the log cannot be read", "the database was lost")
    await until(
        lambda: any(any(word in entry["message"] for word in lost) for entry in worker.journal.entries("log")),
        "the resumed worker notices", 40,
    )  # fmt: skip


@pytest.mark.parametrize(
    "moment",
    ["in the handler", "before the proof", "between proof and COMMIT", "with events just read", "before the checkpoint", "before renewing"],
)
async def test_a_reader_that_was_paused(world: World, start: Start, switch: Switch, moment: str) -> None:
    service = publisher(world)
    first = start(lease=LEASE, pause=moment, pause_in=1, when=str(switch))
    await first.says("started")
    await reader_among(world, [first])
    switch.on()
    await world.publish(service, OrderPlaced("k1", 1))
    await first.is_paused()
    second = start(lease=LEASE, slow=0.3)
    events = [OrderPlaced("k1", 1), *orders(2, 30)]
    await world.publish(service, *events[1:])
    # Whatever the first one has open on the server holds back the key that it was about to handle, and no other.
    others = sorted(event.number for event in events if event.order_id != "k1")
    await until_equal(lambda: sorted(number for key, number in world.effects() if key != "k1"), others, 40)
    before = progress(world)
    first.resume()
    await each_once_and_in_order(world, events)
    await notices(first)
    assert progress(world) >= before
    await world.publish(service, *orders(31, 35))
    await each_once_and_in_order(world, [*events, *orders(31, 35)])
    await until_equal(world.lanes, [], 40)
    assert not any(entry["level"] == "ERROR" for worker in (first, second) for entry in worker.journal.entries("log"))


async def test_the_server_can_be_told_to_give_up_on_a_paused_transaction(world: World, start: Start, switch: Switch) -> None:
    name = world.database.dsn.rpartition("/")[2]
    await world.execute(f"alter database {name} set idle_in_transaction_session_timeout = '1s'")
    service = publisher(world)
    first = start(lease=LEASE, pause="in the handler", pause_in=1)
    await first.says("started")
    await world.publish(service, *orders(1, 1))
    await first.is_paused()
    start(lease=LEASE)
    await world.publish(service, *orders(2, 20))
    # Nothing waits for the first one to come back.
    await each_once_and_in_order(world, orders(1, 20))
    first.resume()
    await notices(first)
    await world.publish(service, *orders(21, 30))
    await each_once_and_in_order(world, orders(1, 30))


async def test_a_plain_handler_that_was_paused_is_repeated_and_never_reordered(world: World, start: Start) -> None:
    service = publisher(world)
    mails = [MailWanted("a@example.org", number) for number in range(1, 21)]
    first = start(lease=LEASE, pause="in a plain handler", pause_in=1)
    await first.says("started")
    await world.publish(service, mails[0], key="k")
    await first.is_paused()
    second = start(lease=LEASE)
    await world.publish(service, *mails[1:], key="k")
    await second.says("sending", number=20)
    first.resume()
    await notices(first)
    await world.publish(service, MailWanted("a@example.org", 21), key="k")
    await until(lambda: first.said("sending", number=21) or second.said("sending", number=21), "the next mail is sent", 40)
    calls = [entry for worker in (first, second) for entry in worker.journal.entries("sending")]
    numbers = [entry["number"] for entry in sorted(calls, key=lambda entry: entry["at"])]
    assert numbers == [1, *range(1, 22)]


@pytest.mark.parametrize("moment", ["before parking is fenced", "with the fence just checked"])
async def test_a_verdict_that_comes_too_late_is_not_kept(world: World, start: Start, moment: str) -> None:
    """What a worker was about to declare dead has been handled by the one that replaced it."""
    service = publisher(world)
    # It does not notice by other means before it has written its verdict down.
    first = start(lease=LEASE, pause=moment, reject=[1], beat=4)
    await first.says("started")
    await world.publish(service, *orders(1, 1))
    await first.is_paused()
    start(lease=LEASE)
    await world.publish(service, *orders(2, 20))
    await each_once_and_in_order(world, orders(1, 20))
    first.resume()
    await notices(first)
    await world.publish(service, *orders(21, 30))
    await each_once_and_in_order(world, orders(1, 30))
    await until_equal(world.lanes, [], 40)
    assert world.deliveries() == []


async def test_a_retry_that_was_paused(world: World, start: Start) -> None:
    service = publisher(world)
    first = start(lease=LEASE, fail=[1], pause="in the handler", pause_in=1, attempt=2)
    await first.says("started")
    await world.publish(service, *orders(1, 10))
    await first.is_paused()
    second = start(lease=LEASE, fail=[1])
    await until(lambda: owner_of_lane(world) not in (None, first_worker(world, first)), "the lane is claimed by another worker", 40)
    first.resume()
    await each_once_and_in_order(world, orders(1, 10))
    await until_equal(world.lanes, [], 40)
    assert second.said("charging", number=1)
    await notices(first)
    assert world.deliveries() == []


async def test_a_slow_event_that_was_paused(world: World, start: Start, switch: Switch) -> None:
    service = publisher(world)
    first = start(lease=LEASE, slow=0.2, wait=1, gate=str(switch))
    await first.says("started")
    await world.publish(service, *orders(1, 5))
    await until(lambda: [row for row in world.deliveries() if row[1] == "slow"], "the slow event has a lane", 40)
    await first.pause()
    switch.on()
    second = start(lease=LEASE)
    await second.says("started")
    token = world.one("select lease_token from tidings_lanes")
    await until(lambda: world.one("select lease_token from tidings_lanes") != token, "the lane is claimed by another worker", 40)
    first.resume()
    await each_once_and_in_order(world, orders(1, 5))
    await until_equal(world.lanes, [], 40)
    await notices(first)
    assert world.deliveries() == []


@pytest.mark.parametrize("moment", ["before moving", "after moving"])
async def test_a_mover_that_was_paused(world: World, start: Start, switch: Switch, moment: str) -> None:
    service = publisher(world)
    first = start(lease=LEASE, pause=moment, when=str(switch), roles=["schedule"])
    await first.says("started")
    await reader_among(world, [first], "task:mover")
    await world.publish(service, *orders(1, 10), delay=timedelta(seconds=0.3))
    # After moving, the process pauses only when it has moved something; before, it may do so early, and stays paused until all are due.
    switch.on()
    await first.is_paused()
    await until_equal(lambda: world.one("select count(*) from tidings_scheduled where due_at >= now()"), 0, 40)
    start(lease=LEASE)
    await each_once_and_in_order(world, orders(1, 10))
    first.resume()
    await first.says("move_due", result=0)
    await world.publish(service, *orders(11, 15))
    await each_once_and_in_order(world, orders(1, 15))
    assert len(world.published("order.placed")) == 15


async def test_a_purger_that_was_paused(world: World, start: Start) -> None:
    service = publisher(world)
    first = start(lease=LEASE, pause="before purging")
    await first.is_paused()
    second = start(lease=LEASE)
    await reader_among(world, [second], "task:purger")
    await world.publish(service, *orders(1, 5))
    await each_once_and_in_order(world, orders(1, 5))
    await world.execute("update tidings_outbox set time = now() - interval '30 days'")
    first.resume()
    await first.says("purge_log", result=0)
    assert len(world.published("order.placed")) == 5


async def test_pauses_anywhere(any_world: World, start: Start) -> None:
    service = publisher(any_world)
    workers = [start(lease=LEASE) for _ in range(2)]
    events = orders(1, 300, keys=20)

    async def publish() -> None:
        for first in range(0, 300, 10):
            await any_world.publish(service, *events[first : first + 10])
            await asyncio.sleep(0.1)

    publishing = asyncio.create_task(publish())
    for _ in range(2):
        active, (other,) = await reader_among(any_world, workers)
        seen = len(active.journal.entries("charging"))
        await until(more_than(active, seen), "the reader is at work", 40)
        await active.pause()
        if any_world.kind == "sqlite" and write_lock_is_held(any_world):
            # Nobody can do anything before it goes on: SQLite has one writer.
            active.resume()
            continue
        assert await reader_among(any_world, [other]) == (other, [])
        active.resume()
    await publishing
    await each_once_and_in_order(any_world, events)


def more_than(worker: Worker, count: int) -> Callable[[], bool]:
    return lambda: len(worker.journal.entries("charging")) > count


def owner_of_lane(world: World) -> str | None:
    rows = world.rows("select owner from tidings_lanes where lease_until > clock_timestamp()")
    return rows[0][0] if rows else None


def first_worker(world: World, worker: Worker) -> str:
    return str(world.one("select id from tidings_workers where pid = :pid", pid=worker.pid))


def write_lock_is_held(world: World) -> bool:
    import sqlite3

    connection = sqlite3.connect(world.database.dsn, timeout=0, isolation_level=None)
    try:
        connection.execute("begin immediate")
        connection.execute("rollback")
    except sqlite3.OperationalError:
        return True
    finally:
        connection.close()
    return False
