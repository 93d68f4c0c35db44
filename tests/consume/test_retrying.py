"""A failed event is tried again, holds back its own key only, and keeps its key's order (invariant 5)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import MailWanted, OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import Envelope, Publish, Retry, Subscriptions
from tidings.consume.retry import Discard, Reject, RetryLater
from tidings.service import Dead
from tidings.stores.sql.lanes import LaneStatements

SOON = Retry(attempts=10, base=0.01, max=0.02, jitter=0)
LATE = Retry(attempts=10, base=1000, max=1000)


class InvalidOrder(Exception):
    pass


@pytest.mark.parametrize("kind", ["async def", "def", "plain"])
async def test_an_event_is_tried_until_it_succeeds_and_its_key_waits(world: World, kind: str) -> None:
    handlers = Subscriptions()
    attempts: list[tuple[str, int, int]] = []

    def attempt(event: OrderPlaced, envelope: Envelope) -> None:
        attempts.append((event.order_id, event.number, envelope.attempt))
        if event == OrderPlaced("bad", 1) and envelope.attempt < 4:
            raise ValueError("no luck")

    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))
        await effect(session, "handle", event)
        attempt(event, envelope)

    def handle_in_thread(event: OrderPlaced, session: Session, envelope: Envelope, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))
        effect_sync(session, "handle", event)
        attempt(event, envelope)

    async def plain(event: OrderPlaced, envelope: Envelope) -> None:
        attempt(event, envelope)
        await world.execute("insert into effects (key, value) values (:key, :value)", key=event.order_id, value=event.number)

    function: Any = {"async def": handle, "def": handle_in_thread, "plain": plain}[kind]
    handlers.subscribe(OrderPlaced, name="handle", retry=SOON)(function)
    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(5) for key in ("bad", "good")))
        await until(lambda: service.counters.of("handled") == 10)
        await until_equal(world.lanes, [])
    for key in ("bad", "good"):
        assert [value for each, value in world.effects() if each == key] == list(range(5))
    # Those behind the failed one start with their own first attempt, after it.
    assert [each[1:] for each in attempts if each[0] == "bad"] == [(0, 1), (1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1)]
    assert [each[1:] for each in attempts if each[0] == "good"] == [(number, 1) for number in range(5)]
    if kind != "plain":
        assert len(world.published("order.billed")) == 10
    assert service.counters.of("failed") == 3
    assert world.deliveries() == []


async def test_after_the_last_attempt_it_is_dead_and_its_key_is_blocked(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.01, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        if event.order_id == "bad":
            raise InvalidOrder(f"order {event.number}")
        await effect(session, "handle", event)

    service = world.service(handlers)
    dead: list[Dead] = []
    late: list[str] = []
    service.on_dead(dead.append)

    @service.on_dead
    async def tell(what: Dead) -> None:
        late.append(what.subscription)

    @service.on_dead
    async def fails(what: Dead) -> None:
        raise RuntimeError("nobody listens")

    async with service:
        await world.publish(service, OrderPlaced("bad", 1), OrderPlaced("bad", 2))
        await until_equal(world.lanes, [("bad", "dead", 2, 3)])
        await world.publish(service, OrderPlaced("bad", 3), OrderPlaced("good", 4))
        await until_equal(world.effects, [("good", 4)])
        await until_equal(world.lanes, [("bad", "dead", 3, 3)])
        await until(lambda: bool(late))
    (told,) = dead
    assert (told.message_type, told.key, told.subscription, told.retry_count) == ("order.placed", "bad", "shop/handle", 3)
    assert isinstance(told.exception, InvalidOrder)
    assert late == ["shop/handle"]
    module = "tests.consume.test_retrying"
    assert world.deliveries() == [("bad", "failed", 3, f"{module}.InvalidOrder"), ("bad", "behind", 0, None), ("bad", "behind", 0, None)]
    assert (service.counters.of("dead"), service.counters.of("failed")) == (1, 3)


async def test_a_dead_event_without_key_blocks_nothing(world: World) -> None:
    handlers = Subscriptions()
    done: list[int] = []

    @handlers.subscribe(MailWanted, retry=Retry(attempts=1))
    async def handle(event: MailWanted) -> None:
        if event.number == 1:
            raise ValueError("no luck")
        done.append(event.number)

    async with world.service(handlers) as service:
        for number in range(4):
            await world.publish(service, MailWanted("ada", number))
        await until(lambda: sorted(done) == [0, 2, 3])
        await until(lambda: [lane[:3] for lane in world.lanes()] == [(None, "dead", 1)])


async def test_an_unordered_subscription_blocks_nothing(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=LATE, ordered=False)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        if event.number == 1:
            raise ValueError("no luck")
        await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(4)))
        await until(lambda: sorted(world.effects()) == [("a", 0), ("a", 2), ("a", 3)])
        await until_equal(world.deliveries, [("a", "failed", 1, "ValueError")])


async def test_errors_to_give_up_on_are_dead_at_once(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=10, give_up_on=(InvalidOrder,)))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        raise InvalidOrder("never")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"))
        await until_equal(world.lanes, [("a", "dead", 1, 1)])
        assert world.deliveries()[0][1] == "rejected"


@pytest.mark.parametrize("plain", [False, True])
async def test_discard_reject_and_retry_later(world: World, plain: bool) -> None:
    handlers = Subscriptions()
    attempts: list[tuple[str, int]] = []

    def decide(event: OrderPlaced, envelope: Envelope) -> None:
        attempts.append((event.order_id, envelope.attempt))
        if event.order_id == "discard":
            raise Discard("no need")
        if event.order_id == "reject":
            raise Reject("never")
        if event.order_id == "later" and envelope.attempt == 1:
            raise RetryLater(timedelta(milliseconds=50), "too early")
        if event.order_id == "much later":
            raise RetryLater(3600)

    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        decide(event, envelope)

    async def handle_plain(event: OrderPlaced, envelope: Envelope) -> None:
        decide(event, envelope)

    function: Any = handle_plain if plain else handle
    handlers.subscribe(OrderPlaced, name="handle")(function)
    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(key) for key in ("discard", "reject", "later", "much later", "fine")))
        await until(lambda: service.counters.of("handled") == 2)
        await until_equal(world.lanes, [("much later", "retrying", 1, 1), ("reject", "dead", 1, 1)])
        await until(lambda: service.counters.of("discarded") == 1)
    assert [attempt for key, attempt in attempts if key == "later"] == [1, 2]
    assert [attempt for key, attempt in attempts if key == "discard"] == [1]
    if not plain:
        assert sorted(key for key, _ in world.effects()) == ["fine", "later"]
        assert sorted(row["key"] for row in world.published("order.billed")) == ["fine", "later"]
    seconds = (
        "extract(epoch from due_at - clock_timestamp())" if world.kind == "postgresql" else "(julianday(due_at) - julianday('now')) * 86400"
    )
    assert 3500 < world.one(f"select {seconds} from tidings_lanes where key = 'much later'") <= 3600
    assert world.one("select count(*) from tidings_inbox") == 3


async def test_a_discarded_event_is_not_handled_when_it_is_read_again(world: World) -> None:
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal calls
        calls += 1
        raise Discard("no need")

    first = world.service(handlers)
    async with first:
        await world.publish(first, OrderPlaced("a"))
        await until(lambda: first.counters.of("discarded") == 1)
    await world.read_again()
    second = world.service(handlers)
    async with second:
        await until(lambda: second.counters.of("duplicates") == 1)
    assert calls == 1


async def test_immediate_attempts_follow_at_once_in_a_transaction_of_their_own(world: World) -> None:
    handlers = Subscriptions()
    attempts: list[int] = []

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=5, immediate=2, base=1000, max=1000))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope, publish: Publish) -> None:
        attempts.append(envelope.attempt)
        publish(OrderBilled(event.order_id, envelope.attempt))
        await effect(session, "handle", event)
        if event.order_id == "never" or envelope.attempt < 3:
            raise ValueError("no luck")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
        assert attempts == [1, 2, 3]
        attempts.clear()
        await world.publish(service, OrderPlaced("never", 1))
        await until_equal(world.lanes, [("never", "retrying", 1, 3)])
        assert attempts == [1, 2, 3]
    assert len(world.published("order.billed")) == 1


async def test_attempts_go_on_where_they_were_after_a_restart(world: World) -> None:
    handlers = Subscriptions()
    attempts: list[int] = []

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=0.3, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        attempts.append(envelope.attempt)
        if envelope.attempt < 3:
            raise ValueError("no luck")
        await effect(session, "handle", event)

    first = world.service(handlers)
    async with first:
        await world.publish(first, OrderPlaced("a", 1), OrderPlaced("a", 2))
        await until(lambda: len(world.deliveries()) == 2)
    async with world.service(handlers):
        await until(lambda: len(world.effects()) == 1)
    assert attempts[:3] == [1, 2, 3]


async def test_the_envelope_of_a_retry_is_that_of_the_first_attempt(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Envelope] = []

    @handlers.subscribe(OrderPlaced, retry=SOON)
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        seen.append(envelope)
        if envelope.attempt == 1:
            raise ValueError("no luck")

    key = "köln-" + "x" * 900
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced(key), headers={"who": "ada\n\x1b[0m"}, expires=timedelta(hours=1))
        await until(lambda: len(seen) == 2)
    first, second = (
        {name: getattr(envelope, name) for name in envelope.__struct_fields__ if name not in ("attempt", "time")} for envelope in seen
    )
    assert first == second
    assert abs(seen[0].time - seen[1].time) < timedelta(milliseconds=1)
    assert seen[0].time.utcoffset() == seen[1].time.utcoffset() == timedelta(0)


async def test_what_waited_behind_a_failed_event_may_fail_too(world: World) -> None:
    handlers = Subscriptions()
    failures = {2: 2, 5: 1, 9: 3}

    @handlers.subscribe(OrderPlaced, retry=SOON)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        if failures.get(event.number, 0):
            failures[event.number] -= 1
            raise ValueError("no luck")

    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(12)))
        await until_equal(world.effects, [("a", number) for number in range(12)])
        await until_equal(world.lanes, [])


async def test_events_keep_coming_while_their_key_is_retried(world: World) -> None:
    """The lane is closed by one worker while the receiver adds to it: nothing is stranded, nothing overtakes."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=100, base=0, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await effect(session, "handle", event)
        if event.number % 5 == 0 and envelope.attempt == 1:
            raise ValueError("no luck")

    async with world.service(handlers) as service:
        for number in range(40):
            await world.publish(service, OrderPlaced("a", number), OrderPlaced("b", number))
            await asyncio.sleep(0)
        await until(lambda: len(world.effects()) == 80, seconds=30)
        await until_equal(world.lanes, [])
    for key in ("a", "b"):
        assert [value for each, value in world.effects() if each == key] == list(range(40))


