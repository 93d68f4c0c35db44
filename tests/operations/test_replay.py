"""Replay: part of the log again, for one subscription, on purpose past the inbox."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderCancelled, OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tidings import Retry, Subscriptions
from tidings.consume.replay import Progress
from tidings.errors import ConfigurationError


async def test_a_replay_handles_its_interval_again_in_order_and_nothing_else(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)

    @handlers.subscribe(OrderPlaced)
    async def mail(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "mail", event)

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(150) for key in "ab"), OrderCancelled("a"))
        await until_equal(lambda: len(world.effects()), 600)
        await world.execute("delete from effects")
        steps: list[Progress] = []
        result = await service.replay("bill", name="again", key="a", progress=steps.append)
        assert (result.handled, result.failed, result.position) == (150, 0, result.end)
        assert [step.handled for step in steps] == [100, 150]
        assert world.effects("bill") == [("a", number) for number in range(150)]
        assert world.effects("mail") == []
        # The live reader goes on.
        await world.publish(service, OrderPlaced("new"))
        await until_equal(lambda: world.effects("bill")[-1], ("new", 0))
        await until_equal(lambda: len(world.effects("mail")), 1)
    assert world.one("select count(*) from tidings_checkpoints where kind = 'replay'") == 0


async def test_a_replay_is_bounded_by_time_and_refuses_times_without_zone(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)

    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until_equal(lambda: len(world.effects()), 1)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        assert (await service.replay("shop/bill", name="t", since=tomorrow)).handled == 0
        assert (await service.replay("shop/bill", name="t", until=tomorrow)).handled == 1
        with pytest.raises(ConfigurationError, match="time zone"):
            await service.replay("bill", name="t", since=datetime(2026, 1, 1))  # noqa: DTZ001
        with pytest.raises(ConfigurationError, match="no subscription 'nothing'"):
            await service.replay("nothing", name="t")


async def test_a_replay_that_stopped_goes_on_where_it_was(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)

    class Stop(Exception):
        pass

    def stop_after_one(progress: Progress) -> None:
        raise Stop

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(250)))
        await until_equal(lambda: len(world.effects()), 250)
        await world.execute("delete from effects")
        with pytest.raises(Stop):
            await service.replay("bill", name="r", progress=stop_after_one)
        assert len(world.effects()) == 100
        result = await service.replay("bill", name="r")
        assert result.handled == 150
    assert world.effects() == [("a", number) for number in range(250)]


async def test_what_fails_in_a_replay_is_parked_and_tried_again(world: World) -> None:
    handlers = Subscriptions()
    bad = False

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.01, max=0.01))
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        nonlocal bad
        await effect(session, "bill", event)
        if bad and event.number == 1:
            bad = False
            raise RuntimeError("once")

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(key, number) for number, key in enumerate("abc")))
        await until_equal(lambda: len(world.effects()), 3)
        await world.execute("delete from effects")
        bad = True
        result = await service.replay("bill", name="r")
        assert result.handled + result.failed == 3
        await until_equal(world.lanes, [])
    assert sorted(world.effects()) == [("a", 0), ("b", 1), ("c", 2)]
