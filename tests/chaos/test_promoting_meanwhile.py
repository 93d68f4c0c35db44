"""What the chaos run found about slow events that get lanes of their own while something else is going on. Each test is one find."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Limit, Retry, Subscriptions
from tidings.consume import pool
from tidings.consume.retry import Reject
from tidings.ids import lane_of


async def test_an_event_that_waited_behind_another_is_not_lost_when_its_batch_is_promoted(pg_world: World) -> None:
    """It shares a slow event's transaction without running there, and its key is free again before the two get their lanes."""
    handlers = Subscriptions()
    started, go = asyncio.Event(), asyncio.Event()

    # One worker that takes two, so that they share a transaction for certain.
    @handlers.subscribe(OrderPlaced, batch=2, concurrency=1, retry=Retry(base=0.3, jitter=0))
    async def bill(events: list[OrderPlaced], session: AsyncSession, envelopes: list[Envelope]) -> None:
        for event, envelope in zip(events, envelopes, strict=True):
            await effect(session, "bill", event)
            if event == OrderPlaced("behind", 0) and envelope.attempt == 1:
                raise RuntimeError("once")
            if event.order_id == "slow":
                started.set()
                await go.wait()

    # Its share of the connections is what parked events are tried again on.
    @handlers.subscribe(OrderCancelled)
    async def idle(event: OrderCancelled, session: AsyncSession) -> None: ...

    # What was parked is tried again beside that worker.
    handlers.subscriptions[0].options = replace(handlers.subscriptions[0].options, limit=Limit())
    service = pg_world.service(handlers)
    service.tuning.slow = 2.5
    async with service:
        await pg_world.publish(service, OrderPlaced("behind", 0))
        await until_equal(pg_world.lanes, [("behind", "retrying", 1, 1)])
        await pg_world.publish(service, OrderPlaced("slow", 0), OrderPlaced("behind", 1))
        await started.wait()
        await until_equal(pg_world.effects, [("behind", 0)])
        await until_equal(pg_world.lanes, [("behind", "retrying", 1, 1), ("slow", "retrying", 1, 1)])
        go.set()
        await until_equal(pg_world.lanes, [])
    assert sorted(pg_world.effects()) == [("behind", 0), ("behind", 1), ("slow", 0)]
    assert pg_world.one("select count(*) from tidings_inbox") == 3


@pytest.mark.parametrize("plain", [False, True], ids=["transaction", "plain"])
async def test_an_event_that_fails_while_it_is_promoted_frees_its_key_once(
    pg_world: World, plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()
    done: list[int] = []

    async def handle(event: OrderPlaced, envelope: Envelope) -> None:
        if event.number == 0 and envelope.attempt == 1:
            await go.wait()
            raise RuntimeError("too late")
        done.append(event.number)

    if plain:

        @handlers.subscribe(OrderPlaced, retry=Retry(base=0.05, jitter=0))
        async def mail(event: OrderPlaced, envelope: Envelope) -> None:
            await handle(event, envelope)
    else:

        @handlers.subscribe(OrderPlaced, retry=Retry(base=0.05, jitter=0))
        async def bill(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
            await handle(event, envelope)

    service = pg_world.service(handlers)
    service.tuning.slow = 0.2
    eyes = sa.create_engine(pg_world.database.sync_url)
    async with service:
        subscription = pg_world.one("select id from tidings_subscriptions")
        with eyes.connect() as connection:
            # Whoever wants to make the key's lane waits for us.
            connection.execute(
                sa.text("insert into tidings_lanes (lane, subscription_id) values (:lane, :subscription)"),
                {"lane": lane_of("slow"), "subscription": subscription},
            )
            await pg_world.publish(service, *(OrderPlaced("slow", number) for number in range(6)))
            waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            await until_equal(lambda: pg_world.one(waiting), 1)
            go.set()
            await asyncio.sleep(0.1)
            connection.rollback()
        await until_equal(lambda: sorted(done), list(range(6)))
        await until_equal(pg_world.lanes, [])
    eyes.dispose()
    assert done == list(range(6))
    assert service.counters.of("failed") == 1
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_batch_that_fails_while_its_lanes_are_renewed(
    pg_world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()

    @handlers.subscribe(OrderPlaced, batch=2, concurrency=1, retry=Retry(base=0.05, jitter=0))
    async def bill(events: list[OrderPlaced], session: AsyncSession) -> None:
        if len(events) > 1:
            await go.wait()
            raise RuntimeError("too late")
        await effect(session, "bill", events[0])

    monkeypatch.setattr(pool, "PROMOTED_LEASE", 3.0)
    service = pg_world.service(handlers)
    service.tuning.slow = 0.2
    eyes = sa.create_engine(pg_world.database.sync_url)
    async with service:
        await pg_world.publish(service, OrderPlaced("a", 0), OrderPlaced("b", 0))
        await until_equal(pg_world.lanes, [("a", "retrying", 1, 1), ("b", "retrying", 1, 1)])
        with eyes.connect() as connection:
            # Whoever renews the other one waits for us.
            connection.execute(sa.text("select 1 from tidings_lanes where key = 'b' for update"))
            waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            await until_equal(lambda: pg_world.one(waiting), 1)
            go.set()
            # It gives up its lanes meanwhile.
            await until_equal(lambda: pg_world.one(waiting), 2)
            connection.rollback()
        await until_equal(lambda: sorted(pg_world.effects()), [("a", 0), ("b", 0)])
        await until_equal(pg_world.lanes, [])
    eyes.dispose()
    assert not [record for record in caplog.records if record.exc_info]


async def test_only_what_is_not_over_gets_a_lane(pg_world: World) -> None:
    """Else an event that is handled already stands at the head of the lane, and takes the blame for what fails behind it."""
    handlers = Subscriptions()
    started, go = asyncio.Event(), asyncio.Event()

    @handlers.subscribe(OrderPlaced, batch=3, concurrency=1)
    async def bill(events: list[OrderPlaced], session: AsyncSession) -> None:
        if len(events) > 1:
            raise RuntimeError("never two together")
        await effect(session, "bill", events[0])
        if events[0].number == 1:
            started.set()
            await go.wait()
            raise Reject("after a while")

    service = pg_world.service(handlers)
    service.tuning.slow = 0.2
    async with service:
        await pg_world.publish(service, *(OrderPlaced("slow", number) for number in range(3)))
        await started.wait()
        await until_equal(pg_world.lanes, [("slow", "retrying", 2, 1)])
        go.set()
        await until_equal(pg_world.lanes, [("slow", "dead", 2, 1)])
        (blocked,) = await service.operations.blocked()
        assert blocked.error == "tidings.consume.retry.Reject: after a while"
        assert await service.operations.discard(reason="a test") == 1
        await until_equal(pg_world.lanes, [])
    assert pg_world.effects() == [("slow", 0), ("slow", 2)]
