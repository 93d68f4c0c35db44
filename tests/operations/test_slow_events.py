"""A slow event holds back its own key only: after a while it gets a lane of its own, and the source moves on."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Subscriptions


async def test_a_slow_transaction_finishes_in_a_lane_of_its_own_while_the_checkpoint_moves_past_it(pg_world: World) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)
        if event.order_id == "slow" and event.number == 0:
            await go.wait()

    service = pg_world.service(handlers)
    service.tuning.slow = 0.2
    async with service:
        for number in range(3):
            await pg_world.publish(service, OrderPlaced("slow", number), OrderPlaced("fast", number))
        # Everything but the slow key is done, and the slow key waits in its lane, in order.
        await until_equal(lambda: pg_world.one("select count(*) from effects"), 3)
        await until_equal(pg_world.lanes, [("slow", "retrying", 3, 1)])
        last = pg_world.one("select max(position) from tidings_outbox")
        await until(lambda: pg_world.checkpoint()["high"] == last, "the checkpoint is past the slow event")
        assert [reason for _, reason, _, _ in pg_world.deliveries()] == ["slow", "behind", "behind"]
        go.set()
        await until_equal(pg_world.lanes, [])
    assert [value for key, value in pg_world.effects() if key == "slow"] == [0, 1, 2]
    assert pg_world.one("select count(*) from tidings_inbox") == 6
    assert service.counters.of("failed") == 0


@pytest.mark.parametrize("plain", [False, True], ids=["transaction", "plain"])
async def test_keys_that_were_taken_together_with_a_slow_event_do_not_wait_for_it(pg_world: World, plain: bool) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()
    called: list[tuple[str, int]] = []

    async def work(event: OrderPlaced) -> None:
        called.append((event.order_id, event.number))
        if (event.order_id, event.number) == ("7", 1):
            await go.wait()

    if plain:
        handlers.subscribe(OrderPlaced, name="work", concurrency=2)(work)
    else:

        @handlers.subscribe(OrderPlaced, name="work", concurrency=2)
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "bill", event)
            await work(event)

    service = pg_world.service(handlers)
    service.tuning.slow = 0.3
    keys, last = range(15), 4
    async with service:
        # Quick handlers are given many events at a time.
        await pg_world.publish(service, *(OrderPlaced("warm", number) for number in range(50)))
        await until_equal(lambda: len(called), 50)
        called.clear()
        await pg_world.publish(service, *(OrderPlaced(str(key), number) for number in range(last) for key in keys))
        # Everything but the slow key.
        expected = {(str(key), number) for number in range(last) for key in keys if key != 7} | {("7", 0), ("7", 1)}
        await until_equal(lambda: set(called), expected)
        await until_equal(lambda: pg_world.one("select count(*) from tidings_inbox"), 50 + len(expected) - 1)
        await until_equal(lambda: [(lane[0], lane[2]) for lane in pg_world.lanes()], [("7", 3)])
        go.set()
        await until_equal(pg_world.lanes, [])
    assert pg_world.one("select count(*) from tidings_inbox") == 50 + len(keys) * last
    assert service.counters.of("failed") == 0
    if plain:
        assert len(called) == len(set(called)) == len(keys) * last
    else:
        effects = pg_world.effects()
        assert len(effects) == 50 + len(keys) * last
        for key in keys:
            assert [number for each, number in effects if each == str(key)] == list(range(last))
    # A handler may be begun twice, but never out of turn.
    for key in keys:
        firsts = list(dict.fromkeys(number for each, number in called if each == str(key)))
        assert firsts == list(range(last))


async def test_a_slow_event_that_fails_in_the_end_is_retried_in_order(pg_world: World) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await effect(session, "bill", event)
        if event.number == 0 and envelope.attempt == 1:
            await go.wait()
            raise RuntimeError("too late")

    service = pg_world.service(handlers)
    service.tuning.slow = 0.2
    async with service:
        await pg_world.publish(service, OrderPlaced("slow", 0), OrderPlaced("slow", 1))
        await until_equal(pg_world.lanes, [("slow", "retrying", 2, 1)])
        go.set()
        await until_equal(pg_world.lanes, [])
    assert pg_world.effects() == [("slow", 0), ("slow", 1)]
    assert service.counters.of("failed") == 1


async def test_a_slow_plain_handler_is_called_once_and_its_key_waits(world: World) -> None:
    handlers = Subscriptions()
    go = asyncio.Event()
    calls: list[tuple[str, int]] = []

    @handlers.subscribe(OrderPlaced)
    async def mail(event: OrderPlaced) -> None:
        calls.append((event.order_id, event.number))
        if event.order_id == "slow" and event.number == 0:
            await go.wait()

    service = world.service(handlers)
    service.tuning.slow = 0.2
    async with service:
        for number in range(3):
            await world.publish(service, OrderPlaced("slow", number), OrderPlaced("fast", number))
        await until_equal(lambda: sorted(calls), [("fast", 0), ("fast", 1), ("fast", 2), ("slow", 0)])
        await until_equal(world.lanes, [("slow", "retrying", 3, 1)])
        go.set()
        await until_equal(world.lanes, [])
    assert [number for key, number in calls if key == "slow"] == [0, 1, 2]


async def test_stopping_waits_for_a_slow_event_within_the_grace_time(pg_world: World) -> None:
    handlers = Subscriptions()
    started = asyncio.Event()
    go = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)
        started.set()
        await go.wait()

    service = pg_world.service(handlers)
    service.tuning.slow = 0.1
    await service.start()
    await pg_world.publish(service, OrderPlaced("slow"))
    await until_equal(pg_world.lanes, [("slow", "retrying", 1, 1)])
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    go.set()
    await stopping
    assert pg_world.effects() == [("slow", 0)]
    assert pg_world.lanes() == []
