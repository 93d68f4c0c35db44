"""What the chaos run found about handlers that lose their connection. Each test is one find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect, effect_sync, open_world
from tests.services.databases import Database
from tidings import Envelope, Retry, Subscriptions

CUT = sa.text("select pg_terminate_backend(pg_backend_pid())")


@pytest.fixture(params=["async", "sync"])
async def any_pg_world(postgresql: Database, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with open_world(postgresql, asynchronous=request.param == "async") as world:
        yield world


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
async def test_a_handler_whose_connection_is_lost_runs_again_uncounted(
    any_pg_world: World, swallowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    world = any_pg_world
    handlers = Subscriptions()
    attempts: list[int] = []

    if world.asynchronous:

        @handlers.subscribe(OrderPlaced)
        async def bill(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
            attempts.append(envelope.attempt)
            await effect(session, "bill", event)
            if len(attempts) == 1:
                with suppress(SQLAlchemyError if swallowed else ZeroDivisionError):
                    await session.execute(CUT)
    else:

        @handlers.subscribe(OrderPlaced)
        def bill(event: OrderPlaced, session: Session, envelope: Envelope) -> None:
            attempts.append(envelope.attempt)
            effect_sync(session, "bill", event)
            if len(attempts) == 1:
                with suppress(SQLAlchemyError if swallowed else ZeroDivisionError):
                    session.execute(CUT)

    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert attempts == [1, 1]
    assert service.counters.of("failed") == 0
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_handler_that_always_loses_its_connection_is_given_up_and_holds_back_nobody_else(any_pg_world: World) -> None:
    world = any_pg_world
    handlers = Subscriptions()
    retry = Retry(attempts=2, base=0.05, jitter=0)

    if world.asynchronous:

        @handlers.subscribe(OrderPlaced, concurrency=2, retry=retry)
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            if event.order_id == "fatal":
                await session.execute(CUT)
            await effect(session, "bill", event)
    else:

        @handlers.subscribe(OrderPlaced, concurrency=2, retry=retry)
        def bill(event: OrderPlaced, session: Session) -> None:
            if event.order_id == "fatal":
                session.execute(CUT)
            effect_sync(session, "bill", event)

    service = world.service(handlers)
    async with service:
        for number in range(10):
            await world.publish(service, OrderPlaced("fatal", number), OrderPlaced("good", number))
        await until_equal(world.lanes, [("fatal", "dead", 10, 2)])
        await until_equal(world.effects, [("good", number) for number in range(10)])
    assert world.deliveries()[0][1:3] == ("failed", 2)
