"""Processes that do a part of the work: web processes that publish only, and applications without an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.consume.waiting import until
from tests.consume.world import World
from tests.workers.checks import each_once_and_in_order, owner, publisher, reader_among
from tests.workers.conftest import Start
from tests.workers.events import orders

ROOT = Path(__file__).parents[2]
LEASE = 1.0


async def test_a_web_process_publishes_and_another_one_handles(any_world: World, start: Start) -> None:
    web = start(lease=LEASE, roles=[], publish=20)
    await web.says("published", number=20)
    worker = start(lease=LEASE)
    await each_once_and_in_order(any_world, orders(1, 20))
    assert await reader_among(any_world, [web, worker]) == (worker, [web])
    assert len(worker.journal.entries("charging")) == 20
    await worker.stop()
    # Nobody takes over: the web process leaves the log alone, and can go on publishing.
    assert owner(any_world) is None
    assert not web.said("charging")
    assert {row[0] for row in any_world.rows("select roles from tidings_workers")} == {""}
    await web.stop()


async def test_handling_and_moving_can_be_two_processes(any_world: World, start: Start) -> None:
    service = publisher(any_world)
    consumer, mover = start(lease=LEASE, roles=["consume"]), start(lease=LEASE, roles=["schedule"])
    await consumer.says("started")
    await mover.says("started")
    await any_world.publish(service, *orders(1, 10), delay=timedelta(seconds=0.2))
    await each_once_and_in_order(any_world, orders(1, 10))
    assert len(consumer.journal.entries("charging")) == 10
    assert await reader_among(any_world, [consumer, mover], "task:mover") == (mover, [consumer])
    assert await reader_among(any_world, [consumer, mover], "task:purger") == (mover, [consumer])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
async def test_a_synchronous_application_publishes_from_forked_processes(any_world: World, start: Start) -> None:
    """Like Flask under gunicorn with preload, or Celery with prefork: the service is made first, then the processes."""
    worker = start(lease=LEASE)
    application = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error::ResourceWarning", "-m", "tests.workers.flask_like", any_world.database.sync_url,
        cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, told = await application.communicate()
    assert application.returncode == 0, told.decode()
    published = [event for child in range(3) for event in orders(100 * child + 1, 100 * child + 10, key=f"{child}-")]
    await each_once_and_in_order(any_world, published)
    assert len(worker.journal.entries("charging")) == 30
    await until(lambda: any_world.lanes() == [])
