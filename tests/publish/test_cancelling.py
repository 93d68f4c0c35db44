"""Scheduling an event, and taking it back in a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.publish.shop import OrderPlaced, PriceChanged, Shop, StockCounted
from tidings.publish.session import cancel, publish

HOUR = timedelta(hours=1)


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def test_a_delayed_event_is_scheduled_by_the_clock_of_the_database(shop: Shop, session: Session) -> None:
    event_id = publish(shop.publisher, session, OrderPlaced("a", "x"), delay=timedelta(hours=1, milliseconds=250), headers={"h": "1"})
    session.commit()
    (row,) = shop.schedule()
    assert shop.log() == []
    assert (row.id, row.source, row.name, row.version, row.key, row.keyed) == (event_id, "shop", "order.placed", 1, "a", True)
    assert (row.data, row.headers) == ({"order": "a", "note": "x"}, {"h": "1"})
    due = row.due_at if isinstance(row.due_at, datetime) else datetime.fromisoformat(row.due_at)
    assert abs(due - datetime.now(UTC) - HOUR) < timedelta(minutes=5)
    assert shop.wakes == ["shop"]


def test_an_event_for_a_time_is_scheduled_for_that_time(shop: Shop, session: Session) -> None:
    at = datetime(2150, 5, 17, 12, 30, 0, 123000, tzinfo=UTC)
    publish(shop.publisher, session, OrderPlaced("a"), at=at)
    publish(shop.publisher, session, PriceChanged("b"), at=at.astimezone(datetime.now().astimezone().tzinfo) + HOUR)
    publish(shop.publisher, session, StockCounted(1), at=at + 2 * HOUR)
    session.commit()
    rows = shop.schedule()
    dues = [row.due_at if isinstance(row.due_at, datetime) else datetime.fromisoformat(row.due_at) for row in rows]
    assert dues == [at, at + HOUR, at + 2 * HOUR]
    assert [(row.key, bool(row.keyed), row.version) for row in rows] == [("a", True, 1), ("b", False, 3), (None, False, 1)]


def test_events_now_and_later_in_one_transaction(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("later"), delay=HOUR)
    publish(shop.publisher, session, OrderPlaced("now"))
    publish(shop.publisher, session, OrderPlaced("much later"), delay=2 * HOUR)
    publish(shop.publisher, session, OrderPlaced("no delay at all"), delay=timedelta(0))
    session.commit()
    assert shop.orders() == ["now", "no delay at all"]
    assert [row.data["order"] for row in shop.schedule()] == ["later", "much later"]


def test_a_scheduled_event_can_be_cancelled_until_it_is_published(shop: Shop, session: Session) -> None:
    waiting = publish(shop.publisher, session, OrderPlaced("a"), delay=HOUR)
    other = publish(shop.publisher, session, OrderPlaced("b"), delay=HOUR)
    session.commit()
    cancellation = cancel(shop.publisher, session, waiting)
    twice = cancel(shop.publisher, session, waiting)
    unknown = cancel(shop.publisher, session, uuid4())
    assert (cancellation.cancelled, twice.cancelled, unknown.cancelled) == (None, None, None)
    assert len(shop.schedule()) == 2
    session.commit()
    assert (cancellation.cancelled, twice.cancelled, unknown.cancelled) == (True, False, False)
    assert [row.id for row in shop.schedule()] == [other]
    again = cancel(shop.publisher, session, waiting)
    session.commit()
    assert again.cancelled is False


def test_cancelling_in_the_transaction_that_schedules(shop: Shop, session: Session) -> None:
    event_id = publish(shop.publisher, session, OrderPlaced("a"), delay=HOUR)
    first, second = cancel(shop.publisher, session, event_id), cancel(shop.publisher, session, event_id)
    session.commit()
    assert (first.cancelled, second.cancelled) == (True, False)
    assert shop.schedule() == []


def test_an_event_that_is_not_scheduled_cannot_be_cancelled(shop: Shop, session: Session) -> None:
    event_id = publish(shop.publisher, session, OrderPlaced("a"))
    cancellation = cancel(shop.publisher, session, event_id)
    session.commit()
    assert cancellation.cancelled is False
    assert shop.orders() == ["a"]


def test_a_rolled_back_savepoint_takes_back_the_cancellation(shop: Shop, session: Session) -> None:
    waiting = publish(shop.publisher, session, OrderPlaced("waiting"), delay=HOUR)
    session.commit()
    own = publish(shop.publisher, session, OrderPlaced("own"), delay=HOUR)
    savepoint = session.begin_nested()
    cancellations = [cancel(shop.publisher, session, waiting), cancel(shop.publisher, session, own)]
    savepoint.rollback()
    session.commit()
    assert [cancellation.cancelled for cancellation in cancellations] == [None, None]
    assert [row.id for row in shop.schedule()] == [waiting, own]


def test_a_rolled_back_transaction_cancels_nothing(shop: Shop, session: Session) -> None:
    waiting = publish(shop.publisher, session, OrderPlaced("waiting"), delay=HOUR)
    session.commit()
    cancellation = cancel(shop.publisher, session, waiting)
    session.rollback()
    assert cancellation.cancelled is None
    assert [row.id for row in shop.schedule()] == [waiting]


async def test_cancelling_on_an_async_session(shop: Shop) -> None:
    engine = shop.async_engine()
    async with AsyncSession(engine) as session:
        events = [publish(shop.publisher, session, OrderPlaced(str(number)), delay=HOUR) for number in range(3)]
        await session.commit()
        cancellations = [cancel(shop.publisher, session, event_id) for event_id in [*events[:2], uuid4()]]
        publish(shop.publisher, session, OrderPlaced("now"))
        await session.commit()
    await engine.dispose()
    assert [cancellation.cancelled for cancellation in cancellations] == [True, True, False]
    assert [row.id for row in shop.schedule()] == events[2:]
    assert shop.orders() == ["now"]
