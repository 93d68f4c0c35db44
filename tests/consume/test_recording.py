"""Writing down what was called, in the background: nothing is written by halves, forgotten, or written after the worker went on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from tests.consume.waiting import until, until_equal
from tidings.consume import recording as module
from tidings.consume.execution import StoreDown
from tidings.consume.received import Received
from tidings.consume.recording import Recorder, Recording


@dataclass
class Call:
    """What was called, of which key."""

    what: Any
    key: str | None = None


class Inbox:
    """Takes as long to write as the test says."""

    def __init__(self) -> None:
        self.begun: list[list[Any]] = []
        self.written: list[Any] = []
        self.errors: list[Exception] = []
        self.open = asyncio.Event()
        self.recorder: Recorder[str] = Recorder(self.write)

    async def write(self, portions: Sequence[tuple[str, list[Any]]]) -> None:
        events = [event.what for _, events in portions for event in events]
        self.begun.append(events)
        await self.open.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.written += events


def call(recording: Recording[str], *events: Any, key: str | None = None) -> None:
    for event in events:
        assert recording.take()
        recording.add(cast("Received", Call(event, key)))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)


async def test_a_call_is_written_down_soon_although_nobody_waits() -> None:
    inbox = Inbox()
    inbox.open.set()
    call(inbox.recorder.recording("p"), "a")
    await until_equal(lambda: inbox.written, ["a"])


async def test_closing_waits_for_a_call_that_came_due_while_another_was_written() -> None:
    inbox = Inbox()
    recording = inbox.recorder.recording("p")
    call(recording, "a")
    await until(lambda: inbox.begun)
    call(recording, "b")
    closing = asyncio.ensure_future(recording.close())
    await asyncio.sleep(0.03)
    assert inbox.begun == [["a"]]
    inbox.open.set()
    await closing
    assert inbox.written == ["a", "b"]


async def test_a_worker_that_is_cancelled_while_it_makes_room_has_written_down_what_it_called() -> None:
    inbox = Inbox()
    recording = Recorder(inbox.write, most=1).recording("p")

    async def work() -> None:
        try:
            call(recording, "a")
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
    inbox = Inbox()
    inbox.open.set()
    inbox.errors = [StoreDown("away")]
    recording = inbox.recorder.recording("p")
    call(recording, "a")
    await until(lambda: not inbox.errors)
    call(recording, "b")
    await recording.flush()
    assert inbox.written == ["a", "b"]
    call(recording, "c")
    inbox.errors = [StoreDown("still away")]
    with pytest.raises(StoreDown):
        await recording.close()


async def test_workers_share_a_statement_and_call_while_it_runs() -> None:
    inbox = Inbox()
    one, two = inbox.recorder.recording("1"), inbox.recorder.recording("2")
    call(one, *range(25))
    await asyncio.sleep(0)
    call(one, "x")
    call(two, "y")
    flushed = asyncio.gather(one.flush(), two.flush())
    await asyncio.sleep(0.03)
    assert inbox.begun == [list(range(25))], "one statement at a time"
    inbox.open.set()
    await flushed
    assert inbox.begun[1:] == [["x", "y"]]


async def test_a_second_statement_is_under_way_beside_one_that_takes_long_if_there_is_enough_for_it() -> None:
    inbox = Inbox()
    recording = inbox.recorder.recording("p")
    for first in (0, 25):
        call(recording, *range(first, first + 25))
        await until_equal(lambda: inbox.begun[-1:], [list(range(first, first + 25))])
    assert not recording.take()
    flushed = asyncio.ensure_future(recording.flush())
    await asyncio.sleep(0.03)
    assert len(inbox.begun) == 2
    inbox.open.set()
    await flushed
    assert sorted(inbox.written) == list(range(50))


async def test_calls_of_a_key_are_written_down_in_their_order_and_not_beside_each_other() -> None:
    """A crash between two statements would repeat the earlier call alone, and leave its effect as the last."""
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=60)
    one, two = recorder.recording("1"), recorder.recording("2")
    call(one, *range(25), key="a")
    await until_equal(lambda: inbox.begun, [list(range(25))])
    call(one, "later", key="a")
    call(two, *range(100, 123), key="b")
    await asyncio.sleep(0.03)
    assert len(inbox.begun) == 1, "23 calls are not worth a statement of their own, and the other one may not be in it"
    call(two, 123, 124, key="b")
    await until_equal(lambda: inbox.begun[1:], [list(range(100, 125))])
    flushed = asyncio.gather(one.flush(), two.flush())
    inbox.open.set()
    await flushed
    assert inbox.begun[2:] == [["later"]]


async def test_of_a_key_whose_call_could_not_be_written_down_no_later_one_is() -> None:
    """All of them are made again, in order."""
    inbox = Inbox()
    inbox.errors = [ValueError("a mistake")]
    recording = inbox.recorder.recording("p")
    call(recording, *range(25), key="a")
    await until(lambda: inbox.begun)
    call(recording, "later", key="a")
    call(recording, "another", key="b")
    call(recording, "alone")
    inbox.open.set()
    with pytest.raises(ValueError, match="a mistake"):
        await recording.flush()
    await recording.flush()
    assert inbox.written == ["another", "alone"]
    assert sum(1 for _ in iter(recording.take, False)) == 50


async def test_what_is_left_of_a_key_is_written_down_soon_although_nobody_waits() -> None:
    inbox = Inbox()
    recording = inbox.recorder.recording("p")
    call(recording, *range(25), key="a")
    await until(lambda: inbox.begun)
    call(recording, "later", key="a")
    await asyncio.sleep(0.03)
    inbox.open.set()
    await until_equal(lambda: inbox.written[25:], ["later"])


async def test_what_fails_in_one_of_two_statements_is_told_to_its_own_worker_only() -> None:
    inbox = Inbox()
    inbox.errors = [ValueError("a mistake")]
    one, two = inbox.recorder.recording("1"), inbox.recorder.recording("2")
    for recording in (one, two):
        call(recording, *range(25))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert len(inbox.begun) == 2
    flushing = asyncio.gather(one.flush(), two.flush(), return_exceptions=True)
    inbox.open.set()
    assert [type(error) for error in await flushing] == [ValueError, type(None)]
    assert sum(1 for _ in iter(one.take, False)) == 50


async def test_no_more_than_the_bound_are_under_way_or_unwritten() -> None:
    inbox = Inbox()
    recording = inbox.recorder.recording("p")
    call(recording, *range(49))
    assert recording.take()  # under way
    assert not recording.take()
    room = asyncio.ensure_future(inbox.recorder.recording("q").room())
    await asyncio.sleep(0.03)
    assert not room.done()
    inbox.open.set()
    await room
    recording.drop()
    assert sum(1 for _ in iter(recording.take, False)) == 49


async def test_what_fails_is_told_to_those_whose_calls_were_lost_and_their_room_comes_back() -> None:
    inbox = Inbox()
    inbox.errors = [ValueError("a mistake")]
    one, two, other = (inbox.recorder.recording(name) for name in "12o")
    call(one, "a")
    call(two, "b")
    flushing = asyncio.gather(one.flush(), two.flush(), return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    call(other, "c")
    inbox.open.set()
    assert [type(error) for error in await flushing] == [ValueError, ValueError]
    await other.flush()
    await one.flush()
    assert inbox.written == ["c"]
    assert sum(1 for _ in iter(one.take, False)) == 50


async def test_an_error_that_nobody_waited_for_is_told_at_the_next_step() -> None:
    inbox = Inbox()
    inbox.open.set()
    inbox.errors = [ValueError("a mistake")]
    recording = inbox.recorder.recording("p")
    call(recording, "a")
    await until(lambda: not inbox.errors)
    with pytest.raises(ValueError, match="a mistake"):
        await recording.close()


async def test_a_database_that_is_away_is_not_asked_all_the_time_for_somebody_who_waits_for_room() -> None:
    inbox = Inbox()
    inbox.open.set()
    inbox.errors = [StoreDown("away") for _ in range(1000)]
    recorder = Recorder(inbox.write, most=1)
    recording = recorder.recording("p")
    call(recording, "a")
    waiting = asyncio.ensure_future(recorder.recording("q").room())
    await until(lambda: len(inbox.begun) > 1)
    await asyncio.sleep(0.1)
    assert len(inbox.begun) < 8, "0.01 s, then twice as long each time"
    inbox.errors.clear()
    await waiting
    assert inbox.written == ["a"]


async def test_a_recorder_that_is_closed_writes_nothing_more() -> None:
    """Its reader is over and its connection given back: one that it opened now would belong to nobody."""
    inbox = Inbox()
    inbox.open.set()
    inbox.errors = [StoreDown("away") for _ in range(1000)]
    call(inbox.recorder.recording("p"), "a")
    await until(lambda: inbox.begun)
    call(inbox.recorder.recording("q"), "b")
    await inbox.recorder.close()
    inbox.errors.clear()
    begun = len(inbox.begun)
    await asyncio.sleep(0.05)
    assert (inbox.begun[begun:], inbox.written) == ([], [])


async def test_closing_waits_for_what_is_being_written() -> None:
    ended = False

    async def write(_: Sequence[tuple[str, list[Any]]]) -> None:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended = True

    recorder: Recorder[str] = Recorder(write)
    recording = recorder.recording("p")
    call(recording, "a")
    recorder.write_soon()
    await asyncio.sleep(0)
    await recorder.close()
    assert ended


async def test_who_waits_for_room_is_told_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told all at once, the first takes all of it, and for the others it costs as much as a call."""
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=2)
    call(recorder.recording("p"), "a", "b")
    looked = 0
    take = recorder.take

    def counted() -> bool:
        nonlocal looked
        looked += 1
        return take()

    monkeypatch.setattr(recorder, "take", counted)

    async def work(name: str) -> None:
        recording = recorder.recording(name)
        for number in range(2):
            if not recording.take():
                await recording.room()
            recording.add(cast("Received", Call(f"{name}{number}")))
        await recording.flush()

    workers = [asyncio.ensure_future(work(name)) for name in "cdefghij"]
    await until(lambda: looked == 2 * len(workers))
    looked = 0
    inbox.open.set()
    await asyncio.wait_for(asyncio.gather(*workers), 5)
    assert sorted(inbox.written) == sorted(["a", "b", *(f"{name}{number}" for name in "cdefghij" for number in range(2))])
    assert looked <= 4 * len(workers), "each takes twice, and few look in vain"


