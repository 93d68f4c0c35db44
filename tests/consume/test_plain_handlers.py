"""Handlers that ask for no transaction: at least once, written down soon after."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tidings import Envelope, Retry, Subscriptions
from tidings.consume.pace import Pace
from tidings.consume.pool import Pool
from tidings.consume.recording import Recorder


def inbox(world: World) -> int:
    return int(world.one("select count(*) from tidings_inbox"))


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_calls_are_written_down(any_world: World, kind: str) -> None:
    world = any_world
    handlers = Subscriptions()
    calls: list[int] = []
    threads: set[threading.Thread] = set()

    async def handle(event: OrderPlaced, envelope: Envelope) -> None:
        calls.append(event.number)

    def handle_in_thread(event: OrderPlaced, envelope: Envelope) -> None:
        threads.add(threading.current_thread())
        calls.append(event.number)

    function: Any = handle if kind == "async def" else handle_in_thread
    handlers.subscribe(OrderPlaced, name="handle")(function)
    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(f"k{number % 5}", number) for number in range(60)))
        await until(lambda: inbox(world) == 60)
    assert sorted(calls) == list(range(60))
    for k in range(5):
        assert [number for number in calls if number % 5 == k] == [number for number in range(60) if number % 5 == k]
    assert threading.main_thread() not in threads


async def test_no_transaction_is_open_while_it_runs(pg_world: World) -> None:
    handlers = Subscriptions()
    entered, leave = asyncio.Event(), asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        entered.set()
        await leave.wait()

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, OrderPlaced("a"))
        await entered.wait()
        idle = "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'"
        async with asyncio.timeout(20):
            # In a thread: asked in between, it would find every transaction of ours waiting for us.
            while await asyncio.to_thread(pg_world.one, idle):
                await asyncio.sleep(0.01)
        leave.set()
        await until(lambda: inbox(pg_world) == 1)


async def test_never_more_than_fifty_calls_are_unrecorded(world: World) -> None:
    """Whatever the concurrency: what is called and not yet written down is what a crash repeats."""
    handlers = Subscriptions()
    called = 0
    most = 0

    @handlers.subscribe(OrderPlaced, concurrency=100)
    async def handle(event: OrderPlaced) -> None:
        nonlocal called, most
        called += 1
        most = max(most, called - inbox(world))
        await asyncio.sleep(0)

    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(300)))
        await until(lambda: inbox(world) == 300)
    assert called == 300
    assert 1 < most <= 50


async def test_slow_calls_are_written_down_one_by_one(world: World) -> None:
    handlers = Subscriptions()
    calls: list[int] = []
    proceed = asyncio.Semaphore(0)

    @handlers.subscribe(OrderPlaced, concurrency=1)
    async def handle(event: OrderPlaced) -> None:
        await proceed.acquire()
        calls.append(event.number)

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced("a", number) for number in range(10)))
    async with service:
        for number in range(10):
            await asyncio.sleep(0.11)
            proceed.release()
            await until(lambda number=number: inbox(world) == number + 1)  # type: ignore[misc]
    assert calls == list(range(10))


async def test_a_failure_parks_the_key_and_the_others_are_written_down(world: World) -> None:
    handlers = Subscriptions()
    calls: list[tuple[str, int]] = []

    @handlers.subscribe(OrderPlaced, concurrency=1, retry=Retry(attempts=2, base=1000, max=1000))
    async def handle(event: OrderPlaced) -> None:
        calls.append((event.order_id, event.number))
        if event == OrderPlaced("bad", 1):
            raise ValueError("no luck")

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced(key, number) for number in range(4) for key in ("bad", "good")))
    async with service:
        await until(lambda: inbox(world) == 5)
        await until_equal(world.deliveries, [("bad", "failed", 1, "ValueError"), ("bad", "behind", 0, None), ("bad", "behind", 0, None)])
    assert sorted(calls) == [("bad", 0), ("bad", 1), *(("good", number) for number in range(4))]


async def test_a_call_that_is_cancelled_is_made_again(world: World) -> None:
    handlers = Subscriptions()
    calls: list[int] = []
    entered = asyncio.Event()

    @handlers.subscribe(OrderPlaced, concurrency=1)
    async def handle(event: OrderPlaced, envelope: Envelope) -> None:
        calls.append(event.number)
        assert envelope.attempt == 1
        if event.number == 3 and calls.count(3) == 1:
            entered.set()
            await asyncio.Event().wait()

    first = world.service(handlers, grace=0.1)
    await world.publish(first, *(OrderPlaced("a", number) for number in range(6)))
    async with first:
        await entered.wait()
    # Those before it were called, and are written down although the worker was cancelled in the same portion.
    assert inbox(world) == 3
    async with world.service(handlers):
        await until(lambda: inbox(world) == 6)
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    assert world.deliveries() == []


async def test_stopping_while_the_inbox_cannot_be_written_ends_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is written down when a worker is cancelled; that this fails must not take the place of the cancellation."""
    handlers = Subscriptions()
    entered = asyncio.Event()
    called: list[int] = []

    @handlers.subscribe(OrderPlaced, concurrency=1)  # so that one portion holds all of them
    async def handle(event: OrderPlaced) -> None:
        called.append(event.number)
        if event.number == 9:
            entered.set()
            await asyncio.Event().wait()

    def cannot_record(*arguments: object) -> None:
        raise OperationalError("insert into inbox", None, Exception("the database is gone"))

    service = world.service(handlers, grace=0.1)
    async with asyncio.timeout(20):
        async with service:
            await world.publish(service, OrderPlaced("a", 0))
            await until_equal(lambda: inbox(world), 1)
            await world.publish(service, *(OrderPlaced("a", number) for number in range(1, 10)))
            await entered.wait()
            monkeypatch.setattr(service.store.inbox, "record", cannot_record)
    assert called == list(range(10))


