"""The service under test: set up for the block, and put back as it was."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.services.databases import Database
from tests.testing.shop import Base, Mailer, OrderBilled, OrderCancelled, OrderPlaced, Shop, orders
from tidings import Service, Subscriptions
from tidings.errors import ConfigurationError, UnresolvedParameter, WrongDatabase
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure
from tidings.testing import Harness


async def test_the_services_own_database_is_not_touched(shop: Shop) -> None:
    # It cannot be reached, and nobody notices.
    service = shop.service()
    before = (service.store, service.publisher, service.roles, service._providers)
    async with Harness(service, tables=Base.metadata) as t:
        assert t.store is service.store is not before[0]
        async with t.sessionmaker() as session, session.begin():
            service.publish(session, OrderPlaced("1"))
        await t.drain()
        path = Path(str(t.store.connections.sync_engine.url.database))
    assert (service.store, service.publisher, service.roles, service._providers) == before
    assert path.name == "shop.sqlite"
    assert not there(path.parent)
    assert "_stage" not in vars(service)


async def test_a_session_on_another_database_is_refused(lite: Harness, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'another.sqlite'}")
    async with AsyncSession(engine) as session:
        with pytest.raises(WrongDatabase):
            lite.service.publish(session, OrderPlaced("1"))
    await engine.dispose()


async def test_harnesses_follow_one_another_without_memory(shop: Shop) -> None:
    service = shop.service()
    for _ in range(3):
        async with Harness(service, tables=Base.metadata) as t:
            await t.deliver(OrderPlaced("1"))
            assert t.published() == [OrderBilled("1")]
            assert len(t.handled) == 3


async def test_one_service_is_in_one_harness(lite: Harness) -> None:
    with pytest.raises(ConfigurationError, match="in another harness already"):
        async with Harness(lite.service):
            pass
    await lite.deliver(OrderPlaced("1"))


async def test_a_running_service_is_refused(lite: Harness) -> None:
    other = Service("other", contracts=[orders], store=lite.store)
    async with other:
        with pytest.raises(ConfigurationError, match="service 'other' is running"):
            async with Harness(other):
                pass


async def test_the_applications_lifespan_may_start_the_service_and_reads_nothing(lite: Harness, shop: Shop) -> None:
    async with lite.service.lifespan(None):
        await lite.publish(OrderPlaced("1"))
        assert shop.calls == []
        await lite.drain()
        assert shop.mails == ["1"]
    await lite.deliver(OrderPlaced("2"))
    assert shop.mails == ["1", "2"]


async def test_a_service_that_was_left_running_is_stopped_at_the_end(shop: Shop) -> None:
    service = shop.service()
    async with Harness(service, tables=Base.metadata):
        await service.start()
    assert service._runtime is None


async def test_what_handlers_ask_for_can_be_replaced(shop: Shop) -> None:
    mailer = Mock(spec=Mailer, send=AsyncMock())
    service = shop.service()
    async with Harness(service, tables=Base.metadata, provide={Mailer: mailer}) as t:
        await t.deliver(OrderCancelled("1"))
        await t.advance(hours=1)
        t.assert_nothing_failed()
        mailer.send.assert_awaited_once_with("1@example.com", "do you want it after all?")
    async with Harness(service, tables=Base.metadata) as t:
        await t.deliver(OrderCancelled("1"))
        await t.advance(hours=1)
        assert len(t.dead) == 1


async def test_a_mistake_in_the_service_shows_and_the_service_is_put_back(shop: Shop) -> None:
    handlers = Subscriptions()

    class Unknown:
        pass

    @handlers.subscribe(OrderPlaced)
    async def ask(event: OrderPlaced, unknown: Unknown) -> None: ...

    ask.__annotations__ |= {"event": OrderPlaced, "unknown": Unknown}
    service = Service("mistaken", contracts=[orders], subscriptions=[handlers], store=shop.service().store)
    before = service.store
    with pytest.raises(UnresolvedParameter, match="unknown"):
        async with Harness(service):
            pass
    assert service.store is before
    async with Harness(service, provide={Unknown: Unknown()}) as t:
        await t.deliver(OrderPlaced("1"))
        assert len(t.handled) == 1


async def test_another_store_can_be_given_and_keeps_what_there_is(shop: Shop, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'kept.sqlite'}")
    configure(engine)
    store = SQLStore(engine)
    async with Harness(shop.service(), store=store, tables=[Base.metadata]) as t:
        await t.publish(OrderPlaced("1"))
    async with Harness(shop.service(), store=store) as t:
        assert t.published() == []
        await t.drain()
        # What was there before is handled, and only what that causes is new.
        assert t.published() == [OrderBilled("1")]
    async with engine.connect() as connection:
        assert (await connection.execute(sa.text("select count(*) from bills"))).scalar_one() == 1
    await engine.dispose()


async def test_what_a_killed_test_has_left_is_taken_over(shop: Shop, tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'killed.sqlite'}")
    configure(engine)
    store = SQLStore(engine)
    async with Harness(shop.service(), store=store, tables=Base.metadata) as t:
        shop.failing["mail", "1"] = 1
        await t.deliver(OrderPlaced("1"))
        await t.store.transact(
            lambda connection: [
                connection.exec_driver_sql("update tidings_checkpoints set lease_until = '9999-01-01T00:00:00.000Z', owner = 'gone'"),
                connection.exec_driver_sql("update tidings_lanes set lease_until = '9999-01-01T00:00:00.000Z', owner = 'gone'"),
            ]
        )
    async with Harness(shop.service(), store=store) as t:
        await t.advance(minutes=1)
        await t.deliver(OrderPlaced("2"))
    assert shop.mails == ["1", "2"]
    await engine.dispose()


async def test_a_database_on_which_the_service_runs_is_refused(shop: Shop, postgresql: Database) -> None:
    engine = create_async_engine(postgresql.url)
    store = SQLStore(engine)
    await store.upgrade()
    async with shop.service(store):
        with pytest.raises(ConfigurationError, match=r"service 'shop' runs on this database, in process \d+"):
            async with Harness(shop.service(), store=store):
                pass
    async with Harness(shop.service(), store=store, tables=Base.metadata) as t:
        await t.deliver(OrderPlaced("1"))
        assert len(t.handled) == 3
    await engine.dispose()


async def test_postgresql_in_a_schema_of_its_own(shop: Shop, postgresql: Database) -> None:
    engine = create_async_engine(postgresql.url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("create schema events"))
    store = SQLStore(engine, schema="events", prefix="shop_")
    async with Harness(shop.service(store), store=store, tables=Base.metadata) as t:
        await t.deliver(OrderPlaced("1"), times=2)
        assert t.published(OrderBilled) == [OrderBilled("1")]
        await t.advance(hours=1)
        t.assert_nothing_failed()
    await engine.dispose()


async def test_the_makers_of_sessions_stay_the_same_for_what_is_attached_to_them(lite: Harness) -> None:
    assert lite.sessionmaker is lite.sessionmaker
    assert lite.sync_sessionmaker is lite.sync_sessionmaker


async def test_the_file_can_be_kept(shop: Shop, tmp_path: Path) -> None:
    async with Harness(shop.service(), tables=Base.metadata, directory=tmp_path) as t:
        await t.deliver(OrderPlaced("1"))
    assert (tmp_path / "shop.sqlite").exists()


def there(path: Path) -> bool:
    return path.exists()