async def test_room_is_handed_on_by_who_was_told_and_cancelled() -> None:
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=1)
    recording = recorder.recording("p")
    assert recording.take()
    first = asyncio.ensure_future(recorder.recording("q").room())
    second = asyncio.ensure_future(recorder.recording("r").room())
    await asyncio.sleep(0)
    recording.drop()
    # It has been told, and does not know it yet.
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()


async def test_there_is_room_for_two_and_both_go_on() -> None:
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=2)
    recording = recorder.recording("p")
    assert recording.take()
    assert recording.take()
    waiting = [asyncio.ensure_future(recorder.recording(name).room()) for name in "qr"]
    await asyncio.sleep(0)
    recorder.give_back(2)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_calls_that_were_left_for_their_key_are_written_for_who_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not only when their time has come."""
    monkeypatch.setattr(module, "_SECONDS", 60)
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=26)
    one = recorder.recording("p")
    call(one, *range(25), key="k")
    await until(lambda: inbox.begun)
    call(one, "later", key="k")
    waiting = [asyncio.ensure_future(recorder.recording(name).room()) for name in "qr"]
    await asyncio.sleep(0)
    inbox.open.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    await until_equal(lambda: inbox.written, [*range(25), "later"])


async def test_who_waits_for_room_behind_others_is_told_that_his_calls_cannot_be_written() -> None:
    inbox = Inbox()
    inbox.errors = [StoreDown("away") for _ in range(1000)]
    recorder = Recorder(inbox.write, most=2)
    one, two = recorder.recording("p"), recorder.recording("q")
    call(one, "a")
    call(two, "b")
    first = asyncio.ensure_future(recorder.recording("r").room())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(two.room())
    await asyncio.sleep(0)
    inbox.open.set()
    with pytest.raises(StoreDown):
        await asyncio.wait_for(second, 5)
    await asyncio.wait_for(first, 5)
    await recorder.close()


async def test_calls_of_a_key_that_was_being_written_are_written_at_once_when_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number jumps over the one at which a call asks for it."""
    monkeypatch.setattr(module, "_SECONDS", 60)
    inbox = Inbox()
    recorder = Recorder(inbox.write, most=80)
    recording = recorder.recording("p")
    call(recording, *range(25), key="k")
    await until(lambda: inbox.begun)
    call(recording, *range(25, 55), key="k")
    inbox.open.set()
    await until_equal(lambda: inbox.written, [*range(55)])
