"""What handling costs in statements: ours come by the transaction or the page, none by the event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from benchmarks.statements import counted
from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import EFFECT, World, effect
from tidings import Subscriptions
from tidings.consume.pace import Pace
from tidings.consume.upkeep import LeasedTask

EVENTS = 2000


@pytest.fixture(autouse=True)
def handlers_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine every handler is slow, and shares its transaction with few."""
    monkeypatch.setattr(Pace, "share", lambda self: 100)


def session(handlers: Subscriptions) -> None:
    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)


def connection(handlers: Subscriptions) -> None:
    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, connection: AsyncConnection) -> None:
        await connection.execute(EFFECT, {"subscription": "handle", "key": event.order_id, "value": event.number})


def one_session(handlers: Subscriptions) -> None:
    @handlers.subscribe(OrderPlaced, session_per="transaction")
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)


def batch(handlers: Subscriptions) -> None:
    @handlers.subscribe(OrderPlaced, batch=100)
    async def handle(events: list[OrderPlaced], session: AsyncSession) -> None:
        for event in events:
            await effect(session, "handle", event)


@pytest.mark.parametrize("declare", [session, connection, one_session, batch])
async def test_statements_of_ours_come_by_the_transaction_and_never_by_the_event(world: World, declare: Any) -> None:
    handlers = Subscriptions()
    declare(handlers)
    engine = world.another_engine()
    service = world.service(handlers, engine=engine)
    await world.publish(service, *(OrderPlaced(f"k{number % 50}", number) for number in range(EVENTS)))
    with counted(engine) as counts:
        async with service:
            await until(lambda: service.counters.of("handled") == EVENTS, seconds=60)
    assert counts["handler"] == EVENTS
    assert len(world.effects()) == EVENTS
    # An opening and a proof for each transaction; pages, leases and checkpoints by the second.
    assert counts["commits"] < EVENTS / 5
    assert counts["ours"] < 3 * counts["commits"] + 200


async def test_plain_calls_are_looked_up_and_written_down_in_portions(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        pass

    engine = world.another_engine()
    service = world.service(handlers, engine=engine)
    await world.publish(service, *(OrderPlaced(f"k{number % 50}", number) for number in range(EVENTS)))
    with counted(engine) as counts:
        async with service:
            await until(lambda: service.counters.of("handled") == EVENTS, seconds=60)
    assert counts["ours"] < EVENTS / 5


async def test_publishing_costs_one_statement_a_transaction(world: World) -> None:
    assert isinstance(world.engine, AsyncEngine)
    engine = world.another_engine()
    service = world.service(engine=engine)
    async with AsyncSession(engine) as session:
        await session.execute(sa.text("select 1 from effects"))
    with counted(engine) as counts:
        # A new connection, so that it is counted; the first insertion also finds out where the tables are.
        await engine.dispose()
        for number in range(20):
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(EFFECT, {"subscription": "s", "key": "k", "value": number})
                for each in range(5):
                    service.publish(session, OrderPlaced(f"k{each}", number))
    assert counts["handler"] == 20
    assert counts["ours"] <= 20 + 5
    assert len(world.published("order.placed")) == 100


async def test_only_what_is_scheduled_lets_the_mover_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ask the database three times for every transaction of a publisher."""
    looks: list[str] = []
    wake = LeasedTask.wake
    monkeypatch.setattr(LeasedTask, "wake", lambda self: (looks.append(self.name), wake(self))[1])
    service = world.service()
    async with service:
        await world.publish(service, OrderPlaced("k", 1))
        await world.publish(service, OrderPlaced("k", 2), delay=timedelta(hours=1))
        await until(lambda: looks)
    assert looks == ["task:mover"]
