"""Synchronous tests, and services with synchronous engines."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from tests.services.databases import Database
from tests.testing.shop import Base, OrderBilled, OrderPlaced, Parcel, Shop, orders
from tidings import Envelope, Publish, Retry, Service, Subscriptions
from tidings.errors import ConfigurationError
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure
from tidings.testing import Harness


def sync_service(store: SQLStore) -> Service:
    """A service without a single `async`."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=3, base=60))
    def pack(event: OrderPlaced, session: Session, publish: Publish, envelope: Envelope) -> None:
        if event.total < 0 and envelope.attempt < 3:
            raise ValueError("nothing to pack")
        session.add(Parcel(order_id=event.order_id))
        publish(OrderBilled(event.order_id, event.total))

    return Service("warehouse", contracts=[orders], subscriptions=[handlers], store=store)


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return sync_service(SQLStore(create_engine(f"sqlite:///{tmp_path / 'never-made.sqlite'}")))


def test_a_synchronous_test_needs_no_event_loop(service: Service, tmp_path: Path) -> None:
    with Harness(service, tables=Base.metadata) as t:
        t.deliver(OrderPlaced("1", 3), times=2)
        assert t.published(OrderBilled) == [OrderBilled("1", 3)]
        with t.sessionmaker() as session:
            assert [parcel.order_id for parcel in session.scalars(select(Parcel))] == ["1"]
            service.publish(session, OrderPlaced("2"))
            session.commit()
        t.drain()
        t.assert_published_once(OrderBilled, order_id="2")
        assert [item.event for item in t.handled] == [OrderPlaced("1", 3), OrderPlaced("2")]
    assert not (tmp_path / "never-made.sqlite").exists()


def test_the_virtual_clock_and_crashes(service: Service) -> None:
    with Harness(service, tables=Base.metadata) as t:
        t.publish(OrderPlaced("1", -1))
        t.drain()
        assert [item.attempts for item in t.retrying] == [1]
        t.advance(minutes=3)
        assert t.retrying == t.dead == []
        with t.crash("before_commit"):
            t.deliver(OrderPlaced("2"))
        t.drain()
        assert len(t.published(OrderBilled)) == 2
        t.publish(OrderPlaced("3"), delay=timedelta(hours=1))
        t.advance(timedelta(hours=1))
        assert len(t.published(OrderBilled)) == 3
        assert t.run(service.operations.redrive()) == 0


def test_a_service_with_an_asynchronous_engine_in_a_synchronous_test(shop: Shop) -> None:
    with Harness(shop.service(), tables=Base.metadata) as t:
        t.deliver(OrderPlaced("1"))
        with t.sessionmaker() as session:
            assert len(session.scalars(select(Parcel)).all()) == 1
        assert shop.mails == ["1"]


async def test_a_service_with_a_synchronous_engine_in_an_asynchronous_test(service: Service) -> None:
    async with Harness(service, tables=Base.metadata) as t:
        await t.deliver(OrderPlaced("1"))
        async with t.sessionmaker() as session:
            assert len((await session.scalars(select(Parcel))).all()) == 1
            service.publish(session, OrderPlaced("2"))
            await session.commit()
        await t.drain()
        with t.sync_sessionmaker() as sync_session:
            assert len(sync_session.scalars(select(Parcel)).all()) == 2


async def test_inside_an_event_loop_it_says_what_to_use_instead(service: Service) -> None:
    with pytest.raises(RuntimeError, match="async with Harness"), Harness(service):
        pass


def test_the_threads_event_loop_is_left_alone(service: Service) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        with Harness(service, tables=Base.metadata) as t:
            t.deliver(OrderPlaced("1"))
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_postgresql_with_a_synchronous_engine(postgresql: Database) -> None:
    engine = create_engine(postgresql.sync_url)
    service = sync_service(SQLStore(engine))
    with Harness(service, store=service.store, tables=Base.metadata) as t:
        t.deliver(OrderPlaced("1", 3), times=2)
        assert t.published(OrderBilled) == [OrderBilled("1", 3)]
        with t.sessionmaker() as session:
            assert len(session.scalars(select(Parcel)).all()) == 1
        with pytest.raises(ConfigurationError, match="sync_sessionmaker"):
            _ = t._harness.sessionmaker
    engine.dispose()


def test_a_file_of_its_own(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'own.sqlite'}")
    configure(engine)
    service = sync_service(SQLStore(engine))
    for number in range(2):
        with Harness(service, store=service.store, tables=Base.metadata) as t:
            t.deliver(OrderPlaced("1", number))
            # What earlier harnesses have published there is not counted.
            assert t.published() == [OrderBilled("1", number)]
            assert len(t.handled) == 1
    with Session(engine) as session:
        assert len(session.scalars(select(Parcel)).all()) == 2
    engine.dispose()
