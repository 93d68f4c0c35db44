"""The circuit breaker: an outage of what handlers need leaves the backlog in the log."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Retry, Subscriptions
from tidings.consume.breaker import Breaker


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_failures_of_one_key_are_no_outage() -> None:
    breaker = Breaker(threshold=3, clock=Time())
    for _ in range(100):
        breaker.failed("a")
        breaker.failed("b")
    assert not breaker.is_open


def test_distinct_keys_that_fail_in_a_row_open_it_and_one_success_closes_it() -> None:
    breaker = Breaker(threshold=3, clock=Time())
    for key in "ab":
        breaker.failed(key)
    breaker.succeeded()
    for key in "cd":
        breaker.failed(key)
    assert not breaker.is_open
    breaker.failed("e")
    assert breaker.is_open
    breaker.succeeded()
    assert not breaker.is_open


def test_while_open_one_event_at_a_time_probes_ever_more_rarely() -> None:
    time = Time()
    breaker = Breaker(threshold=1, pause=1.0, longest=5.0, clock=time)
    breaker.failed("a")
    pauses = []
    for number in range(6):
        pause = breaker.wait(time.now)
        pauses.append(pause)
        time.now += pause
        assert breaker.wait(time.now) == 0.0
        assert breaker.wait(time.now) > 0.0, "only one probes"
        breaker.failed(f"b{number}")
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_is_open_exactly_when_enough_distinct_keys_failed_since_the_last_success(history: list[tuple[bool, int]]) -> None:
    breaker = Breaker(threshold=4, clock=Time())
    failed: set[int] = set()
    for success, key in history:
        if success:
            breaker.succeeded()
            failed.clear()
        else:
            breaker.failed(str(key))
            failed.add(key)
        assert breaker.is_open == (len(failed) >= 4)


async def test_an_outage_parks_a_few_keys_and_leaves_the_rest_in_the_log(world: World) -> None:
    handlers = Subscriptions()
    down = True

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.2, max=0.2, attempts=100), concurrency=2)
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "charge", event)
        if down:
            raise ConnectionError("the payment service is down")

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(200)))
        await until(lambda: len(world.lanes()) >= 10)
        # Every attempt from now on is a probe.
        assert len(world.lanes()) <= 14
        assert world.effects() == []
        down = False
        await until_equal(lambda: len(world.effects()), 200)
        await until_equal(world.lanes, [])
    assert sorted({key for key, _ in world.effects()}) == sorted(f"k{number}" for number in range(200))
