"""An event that ends the process that handles it ends dead, alone; everything else is handled (careful mode)."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.world import World
from tests.workers.conftest import Start
from tests.workers.processes import Worker

LEASE = 0.6


class Supervisor:
    """Starts a worker again whenever it has ended."""

    def __init__(self, start: Start, **config: Any) -> None:
        self._start = start
        self._config = config
        self.workers: list[Worker] = []

    async def until(self, condition: Any, what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.workers or not self.workers[-1].alive:
                self.workers.append(self._start("deadly", lease=LEASE, **self._config))
            assert time.monotonic() < deadline, f"{what} did not come true; {len(self.workers)} processes: {self.all('dying')}"
            await asyncio.sleep(0.02)

    def all(self, what: str) -> list[dict[str, Any]]:
        return [entry for worker in self.workers for entry in worker.journal.entries(what)]


def order(world: World, supervisor: Supervisor, kind: str) -> dict[str, list[int]]:
    """Return what was handled of each key, in order; a plain call that was repeated counts where it was first made."""
    by_key: dict[str, list[int]] = {}
    done = [(entry["key"], entry["number"]) for entry in supervisor.all("called")] if kind == "plain" else world.effects()
    for key, number in done:
        numbers = by_key.setdefault(key, [])
        if kind != "plain" or number not in numbers:
            numbers.append(number)
    return by_key


@pytest.mark.parametrize(
    ("kind", "how"), [("transaction", signal.SIGKILL), ("plain", None), ("batch", signal.SIGSEGV)], ids=["transaction", "plain", "batch"]
)
async def test_the_event_that_kills_the_process_ends_dead_alone(
    any_world: World, start: Start, kind: str, how: signal.Signals | None
) -> None:
    world = any_world
    options = {} if how is None else {"signal": int(how)}
    # Number 31 of 60 kills, in the middle of ten keys; 31 is of key k1, where 1, 11 and 21 come before it and 41 and 51 behind it.
    supervisor = Supervisor(start, kind=kind, kill=[31], **options)
    await publish(world, 60)
    await supervisor.until(lambda: [row for row in world.lanes() if row[1] == "dead"], "the event is dead")
    await supervisor.until(
        lambda: len(world.lanes()) == 1 and sum(map(len, order(world, supervisor, kind).values())) == 57, "all is handled"
    )
    assert world.lanes() == [("k1", "dead", 3, 4)]
    assert world.deliveries()[0] == ("k1", "failed", 4, "tidings.errors.ProcessEnded")
    assert {row[1] for row in world.deliveries()[1:]} == {"behind"}
    expected = {f"k{key}": [n for n in range(key, 60, 10) if n not in (31, 41, 51)] for key in range(10)}
    assert order(world, supervisor, kind) == expected
    await supervisor.until(lambda: supervisor.all("dead"), "on_dead is called")
    assert len(supervisor.all("dead")) == 1
    assert supervisor.all("dead")[0]["error"] == "ProcessEnded"
    dying = supervisor.all("dying")
    assert {entry["number"] for entry in dying} == {31}
    # As long as other events make progress, nobody suspects a crash loop; once its attempts are counted, it has as many as any other.
    assert 4 <= len(dying) <= 20, dying
    if kind != "batch":
        assert sorted(entry["attempt"] for entry in dying if entry["attempt"] > 1) in ([2, 3, 4], [2, 3, 4, 5])
    # Progress ends careful mode.
    await world.publish(world.service(), OrderPlaced("k0", 60))
    await supervisor.until(lambda: world.checkpoint()["restarts"] == 0, "the checkpoint moves")
    assert supervisor.workers[-1].alive


async def test_a_retried_event_that_kills_the_process_does_not_take_others_with_it(any_world: World, start: Start) -> None:
    world = any_world
    # Ten keys fail at first and are tried again together; the one of key k3 kills the process from then on.
    supervisor = Supervisor(start, kind="plain", kill=[3], since=2, fail=list(range(10)), attempts=3, takes=0.05)
    await publish(world, 10)
    await supervisor.until(lambda: any(row[1] == "dead" for row in world.lanes()) and len(world.lanes()) == 1, "only the killer is left")
    assert world.lanes() == [("k3", "dead", 1, 3)]
    assert sorted({entry["number"] for entry in supervisor.all("called")}) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    await supervisor.until(lambda: supervisor.all("dead"), "on_dead is called")
    assert [entry["key"] for entry in supervisor.all("dead")] == ["k3"]
    assert 2 <= len(supervisor.all("dying")) <= 4


async def test_two_that_kill_are_both_found(any_world: World, start: Start) -> None:
    world = any_world
    supervisor = Supervisor(start, kind="transaction", kill=[5, 16], attempts=2)
    await publish(world, 30)
    await supervisor.until(lambda: [row[:2] for row in world.lanes()] == [("k5", "dead"), ("k6", "dead")], "both are dead")
    await supervisor.until(lambda: len(world.effects()) == 30 - 3 - 2, "all is handled")
    assert {row[0]: row[3] for row in world.deliveries() if row[3]} == {
        "k5": "tidings.errors.ProcessEnded", "k6": "tidings.errors.ProcessEnded",
    }  # fmt: skip


async def publish(world: World, count: int) -> None:
    service = world.service()
    await world.publish(service, *(OrderPlaced(f"k{number % 10}", number) for number in range(count)))
