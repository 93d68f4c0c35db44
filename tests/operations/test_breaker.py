"""The circuit breaker: an outage of what handlers need leaves the backlog in the log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Breaker, Retry, Service, Subscriptions
from tidings.consume.breaker import Circuit
from tidings.consume.retry import Reject
from tidings.errors import ConfigurationError
from tidings.stores.sql.queries import Subscription


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def circuit(clock: Time | None = None, **options: Any) -> Circuit:
    return Circuit(Breaker(**options), clock=clock or Time(), label="shop/charge")


# --- keys in a row


def test_failures_of_one_key_are_no_outage() -> None:
    breaker = circuit(keys=3)
    for _ in range(100):
        breaker.failed("a")
        breaker.failed("b")
    assert not breaker.is_open


def test_distinct_keys_that_fail_in_a_row_open_it_and_one_success_closes_it() -> None:
    breaker = circuit(keys=3)
    for key in "ab":
        breaker.failed(key)
    breaker.succeeded()
    for key in "cd":
        breaker.failed(key)
    assert not breaker.is_open
    breaker.failed("e", "ConnectionError: refused")
    assert breaker.is_open
    assert breaker.view() == ("open", 0.0, "3 keys failed in a row: ConnectionError: refused")
    breaker.succeeded()
    assert not breaker.is_open
    assert breaker.view() == ("closed", 0.0, "")
    one = circuit(keys=1)
    one.failed("a", "ConnectionError: refused")
    assert one.view() == ("open", 0.0, "1 key failed: ConnectionError: refused")


def test_while_open_one_event_at_a_time_probes_ever_more_rarely() -> None:
    time = Time()
    breaker = circuit(time, keys=1, pause=1.0, longest=5.0)
    breaker.failed("a")
    pauses = []
    for number in range(6):
        pause = breaker.wait(time.now)
        pauses.append(pause)
        assert breaker.view().state == "open"
        time.now += pause
        assert breaker.view().state == "half-open"
        assert breaker.wait(time.now) == 0.0
        assert breaker.wait(time.now) > 0.0, "only one probes"
        assert breaker.view().state == "half-open"
        breaker.failed(f"b{number}")
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert breaker.view().age == sum(pauses)


def test_parked_events_that_still_fail_do_not_keep_the_next_probe_away() -> None:
    time = Time()
    breaker = circuit(time, keys=1, pause=1.0, longest=60.0)
    breaker.failed("a")
    for _ in range(19):
        time.now += 0.05
        breaker.failed("a")
    assert breaker.wait(time.now) == pytest.approx(0.05)
    time.now += 0.06
    assert breaker.wait(time.now) == 0.0


def test_a_probe_that_proves_nothing_makes_way_for_the_next() -> None:
    time = Time()
    breaker = circuit(time, keys=1, pause=60.0)
    breaker.failed("a")
    time.now = 60.0
    assert breaker.wait(time.now) == 0.0
    breaker.returned()  # a duplicate: nobody was called
    assert breaker.wait(time.now) == 0.0
    breaker.failed("b")
    breaker.returned()
    assert breaker.wait(time.now) == 60.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_it_is_open_exactly_when_enough_distinct_keys_failed_since_the_last_success(history: list[tuple[bool, int]]) -> None:
    breaker = circuit(keys=4, failure_rate=None)
    failed: set[int] = set()
    for success, key in history:
        if success:
            breaker.succeeded()
            failed.clear()
        else:
            breaker.failed(str(key))
            failed.add(key)
        assert breaker.is_open == (len(failed) >= 4)


# --- share of failures


def test_a_share_of_failures_opens_it_although_some_succeed_between() -> None:
    time = Time()
    breaker = circuit(time, keys=None, failure_rate=0.5, minimum=20, window=60)
    for number in range(9):
        breaker.failed(f"k{number}", "TimeoutError: slow")
        breaker.succeeded()
        time.now += 0.1
    assert not breaker.is_open
    breaker.failed("k9")
    assert not breaker.is_open, "19 attempts"
    breaker.succeeded()
    breaker.failed("k10", "TimeoutError: slow")
    assert breaker.view().reason == "11 of 21 attempts failed within 60 s: TimeoutError: slow"


def test_what_was_under_way_as_the_share_opened_it_does_not_close_it_but_a_probe_does() -> None:
    time = Time()
    breaker = circuit(time, keys=None, failure_rate=0.5, minimum=2, window=60, pause=1)
    breaker.failed("a")
    breaker.failed("b")
    breaker.succeeded()
    assert breaker.is_open
    time.now = 1.0
    assert breaker.wait(time.now) == 0.0
    breaker.succeeded()
    assert not breaker.is_open
    breaker.failed("c")
    assert not breaker.is_open, "the count begins anew"


def test_a_key_that_fails_again_and_again_counts_once_in_the_share() -> None:
    breaker = circuit(keys=None, failure_rate=0.2, minimum=10, window=60)
    for _ in range(9):
        breaker.failed("a")
        breaker.succeeded()
    breaker.failed("a")
    breaker.failed("a")
    assert not breaker.is_open


def test_what_failed_before_the_window_is_forgotten() -> None:
    time = Time()
    breaker = circuit(time, keys=None, failure_rate=0.5, minimum=4, window=10)
    for number in range(20):
        breaker.failed(f"k{number}")
        time.now += 10
    assert not breaker.is_open
    for number in range(4):
        breaker.failed(f"n{number}")
        time.now += 1
    assert breaker.is_open


def test_a_long_time_of_successes_does_not_hide_an_outage_that_begins() -> None:
    breaker = circuit(keys=None, failure_rate=0.9, minimum=10, window=60)
    for _ in range(1_000_000):
        breaker.succeeded()
    for number in range(10):
        breaker.failed(f"k{number}")
    assert breaker.is_open


def test_a_breaker_that_is_off_never_opens() -> None:
    breaker = Circuit(Breaker.off(), clock=Time())
    for number in range(1000):
        breaker.failed(str(number))
    assert not breaker.is_open


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keys": 0}, r"Breaker\(keys=0\): give a whole number from 1 to 10,000, or None for no limit"),
        ({"keys": True}, "keys=True"),
        ({"failure_rate": 0}, r"Breaker\(failure_rate=0\): give a share above 0, up to 1, or None"),
        ({"failure_rate": 50}, "failure_rate=50"),
        ({"minimum": 1.5}, r"Breaker\(minimum=1.5\): give a whole number from 1 to 1,000,000$"),
        ({"window": 0.5}, r"Breaker\(window=0.5\): give seconds or a timedelta, from 1 s to 1 day"),
        ({"window": timedelta(days=2)}, "window="),
        ({"window": float("nan")}, "window=nan"),
        ({"pause": "1 s"}, "pause='1 s'"),
        ({"pause": 90}, r"Breaker\(pause=90, longest=60.0\): give pause <= longest"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Breaker(**options)


async def test_what_is_no_breaker_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"subscription 'charge': breaker=3 is not a Breaker\(...\)"):
        Subscriptions().subscription("charge", breaker=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Service breaker=3: give a Breaker\(...\)"):
        world.service(breaker=3)


# --- in a service


def failing(**options: Any) -> Subscriptions:
    """A handler whose service is down while `down` exists."""
    handlers = Subscriptions()
    retry = Retry(base=600, max=600, attempts=100)
    kind = options.pop("kind", "transaction")

    if kind == "transaction":

        @handlers.subscribe(OrderPlaced, retry=retry, **options)
        async def charge(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "charge", event)
            await fail(event)

    elif kind == "batch":

        @handlers.subscribe(OrderPlaced, retry=retry, batch=50, name="charge", **options)
        async def charge_all(events: list[OrderPlaced], session: AsyncSession) -> None:
            for event in events:
                await effect(session, "charge", event)
                await fail(event)

    else:

        @handlers.subscribe(OrderPlaced, retry=retry, name="charge", **options)
        async def call(event: OrderPlaced) -> None:
            await fail(event)

    async def fail(event: OrderPlaced) -> None:
        if event.number >= 1000:
            await asyncio.sleep(0)
            raise ConnectionError("the payment service is down")

    return handlers


@pytest.mark.parametrize("kind", ["transaction", "plain", "batch"])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_no_more_is_parked_than_promised_before_it_opens_even_out_of_full_transactions(
    world: World, kind: str, concurrency: int
) -> None:
    if world.kind == "sqlite" and concurrency > 1:
        pytest.skip("one writer at a time")
    service = world.service(failing(kind=kind, concurrency=concurrency, breaker=Breaker(keys=10, pause=600, longest=600)))
    async with service:
        # Events that succeed let the transactions grow to their full size.
        await world.publish(service, *(OrderPlaced(f"g{number}", number) for number in range(900)))
        await until(lambda: service.counters.of("handled") == 900)
        await world.publish(service, *(OrderPlaced(f"k{number % 400}", 1000 + number) for number in range(800)))
        await until(lambda: circuit_of(service).is_open)
        await until(lambda: not any(pool.busy for receiver in service._runtime.receivers for pool in receiver.pools))  # type: ignore[union-attr]
        assert 10 <= len(world.lanes()) <= 10 + concurrency - 1
        assert len(world.effects()) == (0 if kind == "plain" else 900)
        circuit_of(service).succeeded()
        await until(lambda: circuit_of(service).is_open)
        assert len(world.lanes()) <= 2 * (10 + concurrency - 1)
    order = world.rows("select key, sequence from tidings_deliveries order by number")
    for key in {key for key, _ in order}:
        assert (numbers := [number for each, number in order if each == key]) == sorted(numbers)


def circuit_of(service: Service) -> Circuit:
    assert service._runtime is not None
    return service._runtime.subscriptions[0].circuit


async def test_an_event_that_cannot_be_read_stays_behind_one_of_its_key_that_did_not_get_its_turn(world: World) -> None:
    """What waits in memory again must not find something later of its key parked before it (invariant 5)."""
    handlers = Subscriptions()
    down = True
    seen: list[tuple[str, int]] = []

    @handlers.subscribe(
        OrderPlaced, concurrency=1, retry=Retry(attempts=1000, base=0.05, max=0.05), breaker=Breaker(keys=1, pause=0.1, longest=0.1)
    )
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "charge", event)
        if down and event.order_id == "bad":
            raise ConnectionError
        seen.append((event.order_id, event.number))

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(f"g{number}") for number in range(300)))
        await until(lambda: service.counters.of("handled") == 300)
        await service.operations.pause("shop/charge")
        await until(lambda: service._runtime is not None and service._runtime.receivers[0].pools[0].paused)
        await world.publish(service, OrderPlaced("bad"), OrderPlaced("a", 1))
        await world.insert_row(key="a", data="{nothing" if world.kind == "sqlite" else '"nothing"')
        await world.publish(service, OrderPlaced("a", 3))
        await until(lambda: service._runtime is not None and service._runtime.receivers[0].pools[0].lanes.waiting == 4)
        await service.operations.resume("shop/charge")
        await until(lambda: ("a", 1) in seen or not down)
        down = False
        await until(lambda: ("bad", 0) in seen)
        await until(lambda: len(world.lanes()) == 1)
        # What could not be read blocks its key, and what came before it was handled.
        await until_equal(lambda: [row[:3] for row in world.lanes()], [("a", "dead", 2)])
    assert [number for key, number in world.effects("charge") if key == "a"] == [1]


# --- seen from outside


async def seen(service: Service) -> Subscription:
    (found,) = await service.operations.subscriptions()
    return found


async def until_seen(service: Service, state: str | None) -> Subscription:
    async with asyncio.timeout(20):
        while (found := await seen(service)).breaker != state:
            await asyncio.sleep(0.02)
    return found


async def test_every_process_sees_that_it_is_open_since_when_and_why(world: World) -> None:
    handlers = Subscriptions()
    up = asyncio.Event()

    @handlers.subscribe(OrderPlaced, concurrency=1, breaker=Breaker(keys=3, pause=3), retry=Retry(base=600))
    async def charge(event: OrderPlaced) -> None:
        if circuit_of(service).is_open:
            await up.wait()
        if not up.is_set():
            raise ConnectionError("the payment service is down")

    service = world.service(handlers)
    service.tuning.slow = 0.2
    # Another process would see it through its own engine; it does not even run the service.
    other = world.service(failing(), engine=world.another_engine())
    assert await other.operations.subscriptions() == []
    async with service:
        await until_seen(other, "closed")
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(20)))
        found = await until_seen(other, "open")
        assert found.breaker_reason == "3 keys failed in a row: ConnectionError: the payment service is down"
        assert found.breaker_since is not None
        assert abs((datetime.now(UTC) - found.breaker_since).total_seconds()) < 10
        probing = await until_seen(other, "half-open")
        assert probing.breaker_reason == found.breaker_reason
        assert probing.breaker_since is not None
        assert abs(probing.breaker_since - found.breaker_since) < timedelta(seconds=0.5)
        up.set()
        closed = await until_seen(other, "closed")
        assert closed.breaker_since is closed.breaker_reason is None
    assert (await seen(other)).breaker is None, "nobody reads"


async def test_the_state_of_a_dead_process_is_not_shown_and_whoever_takes_over_probes(world: World) -> None:
    events = [OrderPlaced(f"k{number}", 1000) for number in range(20)]
    first = world.service(failing(breaker=Breaker(keys=3, pause=600, longest=600)))
    first.tuning.slow = 0.2
    await first.start()
    await world.publish(first, *events)
    await until_seen(first, "open")
    await first.stop()
    parked = len(world.lanes())
    # As a process leaves it that was killed.
    kept = "breaker, breaker_reason, breaker_owner"
    assert world.rows(f"select {kept} from tidings_subscriptions")[0][0] == "open"
    await world.execute("update tidings_checkpoints set owner = 'dead', lease_until = '2020-01-01T00:00:00.000Z' where kind = 'log'")
    await world.execute("update tidings_subscriptions set breaker_owner = 'dead'")
    assert (await seen(first)).breaker is None
    second = world.service(failing(breaker=Breaker(keys=3, pause=600, longest=600)), engine=world.another_engine())
    second.tuning.slow = 0.2
    async with second:
        await until(lambda: len(world.lanes()) == parked + 1, "one event probed")
        found = await until_seen(second, "open")
        assert found.breaker_reason == "3 keys failed in a row: ConnectionError: the payment service is down"
        assert world.one("select breaker_owner from tidings_subscriptions") == second._runtime.worker  # type: ignore[union-attr]
    assert len(world.lanes()) == parked + 1


async def test_nothing_is_written_while_all_is_well(world: World) -> None:
    service = world.service(failing())
    service.tuning.slow = 0.1
    async with service:
        before = world.rows("select * from tidings_subscriptions")
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(20)))
        await until(lambda: service.counters.of("handled") == 20)
        assert world.rows("select * from tidings_subscriptions") == before


async def test_events_that_handlers_reject_are_no_outage(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, breaker=Breaker(keys=3))
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        raise Reject("unknown customer")

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(30)))
        await until(lambda: service.counters.of("dead") == 30)
        assert not circuit_of(service).is_open


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