@pytest.mark.parametrize("depth", [0, 3])
async def test_a_lane_whose_deliveries_somebody_deleted_is_removed_and_not_claimed_for_ever(world: World, depth: int) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None: ...

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
        columns, now = (
            ("", "") if world.kind == "postgresql" else (", due_at, blocked_at", ", '2001-01-01T00:00:00.000Z', '2001-01-01T00:00:00.000Z'")
        )
        digest = "1" * 32
        await world.execute(
            f"insert into tidings_lanes (lane, subscription_id, key, depth{columns}) values ('{digest}', 1, 'g', {depth}{now})"
        )
        await until_equal(world.lanes, [])


async def test_a_parked_event_that_expires_is_finished_and_frees_its_key(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=100, base=0.05, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        if event.number == 1:
            raise ValueError("no luck")
        await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), expires=timedelta(seconds=0.5))
        await world.publish(service, OrderPlaced("a", 2))
        await until_equal(world.effects, [("a", 2)])
        await until_equal(world.lanes, [])
        assert service.counters.of("expired") == 1


@pytest.mark.parametrize("kind", ["async def", "def", "plain async def", "plain def", "list"])
async def test_a_traceback_begins_in_the_handler(world: World, kind: str) -> None:
    handlers = Subscriptions()
    options: dict[str, Any] = {"retry": Retry(attempts=1)}

    def fail() -> None:
        raise ValueError("no luck")

    if kind == "async def" and world.asynchronous:

        @handlers.subscribe(OrderPlaced, **options)
        async def handle(event: OrderPlaced, session: AsyncSession) -> None:
            fail()

    elif kind in ("async def", "def"):

        @handlers.subscribe(OrderPlaced, **options)
        def handle(event: OrderPlaced, session: Session) -> None:
            fail()

    elif kind == "plain async def":

        @handlers.subscribe(OrderPlaced, **options)
        async def handle(event: OrderPlaced) -> None:
            fail()

    elif kind == "plain def":

        @handlers.subscribe(OrderPlaced, **options)
        def handle(event: OrderPlaced) -> None:
            fail()

    else:

        @handlers.subscribe(OrderPlaced, batch=10, **options)
        async def handle(events: list[OrderPlaced]) -> None:
            fail()

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(world.deliveries)
    frames = [line for line in world.one("select traceback from tidings_deliveries").splitlines() if line.lstrip().startswith("File ")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["handle", "fail"]
    assert all("test_retrying.py" in frame for frame in frames)


async def test_a_parked_event_expires_by_the_clock_of_the_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = Subscriptions()
    failing = asyncio.Event()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1000, base=0.05, factor=1, jitter=0))
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        failing.set()
        raise ValueError("no luck")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), expires=timedelta(hours=1))
        await failing.wait()
        await until(world.lanes)
        assert service.counters.of("expired") == 0
        # Here it is as late as it was.
        clock = LaneStatements.clock
        monkeypatch.setattr(LaneStatements, "clock", lambda self, connection: clock(self, connection) + timedelta(hours=2))
        await until_equal(world.lanes, [])
        await until_equal(lambda: service.counters.of("expired"), 1)
