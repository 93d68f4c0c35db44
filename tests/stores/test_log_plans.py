"""The log is read by the indexes that it is meant to be read by, whatever the planner believes about the table.

300,000 retained rows, and few that are new. The plans are pinned, and the pages that they touch; never the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.services.databases import Database, PostgreSQLDatabases
from tests.stores.plans import MODES, Mode, Plan, Watched, watched
from tidings.stores import SQLStore
from tidings.stores.base import Batch, Mark
from tidings.stores.sql import migrate

_ROWS = """
    insert into tidings_outbox (id, source, name, version, topic, key, slot, headers, data)
    select gen_random_uuid(), 'shop', 'order.placed', 1, 'orders', 'k' || n, n %% 1024, '{}', '{"total_minor": 1250, "currency": "EUR"}'
    from generate_series(1, %s) n
"""
_BULK = 60_000
_PAGE = 1000


@dataclass(frozen=True)
class History:
    """A log with three parts: many transactions of a thousand rows, one of very many, and a hundred new rows in ten.

    Attributes:
        small: a transaction of three rows from before everything else.
        bulk: the transaction of very many rows.
        before_bulk, before_new, after: snapshots.
    """

    store: SQLStore
    database: Database
    small: int
    bulk: int
    before_bulk: str
    before_new: str
    after: str


def xid_and_rows(connection: psycopg.Connection[Any], rows: int) -> int:
    with connection.transaction():
        connection.execute(_ROWS, (rows,))
        return scalar(connection, "select pg_current_xact_id()::text::bigint")


def scalar(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row[0]


def snapshot(connection: psycopg.Connection[Any]) -> str:
    return str(scalar(connection, "select pg_current_snapshot()::text"))


@pytest.fixture(scope="module")
def history(postgresql_databases: PostgreSQLDatabases) -> Iterator[History]:
    with postgresql_databases.fresh() as database:
        engine = create_engine(database.sync_url)
        store = SQLStore(engine, schema="public")
        with engine.begin() as made:
            migrate.upgrade(made, store.names, store.lock_class)
        engine.dispose()
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            # Statistics are a test's own business here.
            connection.execute("alter table tidings_outbox set (autovacuum_enabled = false)")
            small = xid_and_rows(connection, 3)
            connection.execute("analyze tidings_outbox")
            for _ in range(240):
                xid_and_rows(connection, 1000)
            before_bulk = snapshot(connection)
            bulk = xid_and_rows(connection, _BULK)
            before_new = snapshot(connection)
            for _ in range(10):
                xid_and_rows(connection, 10)
            yield History(store, database, small, bulk, before_bulk, before_new, snapshot(connection))


@pytest.fixture(scope="module", params=["of three rows", "none", "fresh"])
def statistics(request: pytest.FixtureRequest, history: History) -> str:
    """What the planner knows: what it was when the table had three rows, nothing at all, or everything."""
    with psycopg.connect(history.database.dsn, autocommit=True) as connection:
        # What transactions of the tests before have left would lie between every snapshot of the history and now.
        known = connection.execute("select reltuples, relpages from pg_class where oid = 'tidings_outbox'::regclass").fetchone()
        connection.execute("vacuum tidings_outbox")
        if request.param == "none":
            connection.execute("delete from pg_statistic where starelid = 'tidings_outbox'::regclass")
            known = (-1, 0)
        if request.param == "fresh":
            connection.execute("analyze tidings_outbox")
        else:
            connection.execute("update pg_class set reltuples = %s, relpages = %s where oid = 'tidings_outbox'::regclass", known)
    return str(request.param)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    mode: Mode = request.param
    return mode


@pytest.fixture
def reader(history: History, statistics: str, mode: Mode) -> Iterator[Watched]:
    with watched(history.database) as reader:
        reader.plan(mode)
        yield reader
        for plan in reader.plans:
            if "pg_current_snapshot" in plan.query and plan.scans("tidings_outbox"):
                assert ("$1" in plan.conditions()) == (mode == "force_generic_plan")


def read(reader: Watched, history: History, mark: Mark, limit: int) -> tuple[Batch, list[Plan]]:
    reader.plans.clear()
    batch = history.store.log.read(reader.connection, mark, limit)
    return batch, list(reader.plans)


def poll(reader: Watched, history: History, previous: str, limit: int = _PAGE) -> tuple[Batch, Plan]:
    """Poll as a reader that has read up to a snapshot; return what was read, and the plan of the poll."""
    batch, plans = read(reader, history, Mark(previous, None, 0), limit)
    assert len(plans) == (1 if len(batch.rows) < limit else 3)
    by_index(plans[0])
    return batch, plans[0]


def by_index(plan: Plan) -> None:
    """Every visit goes through the index (tx, position), between two bounds of tx. As a bitmap, too: it reads no more than these rows."""
    scans = plan.scans("tidings_outbox")
    assert scans
    for scan in scans:
        assert scan.index == "tidings_outbox_tx", scan
        assert "tx >= " in scan.condition, scan
        assert "tx < " in scan.condition or "tx <= " in scan.condition, scan


@contextmanager
def open_transaction(history: History, rows: int) -> Iterator[int]:
    """A transaction that has written and does not end for now."""
    with psycopg.connect(history.database.dsn) as other:
        other.execute(_ROWS, (rows,))
        yield scalar(other, "select pg_current_xact_id()::text::bigint")
        other.rollback()


def test_an_idle_poll_touches_a_handful_of_pages(history: History, reader: Watched) -> None:
    batch, plan = poll(reader, history, history.after)
    assert batch.rows == []
    assert plan.buffers <= 20


def test_a_poll_reads_what_is_new_and_nothing_else(history: History, reader: Watched) -> None:
    batch, plan = poll(reader, history, history.before_new)
    assert len(batch.rows) == 100
    assert plan.buffers <= 130


def test_a_late_transaction_is_found_by_its_number_among_many_retained_rows(history: History, reader: Watched) -> None:
    batch, plan = poll(reader, history, late(history, history.small))
    assert len(batch.rows) == 3
    assert plan.buffers <= 20


def late(history: History, xid: int) -> str:
    """The snapshot of a reader that has read everything but one transaction, which was still running then."""
    return f"{xid}:{history.after.split(':')[1]}:{xid}"


@pytest.mark.parametrize("when", ["late", "new"])
def test_a_window_of_very_many_rows_is_read_no_further_than_the_page(history: History, reader: Watched, when: str) -> None:
    previous = late(history, history.bulk) if when == "late" else history.before_bulk
    batch, plan = poll(reader, history, previous, limit=100)
    assert len(batch.rows) == 100
    assert plan.rows == 101
    assert plan.buffers <= 130


@pytest.mark.parametrize("when", ["late", "new"])
def test_opening_a_large_window_never_reads_more_than_the_window(history: History, reader: Watched, when: str) -> None:
    previous = late(history, history.bulk) if when == "late" else history.before_bulk
    batch, plan = poll(reader, history, previous)
    assert len(batch.rows) == _PAGE
    assert plan.buffers <= 2500  # 60,000 rows; the table and the index have 7,000 pages


def test_a_thousand_transactions_that_were_running_cost_a_few_pages_each(history: History, reader: Watched) -> None:
    xmax = int(history.after.split(":")[1])
    # A thousand that have written nothing, as if all of them had been late, and one with three rows.
    running = sorted({history.small, *range(xmax, xmax + 1000)})
    batch, plan = poll(reader, history, f"{running[0]}:{running[-1] + 1}:{','.join(map(str, running))}")
    assert len(batch.rows) == 3
    assert plan.buffers <= 4 * len(running)


@pytest.mark.parametrize("when", ["late", "new"])
def test_where_a_large_window_starts_is_found_by_the_index(history: History, reader: Watched, when: str) -> None:
    previous = late(history, history.small) if when == "late" else history.before_new
    limit = 2 if when == "late" else 50
    batch, (_, floor, page) = read(reader, history, Mark(previous, None, 0), limit)
    assert len(batch.rows) == limit
    by_index(floor)
    assert floor.buffers <= 130
    by_primary_key(page)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_large_window_is_paged_by_primary_key(history: History, reader: Watched, place: str) -> None:
    position = {"start": 240_003, "middle": 240_003 + _BULK // 2, "end": 240_003 + _BULK - _PAGE}[place]
    batch, plans = read(reader, history, Mark(history.before_bulk, history.before_new, position), _PAGE)
    assert len(batch.rows) == _PAGE
    by_primary_key(plans[-1])
    assert plans[-1].buffers <= 150


def by_primary_key(plan: Plan) -> None:
    (scan,) = plan.scans("tidings_outbox")
    assert (scan.kind, scan.index) == ("Index Scan", "tidings_outbox_pkey")
    assert "position" in scan.condition


def test_what_a_running_transaction_has_written_costs_an_idle_poll_nothing(history: History, reader: Watched) -> None:
    with open_transaction(history, 100_000) as running:
        reader.connection.execute(text("select pg_current_xact_id()"))  # ends after the other one began, so that snapshots list that one
        now = reader.connection.scalar(text("select pg_current_snapshot()::text"))
        assert str(running) in now.split(":")[2].split(",")
        batch, plan = poll(reader, history, now)
        assert batch.rows == []
        assert plan.buffers <= 20


def test_what_was_begun_after_the_snapshot_and_still_runs_costs_nothing(history: History, reader: Watched) -> None:
    # Its number is not below the new snapshot's end, so that its rows are not looked at; unless one that began later has ended already,
    # somewhere in the cluster.
    while True:
        before = reader.connection.scalar(text("select pg_current_snapshot()::text"))
        with open_transaction(history, 20_000) as running:
            batch, plan = poll(reader, history, before)
            assert batch.end.previous is not None
            if int(batch.end.previous.split(":")[1]) <= running:
                break
    assert batch.rows == []
    assert plan.buffers <= 20