async def test_lists_are_called_by_as_many_workers_as_there_are(world: World) -> None:
    """A list is one call: few of them are unrecorded, however long they are."""
    handlers = Subscriptions()
    running = 0
    leave = asyncio.Event()

    @handlers.subscribe(OrderPlaced, batch=40, concurrency=4)
    async def handle(events: list[OrderPlaced]) -> None:
        nonlocal running
        running += 1
        await leave.wait()

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(400)))
    async with service:
        await until_equal(lambda: running, 4)
        leave.set()
        await until(lambda: inbox(world) == 400)


async def test_what_is_about_to_be_written_down_waits_for_a_promotion_that_has_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was called is either off before the rest gets lanes, or taken off its lane: it never stands at the head for one that failed."""
    handlers = Subscriptions()
    entered = asyncio.Event()
    leave = asyncio.Event()
    promoted = asyncio.Event()

    @handlers.subscribe(OrderPlaced, concurrency=1, on_dead="block", retry=Retry(attempts=1))
    async def handle(event: OrderPlaced) -> None:
        if event.number == 2:
            entered.set()
            await leave.wait()
            raise ValueError("no luck")

    due = Recorder._due

    def due_and_promoted_at_once(self: Recorder[Any]) -> None:
        due(self)
        if entered.is_set() and not promoted.is_set():
            promoted.set()
            (pool,) = pools
            asyncio.ensure_future(pool.promote(0.0)).add_done_callback(lambda _: leave.set())
            # The loop runs what was made last first: as when the promotion had been on its way.
            ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
            ready.rotate(1)

    pools: list[Pool] = []
    made = Pool.__init__

    def remember(self: Pool, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        pools.append(self)

    monkeypatch.setattr(Pool, "__init__", remember)
    monkeypatch.setattr(Recorder, "_due", due_and_promoted_at_once)
    monkeypatch.setattr(Pace, "share", lambda self: 100)
    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced("a", number) for number in range(3)))
    async with service:
        await until(lambda: service.counters.of("dead") == 1)
        await asyncio.sleep(0.2)
    assert world.deliveries() == [("a", "failed", 1, "ValueError")]
    assert inbox(world) == 2


async def test_a_handler_that_answers_its_cancellation_with_an_error_was_interrupted_and_has_not_failed(world: World) -> None:
    """Invariant 11. Many a driver turns a cancellation into a connection error."""
    handlers = Subscriptions()
    entered = asyncio.Event()
    calls: list[int] = []

    @handlers.subscribe(OrderPlaced, concurrency=1, retry=Retry(attempts=1))
    async def handle(event: OrderPlaced, envelope: Envelope) -> None:
        calls.append(envelope.attempt)
        if len(calls) == 1:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ConnectionError("gone") from None

    first = world.service(handlers, grace=0.1)
    await world.publish(first, OrderPlaced("a"))
    async with asyncio.timeout(20):
        async with first:
            await entered.wait()
    assert world.deliveries() == []
    async with world.service(handlers):
        await until(lambda: inbox(world) == 1)
    assert calls == [1, 1]


async def test_slow_calls_of_some_keys_leave_the_others_room_although_much_waits_behind_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 5: a slow event holds back its own key only. A worker takes no more of the bound than it can use."""
    monkeypatch.setattr(Pace, "share", lambda self: 100)
    handlers = Subscriptions()
    running: list[str] = []
    leave = asyncio.Event()

    @handlers.subscribe(OrderPlaced, concurrency=4)
    async def handle(event: OrderPlaced) -> None:
        running.append(event.order_id)
        await leave.wait()

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("hot", 0))
        await until_equal(lambda: running, ["hot"])
        await world.publish(service, *(OrderPlaced("hot", number) for number in range(1, 200)), *(OrderPlaced(key) for key in "xyz"))
        await until_equal(lambda: sorted(running), ["hot", "x", "y", "z"])
        leave.set()
        await until(lambda: inbox(world) == 203)
