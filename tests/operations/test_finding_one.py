"""One event among many that are dead is found by index: to look at it, to count it, to put it right."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from tests.consume.world import make_async_engine
from tests.services.databases import Database
from tests.stores.plans import MODES, Mode, watched
from tidings.ids import event_key, uuid7
from tidings.stores import SQLStore
from tidings.stores.sql.parked import ParkedQueries
from tidings.stores.sql.repair import Heads
from tidings.stores.sql.views_parked import ParkedViews

DEAD = 20_000
#: Pages that a look at one may touch; the deliveries have some thousands.
PAGES = 400


def crowd(database: Database) -> str:
    """Park many dead events, the last of which is ours."""

    async def make() -> None:
        engine = make_async_engine(database)
        await SQLStore(engine).upgrade()
        await engine.dispose()

    asyncio.run(make())
    ours = str(uuid7())
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("insert into tidings_subscriptions (service, group_name, name, events) values ('s', 's', 'bill', '[]')")
        connection.execute(
            "insert into tidings_lanes (lane, subscription_id, key, state, depth) "
            "select md5(i::text)::uuid, 1, 'k' || i, 'dead', 1 from generate_series(1, %s) i",
            (DEAD,),
        )
        connection.execute(
            "insert into tidings_deliveries (event_key, subscription_id, lane, event_id, source, name, topic, key, headers, data, reason, failed_at) "
            "select md5('e' || i)::uuid, 1, md5(i::text)::uuid, md5('e' || i), 'x', 'order.placed', 't', 'k' || i, '{}'::bytea, "
            "repeat('d', 500)::bytea, 'failed', now() from generate_series(1, %s) i",
            (DEAD,),
        )
        connection.execute(
            "update tidings_deliveries set event_id = %s, event_key = %s where number = %s", (ours, event_key("x", ours), DEAD)
        )
        connection.execute("analyze")
    return ours


@pytest.mark.parametrize("mode", MODES)
def test_postgresql_finds_one_of_many_by_index(postgresql: Database, mode: Mode) -> None:
    ours = crowd(postgresql)
    with watched(postgresql) as seen:
        engine: Any = seen.connection.engine
        store = SQLStore(engine)
        store.resolve(seen.connection)
        parked, views = ParkedQueries(store.names, store.dialect), ParkedViews(store.names, store.dialect)
        for heads in (Heads(number=DEAD), Heads(event_id=ours)):
            seen.plan(mode)
            assert views.matched(seen.connection, heads) == (1, 1)
            assert store.repair.count(seen.connection, heads) == (1, 1)
            assert store.repair.count(seen.connection, heads, "idle") == (0, 0)
            assert store.repair.try_now(seen.connection, heads) == 0
            assert store.repair.discard_idle(seen.connection, heads).events == 0
            assert store.repair.redrive(seen.connection, heads) == 1
            bounded(seen.plans)
            seen.connection.execute(text("update tidings_lanes set state = 'dead', due_at = clock_timestamp()"))
            seen.connection.execute(text("vacuum analyze tidings_lanes"))
        seen.plan(mode)
        assert [item.number for item in parked.by_event(seen.connection, ours)] == [DEAD]
        assert [item.number for item in parked.by_number(seen.connection, DEAD)] == [DEAD]
        bounded(seen.plans)
        assert store.repair.discard(seen.connection, Heads(event_id=ours)).events == 1
        store.close()


def bounded(plans: Any) -> None:
    found = [plan for plan in plans if "tidings_deliveries" in plan.query]
    assert found
    for plan in found:
        for table in ("tidings_deliveries", "tidings_lanes"):
            assert not [scan for scan in plan.scans(table) if scan.kind == "Seq Scan"], plan.query
        assert plan.buffers < PAGES, (plan.buffers, plan.query)


def test_both_ways_find_the_same(postgresql: Database) -> None:
    ours = crowd(postgresql)

    async def look() -> None:
        engine = make_async_engine(postgresql)
        store = SQLStore(engine)
        for heads, count in (
            (Heads(number=DEAD, key="other"), 0),
            (Heads(number=DEAD, key=f"k{DEAD}", service="s", subscription="s/bill", event="order.placed"), 1),
            (Heads(number=DEAD - 1, event_id=ours), 0),
            (Heads(event_id=ours, service="other"), 0),
            (Heads(event_id=ours.upper()), 0),
            (Heads(event_id="nobody's"), 0),
        ):
            assert await store.call(store.repair.count, heads) == (count, count), heads
            views = ParkedViews(store.names, store.dialect)
            assert await store.call(views.matched, heads) == (count, count), heads
        await engine.dispose()

    asyncio.run(look())
