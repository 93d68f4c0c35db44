"""Time passes when the test says so, and then for everything that the store remembers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.testing.shop import Bill, OrderBilled, OrderCancelled, OrderPlaced, ReminderDue, Shop, orders
from tidings import Envelope, Retry, Service, Subscriptions
from tidings.consume.retry import RetryLater
from tidings.stores import SQLStore, metadata
from tidings.stores.sql.parked import ParkedQueries
from tidings.testing import Harness
from tidings.testing.ageing import TIMES


async def test_retries_come_at_their_times(t: Harness, shop: Shop, count: Any) -> None:
    # Attempts at 0, 1 and 3 seconds.
    shop.failing["bill", "1"] = 2
    await t.deliver(OrderPlaced("1"))
    await t.drain()
    assert [call for call in shop.calls if call[0] == "bill"] == [("bill", "1", 1)]
    await t.advance(seconds=1)
    assert [call for call in shop.calls if call[0] == "bill"] == [("bill", "1", 1), ("bill", "1", 2)]
    await t.advance(milliseconds=500)
    assert await count(t, Bill, "1") == 0
    await t.advance(milliseconds=1500)
    assert await count(t, Bill, "1") == 1
    assert t.retrying == []
    assert [item.envelope.attempt for item in t.handled if item.subscription == "bill"] == [3]


async def test_everything_that_falls_due_on_the_way_happens_at_its_time(lite: Harness, shop: Shop) -> None:
    # Attempts at 0, 1, 3 and 7 seconds; the reminder in an hour.
    shop.failing["bill", "1"] = 99
    await lite.publish(OrderCancelled("2"))
    await lite.publish(OrderPlaced("1"))
    await lite.advance(minutes=5)
    assert [number for name, _, number in shop.calls if name == "bill"] == [1, 2, 3, 4]
    assert [item.event for item in lite.dead] == [OrderPlaced("1")]
    assert [item.event for item in lite.scheduled] == [ReminderDue("2")]
    assert timedelta(minutes=54) < lite.scheduled[0].due_in <= timedelta(minutes=55)


async def test_scheduled_events_enter_the_log_when_they_are_due(t: Harness, shop: Shop) -> None:
    event_id = await t.publish(OrderPlaced("1"), delay=timedelta(hours=2))
    await t.publish(OrderPlaced("2"), at=datetime.now(UTC) + timedelta(hours=3))
    await t.drain()
    assert t.published() == []
    assert [(item.event, item.id == event_id, item.key) for item in t.scheduled] == [
        (OrderPlaced("1"), True, "1"),
        (OrderPlaced("2"), False, "2"),
    ]
    await t.advance(hours=1, minutes=59)
    assert t.published() == []
    await t.advance(minutes=1)
    assert t.published() == [OrderPlaced("1"), OrderBilled("1")]
    await t.advance(timedelta(hours=1))
    assert shop.mails == ["1", "2"]
    assert t.scheduled == []


async def test_a_cancelled_scheduled_event_does_not_come(lite: Harness) -> None:
    event_id = await lite.publish(OrderPlaced("1"), delay=timedelta(hours=2))
    async with lite.sessionmaker() as session:
        cancellation = lite.service.cancel(session, event_id)
        await session.commit()
    assert cancellation.cancelled
    await lite.advance(days=1)
    assert lite.published() == []


async def test_events_expire_in_the_log(t: Harness, shop: Shop) -> None:
    await t.publish(OrderPlaced("1"), expires=timedelta(minutes=10))
    await t.publish(OrderPlaced("2"), expires=timedelta(minutes=30))
    async with t.sessionmaker() as session, session.begin():
        # Ten minutes in which nobody reads.
        await session.run_sync(lambda sync: _age(sync.connection(), t, timedelta(minutes=10)))
    await t.drain()
    assert {(item.subscription, item.event) for item in t.expired} == {("bill", OrderPlaced("1")), ("pack", OrderPlaced("1"))}
    assert shop.mails == ["2"]


async def test_events_expire_while_they_are_retried(t: Harness, shop: Shop) -> None:
    shop.failing["mail", "1"] = 1
    shop.failing["bill", "2"] = 99
    await t.deliver(OrderPlaced("2"), expires=timedelta(seconds=2))
    assert len(t.retrying) == 1
    await t.advance(seconds=10)
    # Attempts at 0 and 1 second; the third, at 3 seconds, is too late.
    assert [number for name, order, number in shop.calls if (name, order) == ("bill", "2")] == [1, 2]
    assert [item.event for item in t.expired] == [OrderPlaced("2")]
    assert t.retrying == t.dead == []


async def test_scheduled_events_keep_their_expiry(t: Harness) -> None:
    await t.publish(OrderPlaced("1"), delay=timedelta(hours=1), expires=timedelta(hours=2))
    await t.advance(hours=1)
    (envelope,) = t.published(OrderPlaced).envelopes
    assert envelope.expires is not None
    assert timedelta(minutes=59) < envelope.expires - datetime.now(UTC) <= timedelta(hours=1)
    assert envelope.scheduled_for is not None


async def test_how_long_an_event_has_been_tried_counts_virtual_time(lite: Harness) -> None:
    tried: list[int] = []
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=100, give_up_after=timedelta(hours=5)))
    async def wait(event: OrderPlaced, envelope: Envelope) -> None:
        tried.append(envelope.attempt)
        raise RetryLater(timedelta(hours=2))

    service = Service("waiting", contracts=[orders], subscriptions=[handlers], store=lite.store)
    async with Harness(service) as t:
        await t.deliver(OrderPlaced("1"))
        await t.advance(days=1)
        assert tried == [1, 2, 3]
        assert len(t.dead) == 1


async def test_the_clock_on_the_wall_stays(lite: Harness) -> None:
    before = datetime.now(UTC)
    await lite.publish(OrderPlaced("1"))
    await lite.advance(days=3)
    assert datetime.now(UTC) - before < timedelta(minutes=1)
    (envelope,) = lite.published(OrderPlaced).envelopes
    assert timedelta(days=2, hours=23) < before - envelope.time < timedelta(days=3, minutes=1)


async def test_time_does_not_go_back(lite: Harness) -> None:
    with pytest.raises(ValueError, match="time does not go back"):
        await lite.advance(minutes=-1)


async def test_a_lease_runs_out(t: Harness) -> None:
    lease = await t.store.call(t.store.leases.acquire, "task:purger", "somebody", 60.0)
    assert lease is not None
    await t.advance(seconds=59)
    assert await t.store.call(t.store.leases.acquire, "task:purger", "another", 60.0) is None
    await t.advance(seconds=2)
    assert await t.store.call(t.store.leases.acquire, "task:purger", "another", 60.0) is not None


async def test_what_stands_beside_the_times_is_left_as_it_was(t: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 1
    await t.deliver(OrderPlaced("1", 5), headers={"expires-not": "a 'quoted' %s"}, expires=timedelta(days=30))

    def parked(connection: sa.Connection) -> Any:
        return ParkedQueries(t.store.names, t.store.dialect).dead(connection, 10) or _first(connection, t.store)

    before = await t.store.call(parked)
    await t.store.transact(lambda connection: _age(connection, t, timedelta(days=1)))
    after = await t.store.call(parked)
    assert (before.data, before.event_id, before.attempts, before.key) == (after.data, after.event_id, after.attempts, after.key)
    headers = json.loads(before.headers), json.loads(after.headers)
    assert headers[0].pop("expires") > headers[1].pop("expires")
    assert headers[0] == headers[1]
    assert before.failed_at - after.failed_at == timedelta(days=1)
    (was,), (remembered,) = before.history, after.history
    assert datetime.fromisoformat(was["at"]) - datetime.fromisoformat(remembered["at"]) == timedelta(days=1)
    assert (was["error"], was["attempt"]) == (remembered["error"], remembered["attempt"])


def test_no_time_column_is_forgotten() -> None:
    tables = metadata(dialect="postgresql").tables.values()
    times = {
        table.name.removeprefix("tidings_"): {column.name for column in table.columns if isinstance(column.type, sa.DateTime)}
        for table in tables
    }
    times["stats"].discard("bucket")
    assert {table: columns for table, columns in times.items() if columns} == {table: set(columns) for table, columns in TIMES.items()}


async def test_two_advances_at_once_follow_one_another(lite: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 2
    await lite.deliver(OrderPlaced("1"))
    await asyncio.gather(lite.advance(seconds=2), lite.advance(seconds=2))
    assert [number for name, _, number in shop.calls if name == "bill"] == [1, 2, 3]


def _age(connection: sa.Connection, t: Harness, time: timedelta) -> None:
    from tidings.testing.ageing import age

    age(connection, t.store, time)


def _first(connection: sa.Connection, store: SQLStore) -> Any:
    (found,) = ParkedQueries(store.names, store.dialect).by_number(connection, 1)
    return found
