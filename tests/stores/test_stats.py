"""Counts go into buckets that become coarser with age, and what was counted is never lost or counted twice by that."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.stores.test_purge import execute, purger
from tidings.stores import SQLStore
from tidings.stores.sql.dialect import as_datetime
from tidings.stores.sql.queries import Queries
from tidings.stores.sql.stats import FINE, MINUTES
from tidings.stores.sql.views_stats import StatsViews, quantile

EVER = 1e9


async def buckets(store: SQLStore) -> list[tuple[datetime, str, int]]:
    def ask(connection: Connection) -> Any:
        return connection.exec_driver_sql("select bucket, measure, value from tidings_stats order by bucket, measure").all()

    return [(as_datetime(bucket), measure, value) for bucket, measure, value in await store.call(ask)]  # type: ignore[misc]


async def put(store: SQLStore, time: datetime, value: int, measure: str = "handled") -> None:
    bucket = time.isoformat() if store.dialect.name == "postgresql" else f"{time:%Y-%m-%dT%H:%M:%S}.000Z"
    await execute(
        store, f"insert into tidings_stats (bucket, service, subject, measure, value) values ('{bucket}', 's', 'x', '{measure}', {value})"
    )


async def test_a_count_goes_into_ten_seconds(store: SQLStore) -> None:
    before = datetime.now(UTC)
    await store.transact(store.stats.count, "shop", {("shop/charge", "handled"): 2, ("", "published"): 1, ("", "nothing"): 0})
    await store.transact(store.stats.count, "shop", {("shop/charge", "handled"): 3})
    found = await buckets(store)
    assert all(bucket.second % 10 == 0 and bucket.microsecond == 0 for bucket, _, _ in found)
    assert all(before - timedelta(seconds=11) < bucket <= datetime.now(UTC) + timedelta(seconds=1) for bucket, _, _ in found)
    sums: dict[str, int] = {}
    for _, measure, value in found:
        sums[measure] = sums.get(measure, 0) + value
    assert sums == {"handled": 5, "published": 1}


async def test_old_buckets_become_minutes_and_older_ones_hours(store: SQLStore) -> None:
    lease = await purger(store)
    now = datetime.now(UTC)
    recent = (now - timedelta(minutes=10)).replace(second=10, microsecond=0)
    old = (now - timedelta(hours=3)).replace(minute=17, second=0, microsecond=0)
    ancient = (now - timedelta(days=3)).replace(minute=0, second=0, microsecond=0)
    await put(store, recent, 1)
    for seconds in (0, 10, 50):
        await put(store, old + timedelta(seconds=seconds), 10)
    for minutes in (0, 1, 59):
        await put(store, ancient + timedelta(minutes=minutes, seconds=20), 100)
    for _ in range(2):
        await store.transact(store.stats.roll, lease, "hour", MINUTES, EVER)
        await store.transact(store.stats.roll, lease, "minute", FINE, EVER)
        assert await buckets(store) == [(ancient, "handled", 300), (old, "handled", 30), (recent, "handled", 1)]


async def test_an_hour_is_one_of_utc_whatever_zone_a_session_has(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    lease = await purger(store)
    ancient = (datetime.now(UTC) - timedelta(days=3)).replace(minute=20, second=0, microsecond=0)
    await put(store, ancient, 1)

    def roll(connection: Connection) -> None:
        connection.exec_driver_sql("set local time zone 'Asia/Kolkata'")
        store.stats.roll(connection, lease, "hour", MINUTES, EVER)

    await store.transact(roll)
    assert await buckets(store) == [(ancient.replace(minute=0), "handled", 1)]


async def test_who_has_lost_the_lease_rolls_up_nothing(store: SQLStore) -> None:
    lease = await purger(store)
    old = (datetime.now(UTC) - timedelta(hours=3)).replace(minute=17, second=10, microsecond=0)
    await put(store, old, 1)
    lost = lease._replace(token=lease.token - 1)
    await store.transact(store.stats.roll, lost, "minute", FINE, EVER)
    await store.transact(store.stats.forget, lost)
    assert await buckets(store) == [(old, "handled", 1)]


async def test_what_is_very_old_is_forgotten(store: SQLStore) -> None:
    lease = await purger(store)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await put(store, now - timedelta(days=31), 1)
    await put(store, now - timedelta(days=29), 2)
    await store.transact(store.stats.forget, lease)
    assert [value for _, _, value in await buckets(store)] == [2]


async def test_workers_that_count_at_once_lose_nothing(store: SQLStore) -> None:
    counts = {(f"shop/{n}", measure): 1 for n in range(5) for measure in ("handled", "took:1", "took:inf")}
    for _ in range(3):
        await asyncio.gather(*(store.transact(store.stats.count, "shop", counts) for _ in range(4)))
    assert sum(value for _, _, value in await buckets(store)) == 3 * 4 * len(counts)


async def test_who_draws_minutes_gets_all_of_their_buckets(store: SQLStore) -> None:
    minute = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)
    for seconds in (0, 10, 50):
        await put(store, minute + timedelta(seconds=seconds), 1)
        await put(store, minute + timedelta(seconds=seconds), 2, "took:5")
    await put(store, minute + timedelta(seconds=60), 7)
    views = StatsViews(store.names, store.dialect)
    begin, end = minute - timedelta(minutes=1), minute + timedelta(minutes=1)
    _, counts = await store.call(views.counts, begin, end)
    assert [point for point in counts if point.at == minute] == [(minute, "handled", 3)]
    assert [point.value for point in counts if point.at > minute] == [7]
    minutes, histograms = await store.call(views.histograms, begin, end)
    assert (minutes[0], minutes[-1], histograms) == (begin, end, [(minute, "took:5", 6)])
    activity = await store.call(Queries(store.names, store.dialect).activity, timedelta(minutes=10))
    assert [(found.measure, found.total) for found in activity] == [("handled", 10), ("took:5", 6)]


@pytest.mark.parametrize(
    ("histogram", "share", "found"),
    [
        ({}, 0.5, None),
        ({20: 10}, 0.5, 15),
        ({1000: 100}, 0.5, 750),
        ({1: 10}, 0.5, 0.5),
        ({1: 50, 1000: 50}, 0.99, 990),
        ({5: 1, 1000: 1, float("inf"): 98}, 0.5, 60_000),
        ({float("inf"): 1}, 0.99, 60_000),
        ({20: 1, 15: 9}, 1.0, 20),
    ],
)
def test_a_duration_lies_in_its_own_bucket_also_when_those_below_are_empty(
    histogram: dict[float, int], share: float, found: float | None
) -> None:
    assert quantile(histogram, share) == (None if found is None else pytest.approx(found))
