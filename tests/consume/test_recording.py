"""Writing down what was called, in the background: nothing is written by halves, forgotten, or written after the worker went on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidings.consume import recording as module
from tidings.consume.execution import StoreDown
from tidings.consume.recording import Recording


class Inbox:
    """Takes as long to write as the test says."""

    def __init__(self) -> None:
        self.begun: list[list[Any]] = []
        self.written: list[Any] = []
        self.open = asyncio.Event()

    async def write(self, events: list[Any]) -> None:
        self.begun.append(events)
        await self.open.wait()
        self.written += events


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)


async def test_closing_waits_for_a_call_that_came_due_while_another_was_written() -> None:
    inbox = Inbox()
    recording = Recording(inbox.write, lambda: True, 25)
    recording.add("a")  # type: ignore[arg-type]
    await asyncio.sleep(0.03)
    recording.add("b")  # type: ignore[arg-type]
    closing = asyncio.ensure_future(recording.close())
    await asyncio.sleep(0.03)
    assert inbox.begun == [["a"]]
    inbox.open.set()
    await closing
    assert inbox.written == ["a", "b"]


async def test_a_worker_that_is_cancelled_while_it_makes_room_has_written_down_what_it_called() -> None:
    inbox = Inbox()
    recording = Recording(inbox.write, lambda: True, 1)

    async def work() -> None:
        try:
            recording.add("a")  # type: ignore[arg-type]
            await recording.room()
        finally:
            await recording.close()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0.001)
    inbox.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inbox.written == ["a"]


async def test_what_could_not_be_written_in_the_background_is_written_by_who_can_be_told() -> None:
    """A database that was away for a moment, during a long call, is no reason to make other calls again."""
    written: list[Any] = []
    down = [StoreDown("away")]

    async def write(events: list[Any]) -> None:
        if down:
            raise down.pop()
        written.extend(events)

    recording = Recording(write, lambda: True, 25)
    recording.add("a")  # type: ignore[arg-type]
    await asyncio.sleep(0.03)
    assert not down
    assert not written
    recording.add("b")  # type: ignore[arg-type]
    await recording.room()
    assert written == ["a", "b"]
    recording.add("c")  # type: ignore[arg-type]
    down.append(StoreDown("still away"))
    with pytest.raises(StoreDown):
        await recording.close()
