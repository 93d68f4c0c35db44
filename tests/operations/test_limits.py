"""Limits on concurrency and rate: values, decisions, and a service that keeps them."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Limit, Rate, Retry, Subscriptions
from tidings.consume import deliveries
from tidings.consume.gate import Gate, Gatekeeper
from tidings.consume.limits import portion, share, take
from tidings.errors import ConfigurationError
from tidings.stores.base import Claim

# --- values


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: Rate(0),
            r"Rate\(events=0\): give a whole number from 1 to 1,000,000; for less than one event a second give a longer time",
        ),
        (lambda: Rate(0.5), r"Rate\(events=0.5\)"),  # type: ignore[arg-type]
        (lambda: Rate(True), r"Rate\(events=True\)"),
        (lambda: Rate(1, per=0), r"Rate\(per=0\): give seconds or a timedelta, from 0.001 s to 31 days"),
        (lambda: Rate(1, per=timedelta(days=32)), "Rate.per="),
        (lambda: Rate(1, per=float("nan")), "Rate.per=nan"),
        (lambda: Rate(1, burst=0), r"Rate\(burst=0\): give a whole number from 1 to 1,000,000$"),
        (lambda: Limit(concurrency=0), r"Limit\(concurrency=0\): give a whole number from 1 to 1000, or None for no limit"),
        (lambda: Limit(rate=5), r"Limit\(rate=5\): give a Rate\(...\), e.g. Rate\(100, per=timedelta\(seconds=1\)\), or None"),  # type: ignore[arg-type]
        (lambda: Subscriptions().subscription("a", rate=5), r"subscription 'a': rate=5 is not a Rate\(...\)"),  # type: ignore[arg-type]
        (lambda: Subscriptions().subscription("a", concurrency=0), "subscription 'a': concurrency=0 is not a number from 1 to 1000"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


async def test_what_is_no_limit_of_a_service_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"Service limit=5: give a Limit\(...\), e.g. Limit\(concurrency=20\), or nothing"):
        world.service(limit=5)


# --- decisions


@given(
    st.builds(Rate, st.integers(1, 1000), st.floats(0.01, 100), st.none() | st.integers(1, 100)),
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50)), max_size=40),
)
def test_in_any_time_no_more_is_taken_than_the_burst_and_what_came_meanwhile(rate: Rate, steps: list[tuple[float, int]]) -> None:
    now, paid_until = 0.0, None
    taken: list[tuple[float, int]] = []
    for pause, wanted in steps:
        now += pause
        got = take(rate, None if paid_until is None else paid_until - now, wanted)
        if got.tokens:
            paid_until = now + got.ahead
            taken.append((now, got.tokens))
        elif wanted:
            # Who waits as long as he was told gets something, if nobody else does before.
            assert take(rate, (paid_until or 0) - now - got.wait, wanted).tokens >= 1
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            span = taken[last][0] - taken[first][0]
            assert sum(count for _, count in taken[first : last + 1]) <= rate.depth + span / rate.interval + 1e-3


def test_a_clock_that_was_set_back_costs_one_burst_and_not_a_year() -> None:
    got = take(Rate(10, per=1, burst=5), 86400.0, 1)
    assert got.tokens == 0
    assert got.wait == pytest.approx(0.1)


def test_fast_rates_are_taken_in_portions() -> None:
    assert portion(Rate(1000)) == 100
    assert portion(Rate(1, per=60)) == 1
    assert portion(Rate(1000, burst=20)) == 20


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=60))
def test_permits_are_never_more_than_there_are_and_what_runs_keeps_its_own(limit: int, steps: list[tuple[int, int, int]]) -> None:
    claims: dict[int, Claim] = {}
    for who, runs, wants in steps:
        mine = claims.get(who, Claim(0, 0))
        busy = min(runs, mine.held)
        wanted = max(wants, busy)
        held = share(limit, mine._replace(wanted=min(wanted, limit)), busy, [claim for other, claim in claims.items() if other != who])
        claims[who] = Claim(held, min(wanted, limit))
        assert sum(claim.held for claim in claims.values()) <= limit
        assert busy <= held <= max(wanted, busy)


@given(st.integers(1, 10), st.integers(1, 6))
def test_everybody_who_wants_permits_gets_a_fair_share_of_them(limit: int, processes: int) -> None:
    claims = dict.fromkeys(range(processes), Claim(0, limit))
    claims[0] = Claim(limit, limit)
    turns = dict.fromkeys(claims, 0)
    for _ in range(10 * processes):
        for who, claim in claims.items():
            # Handlers end between two questions: nobody is busy.
            held = share(limit, claim, 0, [other for name, other in claims.items() if name != who])
            claims[who] = Claim(held, limit)
            turns[who] += held > 0
    assert min(turns.values()) > 0
    if processes <= limit:
        assert min(claim.held for claim in claims.values()) >= limit // processes


def test_who_is_alone_gets_all() -> None:
    assert share(8, Claim(0, 8), 0, []) == 8
    assert share(8, Claim(8, 8), 8, [Claim(0, 4)]) == 8, "what runs keeps its permits"
    assert share(8, Claim(8, 8), 3, [Claim(0, 4)]) == 4
    assert share(8, Claim(8, 0), 0, [Claim(0, 4)]) == 0


# --- gates of two processes


def gates(world: World, limit: Limit, count: int = 2, ttl: float = 0.6, whole: Limit | None = None) -> list[tuple[Gatekeeper, Gate]]:
    made = []
    for number in range(count):
        keeper = Gatekeeper("shop", whole or Limit(), world.store, f"w{number}", ttl)
        gate = keeper.gate("shop/charge", limit)
        assert gate is not None
        made.append((keeper, gate))
    return made


async def test_two_processes_share_permits_and_give_them_back(world: World) -> None:
    (first, one), (second, two) = gates(world, Limit(concurrency=2))
    async with first.kept(), second.kept():
        assert await one.enter() == 1
        assert await one.enter() == 1
        waiting = asyncio.create_task(two.enter())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one.leave()
        await asyncio.wait_for(waiting, 5)
        two.leave()
        one.leave()
    assert world.rows("select * from tidings_permits") == []


async def test_a_process_that_only_ever_waited_for_a_permit_takes_its_claim_with_it(world: World) -> None:
    (first, one), (second, two) = gates(world, Limit(concurrency=1), ttl=30)
    async with first.kept():
        assert await one.enter() == 1
        async with second.kept():
            waiting = asyncio.create_task(two.enter())
            while len(world.rows("select * from tidings_permits")) < 2:
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert [held for (held,) in world.rows("select held from tidings_permits")] == [1]
        one.leave()


async def test_the_permits_of_a_dead_process_come_back_when_they_run_out(world: World) -> None:
    (_, one), (second, two) = gates(world, Limit(concurrency=1))
    assert await one.enter() == 1  # and is killed: nobody renews
    began = time.monotonic()
    async with second.kept():
        await asyncio.wait_for(two.enter(), 5)
        assert time.monotonic() - began >= 0.5
        two.leave()


async def test_a_process_that_was_paused_does_not_begin_with_permits_and_tokens_that_are_others_by_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, one), (second, two) = gates(world, Limit(concurrency=1, rate=Rate(100, burst=50)))
    assert await one.enter(5) == 5
    one.leave()
    async with second.kept():
        # The first one renews nothing meanwhile, as if it were stopped.
        await asyncio.wait_for(two.enter(1), 5)
        task = asyncio.create_task(one.enter())
        await asyncio.sleep(0.3)
        assert not task.done()
        two.leave()
        await asyncio.wait_for(task, 5)


async def test_a_limit_of_the_whole_service_holds_over_its_groups(world: World) -> None:
    whole = Limit(concurrency=2)
    keepers = [Gatekeeper("shop", whole, world.store, f"w{number}", 0.6) for number in range(2)]
    found = [keeper.gate(f"group{number}/charge", Limit()) for number, keeper in enumerate(keepers)]
    most = now = 0

    async def handle(gate: Gate | None) -> None:
        nonlocal most, now
        assert gate is not None
        for _ in range(10):
            await gate.enter()
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1
            gate.leave()

    async with keepers[0].kept(), keepers[1].kept(), asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for gate in found:
            for _ in range(3):
                tasks.create_task(handle(gate))
    assert most == 2


async def test_a_rate_holds_over_two_processes(world: World) -> None:
    made = gates(world, Limit(rate=Rate(50, burst=5)))
    times: list[float] = []

    async def handle(gate: Gate) -> None:
        while len(times) < 60:
            got = await gate.enter(3)
            times.extend([time.monotonic()] * got)
            gate.leave()

    began = time.monotonic()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for _, gate in made:
            tasks.create_task(handle(gate))
    assert_rate(times, 50, 5)
    assert time.monotonic() - began < 5, "and it is used"


def assert_rate(times: list[float], events: float, burst: int, slack: float = 0.15) -> None:
    """Tokens may be used up to a moment after they were taken; that much is allowed for."""
    times = sorted(times)
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = burst + (times[last] - times[first] + slack) * events
            assert last - first + 1 <= allowed + 1, (first, last, times[last] - times[first])


async def test_who_waits_and_is_cancelled_leaves_nothing_behind(world: World) -> None:
    ((keeper, gate),) = gates(world, Limit(concurrency=1), 1, whole=Limit(concurrency=1))
    async with keeper.kept():
        assert await gate.enter() == 1
        tasks = [asyncio.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.leave()
        assert await asyncio.wait_for(gate.enter(), 5) == 1
        gate.leave()


async def test_an_idle_process_gives_its_permits_back_and_asks_for_nothing(world: World) -> None:
    ((keeper, gate),) = gates(world, Limit(concurrency=4), 1)
    async with keeper.kept():
        await gate.enter()
        gate.leave()
        await until_equal(lambda: world.rows("select * from tidings_permits"), [])


# --- in a service


class Traced:
    """A handler that says when it was called, and what ran at once."""

    def __init__(self, fail: int = 0, takes: float = 0.005) -> None:
        self.now = 0
        self.most = 0
        self.times: list[float] = []
        self.fail = fail
        self.takes = takes

    async def __call__(self, attempt: int = 99) -> None:
        self.times.append(time.monotonic())
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.takes)
        self.now -= 1
        if attempt <= self.fail:
            raise ValueError("no luck")


def traced(trace: Traced, **options: Any) -> Subscriptions:
    handlers = Subscriptions()
    retry = Retry(base=0.02, max=0.02, jitter=0)

    @handlers.subscribe(OrderPlaced, name="charge", retry=retry, **options)
    async def charge(event: OrderPlaced, envelope: Envelope) -> None:
        await trace(envelope.attempt)

    return handlers


async def test_new_events_and_retries_together_run_no_more_at_once_than_the_subscription_says(world: World) -> None:
    trace = Traced(fail=1)
    service = world.service(traced(trace, concurrency=3))
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number % 30}", number) for number in range(60)))
        await until(lambda: service.counters.of("handled") == 60)
    assert 2 <= trace.most <= 3
    assert world.rows("select * from tidings_permits") == []


async def test_an_error_of_ours_where_a_retry_waits_for_its_turn_does_not_end_the_service(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trace = Traced(fail=1)
    service = world.service(traced(trace, concurrency=3))
    enter = Gate.enter
    broken: list[int] = []

    async def breaks(self: Gate, wanted: int = 1) -> int:
        # The first handler has failed, so whoever comes next tries it again.
        if trace.times and not broken:
            broken.append(1)
            raise RuntimeError("a mistake")
        return await enter(self, wanted)

    monkeypatch.setattr(Gate, "enter", breaks)
    monkeypatch.setattr(deliveries, "_AGAIN", 0.1)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: service.counters.of("handled") == 1)
    assert broken
    assert "shop/charge: parked events cannot be claimed" in caplog.text


async def test_new_events_and_retries_together_keep_the_rate(world: World) -> None:
    trace = Traced(fail=1, takes=0)
    service = world.service(traced(trace, rate=Rate(60, burst=3)))
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(40)))
        await until(lambda: service.counters.of("handled") == 40)
    assert len(trace.times) == 80
    assert_rate(trace.times, 60, 3)


async def test_a_lane_with_many_events_keeps_the_rate_as_well(world: World) -> None:
    handlers = Subscriptions()
    trace = Traced(takes=0)

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.3, jitter=0), rate=Rate(50, burst=2))
    async def charge(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await trace(99)
        await effect(session, "charge", event)
        if event.number == 0 and envelope.attempt == 1:
            raise ValueError("no luck")

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(30)))
        await until(lambda: len(world.effects()) == 30)
    assert world.effects() == [("a", number) for number in range(30)]
    # A shared transaction that fails is run again event by event: these calls are not counted twice.
    assert_rate(trace.times, 50, 4)


async def test_a_limit_for_all_and_one_for_each_are_kept_together(world: World) -> None:
    one, other = Traced(), Traced()
    handlers = traced(one)
    both = 0

    @handlers.subscribe(OrderCancelled, group="elsewhere", concurrency=2)
    async def cancel(event: OrderCancelled) -> None:
        nonlocal both
        both = max(both, one.now + other.now + 1)
        await other()

    service = world.service(handlers, limit=Limit(concurrency=4), subscription_limit=Limit(concurrency=3))
    async with service:
        events = [kind(f"k{number}", number) for number in range(50) for kind in (OrderPlaced, OrderCancelled)]
        await world.publish(service, *events)
        await until(lambda: service.counters.of("handled") == 100)
    assert one.most <= 3
    assert other.most <= 2
    assert both <= 4


async def test_waiting_for_a_turn_is_not_slow_and_what_waits_is_in_no_lane(world: World) -> None:
    trace = Traced(takes=0)
    service = world.service(traced(trace, rate=Rate(1, per=3600, burst=5)))
    service.tuning.slow = 0.05
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(20)))
        await until(lambda: len(trace.times) == 5)
        await asyncio.sleep(0.3)
        assert len(trace.times) == 5
        assert world.lanes() == []
        assert service.counters.of("promoted") == 0
        began = time.monotonic()
    assert time.monotonic() - began < 5, "stopping does not wait for an hour"
    assert world.one("select count(*) from tidings_inbox") == 5


async def test_what_has_no_turn_yet_stays_in_the_log_and_not_in_memory(world: World) -> None:
    trace = Traced(takes=0)
    service = world.service(traced(trace, rate=Rate(1, per=3600)))
    service.tuning.events = 10
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(100)))
        await until(lambda: len(trace.times) == 1)
        await asyncio.sleep(0.3)
        assert service._runtime is not None
        (receiver,) = service._runtime.receivers
        assert receiver.pools[0].lanes.waiting <= 110


async def test_a_batch_is_as_large_as_the_rate_allows(world: World) -> None:
    handlers = Subscriptions()
    sizes: list[int] = []

    @handlers.subscribe(OrderPlaced, batch=50, concurrency=1, rate=Rate(100, burst=20))
    async def report(events: list[OrderPlaced]) -> None:
        sizes.append(len(events))

    service = world.service(handlers)
    await service.start(roles=())
    await service.stop()
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(40)))
    async with service:
        await until(lambda: sum(sizes) == 40)
    assert max(sizes) <= 20


async def test_a_replay_keeps_the_rate_too(world: World) -> None:
    trace = Traced(takes=0)
    service = world.service(traced(trace, rate=Rate(50, burst=5)))
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(10)))
        await until(lambda: service.counters.of("handled") == 10)
    trace.times.clear()
    await service.replay("charge", name="again")
    assert len(trace.times) == 10
    assert_rate(trace.times, 50, 5)


async def test_without_limits_nothing_is_asked_for(world: World) -> None:
    service = world.service(traced(Traced()))
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(20)))
        await until(lambda: service.counters.of("handled") == 20)
        assert all(compiled.gate is None for compiled in service._runtime.subscriptions)  # type: ignore[union-attr]
    assert world.rows("select * from tidings_limits") == []
