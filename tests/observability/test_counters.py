"""What is counted: how often, how long handlers take, and how long after their commit events are handled."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect
from tidings import Publish, Subscriptions
from tidings.consume.counters import BOUNDS, Counters, Histogram, bound_names


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, "1"), (0.001, "1"), (0.00101, "2"), (0.005, "5"), (0.3, "500"), (1.0, "1000"), (60.0, "60000"), (60.1, "inf"), (1e9, "inf")],
)
def test_a_duration_counts_in_the_first_bucket_that_holds_it(seconds: float, bucket: str) -> None:
    counters = Counters()
    counters.histogram("a/b", "took").observe(seconds)
    assert counters.drain() == {("a/b", f"took:{bucket}"): 1}
    assert counters.drain() == {}


def test_the_names_of_buckets_are_milliseconds() -> None:
    assert bound_names() == ("1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000", "30000", "60000", "inf")
    assert len(bound_names()) == len(BOUNDS) + 1


def test_ages_of_one_bucket_and_of_several_are_all_counted() -> None:
    now = 1_700_000_000.0

    def ago(seconds: float) -> datetime:
        return datetime.fromtimestamp(now - seconds, UTC)

    histogram = Histogram()
    histogram.since([ago(0.0012), ago(0.0018)], now)
    histogram.since([ago(0.0012), ago(3.0), ago(700.0)], now)
    histogram.since([ago(-5.0)], now)
    names = dict(zip(bound_names(), histogram.counts, strict=True))
    assert {name: count for name, count in names.items() if count} == {"1": 1, "2": 3, "5000": 1, "inf": 1}
    assert histogram.total == pytest.approx(0.003 + 0.0012 + 703.0, abs=1e-3)


@pytest.mark.parametrize("durations", [[], [0.003], [0.003, 0.004], [0.003, 0.0005, 7.0, 100.0, 0.004]])
def test_durations_of_a_portion_are_counted_as_one_by_one(durations: list[float]) -> None:
    together, singly = Histogram(), Histogram()
    together.observe_each(durations)
    for seconds in durations:
        singly.observe(seconds)
    assert together.counts == singly.counts
    assert together.total == pytest.approx(singly.total)


def test_times_that_brokers_bring_are_read_or_left_out() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    histogram = Histogram()
    histogram.since(
        [
            "2026-01-01T11:59:59Z",
            now - timedelta(seconds=1),
            "2026-01-01T13:59:59+02:00",
            "no time",
            None,
            7,
            (now - timedelta(seconds=1)).replace(tzinfo=None),
        ],
        now.timestamp(),
    )
    assert sum(histogram.counts) == 4
    assert histogram.total == pytest.approx(4.0)


def test_times_as_text_of_several_time_zones_count_in_their_own_buckets() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()
    histogram = Histogram()
    histogram.since(["2026-01-01T11:59:59Z", "2026-01-01T12:30:00+05:00", "2026-01-01T13:59:59+02:00"], now)
    names = dict(zip(bound_names(), histogram.counts, strict=True))
    assert {name: count for name, count in names.items() if count} == {"1000": 2, "inf": 1}
    assert histogram.total == pytest.approx(1.0 + 4.5 * 3600 + 1.0)


def test_asking_for_totals_changes_nothing() -> None:
    counters = Counters()
    counters.add("", "published", 2)
    counters.committed(3, 1)
    for _ in range(2):
        assert counters.totals() == {("", "published"): 5, ("", "scheduled"): 1}
        assert counters.of("published") == 5
    assert counters.drain() == {("", "published"): 5, ("", "scheduled"): 1}
    assert counters.of("published") == 5


def test_what_could_not_be_written_is_written_later() -> None:
    counters = Counters()
    counters.add("a/b", "handled", 2)
    counters.histogram("a/b", "lag").observe(0.5)
    counters.restore(counters.drain())
    counters.add("a/b", "handled")
    assert counters.drain() == {("a/b", "handled"): 3, ("a/b", "lag:500"): 1}


def test_threads_that_commit_at_once_are_all_counted() -> None:
    counters = Counters()

    def commit() -> None:
        for _ in range(5000):
            counters.committed(2, 1)

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.of("published") == 40_000
    assert counters.of("scheduled") == 20_000


async def test_only_what_was_committed_counts_as_published(any_world: World) -> None:
    service = any_world.service()

    def some_roll_back(session: Session) -> None:
        service.publish(session, OrderPlaced("a"))
        savepoint = session.begin_nested()
        service.publish(session, OrderPlaced("b"))
        savepoint.rollback()
        service.publish(session, OrderPlaced("c"), delay=timedelta(hours=1))

    def all_roll_back(session: Session) -> None:
        service.publish(session, OrderPlaced("d"))
        session.flush()
        session.rollback()

    await any_world.transact(some_roll_back)
    await any_world.transact(all_roll_back)
    await any_world.publish(service, *(OrderPlaced(str(n)) for n in range(150)))
    assert service.counters.of("published") == 151
    assert service.counters.of("scheduled") == 1
    assert any_world.one("select count(*) from tidings_outbox") == 151


async def test_blocks_and_handlers_count_what_they_publish(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "bill", event)

    service = world.service(handlers)
    async with service:
        async with world.engine.connect() as connection:  # type: ignore[union-attr]
            async with service.publishing(connection) as publish:
                await connection.execute(sa.text("select 1"))
                publish(OrderPlaced("a"))
                publish(OrderPlaced("b"))
            await connection.commit()
        await until(lambda: service.counters.of("handled") == 2)
        assert service.counters.of("published") == 4


async def test_the_store_has_the_counts_of_a_service_that_has_stopped(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, concurrency=4)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    @handlers.subscribe(OrderPlaced)
    async def mail(event: OrderPlaced) -> None:
        pass

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(f"{n % 5}", n) for n in range(40)))
        await until(lambda: service.counters.of("handled") == 80)
    counts = {
        (subject, measure): value
        for subject, measure, value in world.rows("select subject, measure, sum(value) from tidings_stats group by 1, 2")
    }
    assert counts["", "published"] == 40
    assert counts["shop", "received"] == 40
    for name in ("work", "mail"):
        assert counts[f"shop/{name}", "handled"] == 40
        for histogram in ("took", "lag"):
            found = {
                measure: value
                for (subject, measure), value in counts.items()
                if subject == f"shop/{name}" and measure.startswith(f"{histogram}:")
            }
            assert sum(found.values()) == 40
            assert set(found) <= {f"{histogram}:{bound}" for bound in bound_names()}


async def test_how_long_a_handler_takes_is_measured_also_when_it_fails(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        raise ValueError("no")

    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("failed") >= 1)
        assert sum(service.counters.histogram("shop/work", "took").counts) >= 1
        assert sum(service.counters.histogram("shop/work", "lag").counts) == 0
