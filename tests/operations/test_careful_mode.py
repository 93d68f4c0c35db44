"""Careful mode: from the third start without progress on, events run one at a time, promoted first, until the checkpoint has moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Breaker, Envelope, Retry, Service, Subscriptions
from tidings.consume import careful, deliveries
from tidings.consume.company import Company
from tidings.consume.suspects import given_up, suspected
from tidings.stores.base import ALONE, Claimed


async def restarted(world: World, service: Service, times: int = 2) -> None:
    """Leave the reader as processes do that were killed so often without any progress."""
    await service.start(roles=())
    await service.stop()
    await world.execute(f"update tidings_checkpoints set restarts = {times} where kind = 'log'")


class Watched:
    """A plain handler that says what runs at once, and how each event was parked meanwhile."""

    def __init__(self, world: World, **options: object) -> None:
        self.handlers = Subscriptions()
        self.now = 0
        self.most = 0
        self.done: list[tuple[str, int]] = []
        self.parked: list[tuple[str | None, str, int, int]] = []

        @self.handlers.subscribe(OrderPlaced, name="charge", **options)  # type: ignore[call-overload]
        async def charge(event: OrderPlaced) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            self.parked += world.lanes()
            await asyncio.sleep(0.01)
            self.now -= 1
            self.done.append((event.order_id, event.number))


async def test_after_two_starts_without_progress_events_run_side_by_side_as_ever(world: World) -> None:
    watched = Watched(world)
    service = world.service(watched.handlers)
    await restarted(world, service, times=1)
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(40)))
    async with service:
        await until(lambda: len(watched.done) == 40)
    assert watched.most > 1
    assert watched.parked == []


async def test_from_the_third_on_they_run_one_at_a_time_each_counted_in_a_lane_until_the_checkpoint_has_moved(world: World) -> None:
    watched = Watched(world)
    service = world.service(watched.handlers)
    await restarted(world, service)
    await world.publish(service, *(OrderPlaced(f"k{number % 5}", number) for number in range(20)))
    async with service:
        await until(lambda: len(watched.done) == 20)
        assert watched.most == 1
        assert watched.done == [(f"k{number % 5}", number) for number in range(20)]
        assert [row[1:] for row in watched.parked] == [("retrying", 1, 1)] * 20
        await until_equal(lambda: world.checkpoint()["restarts"], 0)
        await until_equal(world.lanes, [])
        watched.parked.clear()
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(40)))
        await until(lambda: len(watched.done) == 60)
    assert watched.most > 1
    assert watched.parked == []
    assert world.one("select count(*) from tidings_inbox") == 60
    assert service.counters.of("handled") == 60


async def test_handlers_with_a_transaction_and_of_lists_are_fenced_by_their_lanes(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)

    @handlers.subscribe(OrderPlaced, batch=10)
    async def report(events: list[OrderPlaced], session: AsyncSession) -> None:
        for event in events:
            await effect(session, "report", event)

    @handlers.subscribe(OrderCancelled)
    async def other(event: OrderCancelled, session: AsyncSession) -> None:
        await effect(session, "other", event)

    service = world.service(handlers)
    await restarted(world, service)
    events = [kind(f"k{number % 3}", number) for number in range(12) for kind in (OrderPlaced, OrderCancelled)]
    await world.publish(service, *events)
    async with service:
        await until(lambda: len(world.effects()) == 36)
        await until_equal(world.lanes, [])
    for name in ("bill", "report", "other"):
        assert world.effects(name) == [(f"k{number % 3}", number) for number in range(12)]
    assert service.counters.of("promoted") == 36


async def test_what_fails_is_retried_and_its_key_waits_behind_it(world: World) -> None:
    handlers = Subscriptions()
    attempts: list[tuple[str, int, int]] = []

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.05, jitter=0))
    async def bill(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        attempts.append((event.order_id, event.number, envelope.attempt))
        await effect(session, "bill", event)
        if event.number == 0 and event.order_id == "a" and envelope.attempt == 1:
            raise ValueError("no luck")

    service = world.service(handlers)
    await restarted(world, service)
    await world.publish(service, *(OrderPlaced(key, number) for number in range(5) for key in "ab"))
    async with service:
        await until(lambda: len(world.effects()) == 10)
        await until_equal(world.lanes, [])
    for key in "ab":
        assert [number for each, number in world.effects() if each == key] == list(range(5))
    assert [entry for entry in attempts if entry[:2] == ("a", 0)] == [("a", 0, 1), ("a", 0, 2)]


async def test_what_was_handled_before_is_not_handled_again(world: World) -> None:
    watched = Watched(world)
    service = world.service(watched.handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(10)))
        await until(lambda: world.one("select count(*) from tidings_inbox") == 10)
    await world.read_again()
    await restarted(world, service)
    await world.publish(service, OrderPlaced("k1", 10))
    async with service:
        await until(lambda: ("k1", 10) in watched.done)
    assert len(watched.done) == 11
    assert service.counters.of("duplicates") == 10


async def test_a_slow_event_holds_back_its_own_key_only(pg_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, "ALONE_SECONDS", 0.2)
    monkeypatch.setattr(deliveries, "ALONE_SECONDS", 0.2)
    handlers = Subscriptions()
    go = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        if (event.order_id, event.number) == ("slow", 0):
            await go.wait()
        await effect(session, "bill", event)

    service = pg_world.service(handlers)
    await restarted(pg_world, service)
    await pg_world.publish(service, *(OrderPlaced(key, number) for number in range(3) for key in ("slow", "fast")))
    async with service:
        await until_equal(pg_world.effects, [("fast", 0), ("fast", 1), ("fast", 2)])
        await until_equal(lambda: pg_world.checkpoint()["restarts"], 0)
        assert pg_world.lanes() == [("slow", "retrying", 3, 1)]
        go.set()
        await until_equal(pg_world.lanes, [])
    assert [number for key, number in pg_world.effects() if key == "slow"] == [0, 1, 2]


async def test_a_paused_subscription_keeps_its_events_in_order_until_it_is_resumed(world: World) -> None:
    watched = Watched(world)
    service = world.service(watched.handlers)
    await restarted(world, service)
    await service.operations.pause("shop/charge")
    await world.publish(service, *(OrderPlaced("a", number) for number in range(5)))
    async with service:
        await until(lambda: bool(service._runtime and service._runtime.receivers[0].pools))
        await until(lambda: service._runtime.receivers[0].pools[0].lanes.waiting == 5)  # type: ignore[union-attr]
        assert watched.done == []
        await service.operations.resume("shop/charge")
        await world.publish(service, *(OrderPlaced("a", number) for number in range(5, 8)))
        await until(lambda: len(watched.done) == 8)
    assert watched.done == [("a", number) for number in range(8)]


async def test_an_open_breaker_holds_back_events_in_careful_mode_too(world: World) -> None:
    handlers = Subscriptions()
    down = True

    @handlers.subscribe(OrderPlaced, breaker=Breaker(keys=3, pause=0.2, longest=0.2), retry=Retry(base=0.2, max=0.2, attempts=1000))
    async def charge(event: OrderPlaced) -> None:
        if down:
            raise ConnectionError("down")

    service = world.service(handlers)
    await restarted(world, service)
    await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(50)))
    async with service:
        await until(lambda: len(world.lanes()) >= 3)
        assert len(world.lanes()) <= 5
        down = False
        await until(lambda: service.counters.of("handled") == 50)


async def test_stopping_in_careful_mode_leaves_the_rest_in_the_log(world: World) -> None:
    watched = Watched(world)
    service = world.service(watched.handlers)
    await restarted(world, service)
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(300)))
    async with service:
        await until(lambda: len(watched.done) >= 3)
    done = len(watched.done)
    assert done < 300
    assert world.lanes() == []
    async with service:
        await until(lambda: len(watched.done) == 300)
    assert sorted(watched.done) == sorted((f"k{number}", number) for number in range(300))


# --- who runs beside whom


def lane(attempts: int, *, interrupted: bool = True, alone: bool = False) -> Claimed:
    return Claimed(1, "l", "k", 1, attempts, 1, interrupted, "w" + (ALONE if alone else ""))


@pytest.mark.parametrize(
    ("claimed", "attempts", "runs_alone", "dead"),
    [
        (lane(9, interrupted=False), 3, False, False),
        (lane(2), 10, False, False),
        (lane(3), 10, True, False),
        (lane(2), 1, True, False),
        (lane(2, alone=True), 10, True, False),
        (lane(2, alone=True), 1, True, True),
        (lane(10, alone=True), 10, True, False),
        (lane(11, alone=True), 10, True, True),
        (lane(11), 10, True, False),
        (lane(11, interrupted=False, alone=True), 10, False, False),
    ],
)
def test_only_what_ended_the_process_alone_is_given_up(claimed: Claimed, attempts: int, runs_alone: bool, dead: bool) -> None:
    retry = Retry(attempts=attempts)
    assert suspected(claimed, retry) == runs_alone
    assert given_up(claimed, claimed.attempts, retry) == dead


async def test_who_is_alone_waits_for_the_others_and_they_for_it() -> None:
    company = Company()
    said: list[str] = []
    busy = True
    company.join(lambda: busy)

    async def alone(name: str, ended: asyncio.Event) -> None:
        async with company.alone(5.0) as stay:
            said.append(f"{name} {stay.alone}")
            await ended.wait()

    async def present(until_this: Callable[[], object]) -> None:
        async with company.present():
            said.append("present")
            await until(until_this)

    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(alone("first", first))
        tasks.create_task(alone("second", second))
        await until(lambda: company.reserved)
        tasks.create_task(present(lambda: True))
        await asyncio.sleep(0.05)
        assert said == []
        busy = False
        await until_equal(lambda: said, ["first True"])
        first.set()
        await until(lambda: "second True" in said)
        second.set()
    assert sorted(said) == ["first True", "present", "second True"]
    assert not company.reserved


async def test_nobody_is_alone_for_ever() -> None:
    company = Company()
    gone = asyncio.Event()

    async def slow() -> bool:
        async with company.alone(0.05) as stay:
            await gone.wait()
            return stay.alone

    task = asyncio.create_task(slow())
    await until(lambda: company.reserved)
    async with company.present():
        pass
    async with company.alone(0.05) as stay:
        assert not stay.alone, "the slow one runs"
    gone.set()
    assert not await task
    async with company.alone(0.05) as stay:
        assert stay.alone


async def test_who_is_cancelled_while_it_waits_to_be_alone_holds_up_nobody() -> None:
    company = Company()
    busy = True
    company.join(lambda: busy)

    async def wait() -> None:
        async with company.alone(60.0):
            pass

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    await until(lambda: company.reserved)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with asyncio.timeout(5), company.present():
        assert not company.reserved
