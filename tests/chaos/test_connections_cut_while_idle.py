"""What the chaos run found about pooled connections that are cut while nobody uses them."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tidings import Subscriptions
from tidings.stores.sql.errors import kind_of

CUT_ALL = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"


async def test_a_transaction_on_a_connection_that_was_cut_says_so_like_any_statement(pg_world: World) -> None:
    def look(connection: sa.Connection) -> object:
        return connection.exec_driver_sql("select 1").scalar_one()

    store = pg_world.store
    await store.transact(look)
    pg_world.rows(CUT_ALL)
    await asyncio.sleep(0.05)
    with pytest.raises(DBAPIError) as caught:
        await store.transact(look)
    assert kind_of(caught.value) == "outage"
    assert await store.transact(look) == 1


async def test_a_service_survives_that_all_its_connections_are_cut_again_and_again(
    pg_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "bill", event)

    service = pg_world.service(handlers)
    publisher = pg_world.service(name="shop", engine=pg_world.another_engine(pool_pre_ping=True))
    async with service:
        for number in range(5):
            await until_equal(lambda expected=number: len(pg_world.effects()), number)
            pg_world.rows(CUT_ALL)
            async with AsyncSession(publisher.store.connections.engine) as session, session.begin():
                publisher.publish(session, OrderPlaced("a", number))
        await until_equal(pg_world.effects, [("a", number) for number in range(5)])
    assert service.counters.of("failed") == 0
    assert not [record for record in caplog.records if record.exc_info]
