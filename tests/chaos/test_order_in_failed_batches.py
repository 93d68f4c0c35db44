"""What the chaos run found about batches that fail together and are then run one by one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Limit, Retry, Subscriptions


async def test_an_event_that_found_its_key_blocked_is_not_overtaken_by_the_next_one_which_does_not(pg_world: World) -> None:
    handlers = Subscriptions()
    tried_again, between = asyncio.Event(), asyncio.Event()
    free, go = asyncio.Event(), asyncio.Event()

    @handlers.subscribe(OrderPlaced, batch=10, concurrency=1, retry=Retry(base=0.05, jitter=0))
    async def bill(events: list[OrderPlaced], session: AsyncSession, envelopes: list[Envelope]) -> None:
        for event, envelope in zip(events, envelopes, strict=True):
            await effect(session, "bill", event)
            if event == OrderPlaced("k", 0):
                if envelope.attempt == 1:
                    raise RuntimeError("once")
                tried_again.set()
                await free.wait()
        if len(events) > 1:
            raise RuntimeError("never two together")
        if events[0].order_id == "between":
            between.set()
            await go.wait()

    # Its share of the connections is what parked events are tried again on.
    @handlers.subscribe(OrderCancelled)
    async def idle(event: OrderCancelled, session: AsyncSession) -> None: ...

    # One worker for new events; what was parked is tried again beside it.
    handlers.subscriptions[0].options = replace(handlers.subscriptions[0].options, limit=Limit())
    service = pg_world.service(handlers)
    async with service:
        await pg_world.publish(service, OrderPlaced("k", 0))
        await tried_again.wait()
        # One by one: k 1 finds its key blocked by k 0, which is finished while another key is handled, and k 2 does not.
        await pg_world.publish(service, OrderPlaced("k", 1), OrderPlaced("between"), OrderPlaced("other"), OrderPlaced("k", 2))
        await between.wait()
        free.set()
        await until_equal(pg_world.effects, [("k", 0)])
        await until_equal(pg_world.lanes, [])
        go.set()
        await until_equal(lambda: sorted(pg_world.effects()), [("between", 0), ("k", 0), ("k", 1), ("k", 2), ("other", 0)])
    assert [value for key, value in pg_world.effects() if key == "k"] == [0, 1, 2]
