"""Limits under the virtual clock: what has no turn yet gets one when the test lets time pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.services.databases import Database
from tests.testing.shop import OrderPlaced, orders
from tidings import Envelope, Limit, Rate, Retry, Service, Subscriptions
from tidings.stores import SQLStore
from tidings.testing import Harness

Calls = list[tuple[str, int]]


@pytest.fixture(params=["throwaway", pytest.param("own", marks=pytest.mark.postgresql)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SQLStore | None]:
    if request.param == "throwaway":
        yield None
        return
    database: Database = request.getfixturevalue("postgresql")
    engine = create_async_engine(database.url)
    yield SQLStore(engine)
    await engine.dispose()


def limited(calls: Calls, *, fail: int = 0, whole: Limit | None = None, **options: Any) -> Service:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(base=1, jitter=0), **options)
    async def call(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        calls.append((event.order_id, envelope.attempt))
        if envelope.attempt <= fail:
            raise ValueError("no luck")

    store = SQLStore(create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:9/nowhere"))
    return Service("shop", contracts=[orders], subscriptions=[handlers], store=store, limit=whole)


@pytest.mark.parametrize("whole", [False, True], ids=["subscription", "service"])
async def test_a_rate_lets_events_pass_as_time_does(store: SQLStore | None, whole: bool) -> None:
    calls: Calls = []
    rate = Rate(1, per=timedelta(minutes=1), burst=2)
    service = limited(calls, whole=Limit(rate=rate)) if whole else limited(calls, rate=rate)
    async with Harness(service, store=store) as t:
        for number in range(5):
            await t.publish(OrderPlaced(str(number)))
        await t.drain()
        await t.drain()
        assert [order for order, _ in calls] == ["0", "1"]
        assert t.retrying == []
        await t.advance(seconds=55)
        assert len(calls) == 2
        await t.advance(seconds=10)
        assert [order for order, _ in calls] == ["0", "1", "2"]
        await t.advance(minutes=10)
        assert [order for order, _ in calls] == ["0", "1", "2", "3", "4"]
        assert len(t.handled) == 5


async def test_retries_wait_for_their_turn_as_well(store: SQLStore | None) -> None:
    calls: Calls = []
    async with Harness(limited(calls, fail=1, rate=Rate(1, per=60)), store=store) as t:
        await t.publish(OrderPlaced("a"))
        await t.publish(OrderPlaced("b"))
        await t.advance(seconds=30)
        assert calls == [("a", 1)]
        await t.advance(minutes=5)
        assert sorted(calls) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
        assert len(t.handled) == 2


async def test_concurrency_does_not_hold_up_a_test_nor_does_a_crash(store: SQLStore | None) -> None:
    calls: Calls = []
    async with Harness(limited(calls, concurrency=1, whole=Limit(concurrency=1)), store=store) as t:
        with t.crash(at="before_commit"):
            await t.deliver(OrderPlaced("a"))
        await t.drain()
        await t.deliver(OrderPlaced("b"))
        assert [item.event for item in t.handled] == [OrderPlaced("a"), OrderPlaced("b")]
