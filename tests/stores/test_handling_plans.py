"""Handling is as fast for a subscription that the planner's statistics have never seen as for any other.

An unknown subscription is estimated at one row: an index that began with it, or a condition that could be served by it alone, would make
every statement read all rows of the subscription.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, create_engine

from tests.services.databases import Database, PostgreSQLDatabases
from tests.stores.lanes import item
from tests.stores.plans import MODES, Mode, watched
from tidings.stores import SQLStore
from tidings.stores.base import Claimed, Failure
from tidings.stores.sql import migrate
from tidings.stores.sql.parked import ParkedQueries

_SEEN, _UNSEEN = 1, 99
# 20 inbox rows for each lane, and 5 deliveries in it; names are numbers, so that tests can compute them.
_FILL = """
    insert into tidings_inbox (event_key, subscription_id)
      select md5(n::text)::uuid, %(s)s from generate_series(%(a)s, %(a)s + 20 * %(lanes)s - 1) n;
    insert into tidings_lanes (lane, subscription_id, depth, lease_token, lease_until)
      select md5(n::text)::uuid, %(s)s, 5, 7, now() - interval '1 hour' from generate_series(%(a)s, %(a)s + %(lanes)s - 1) n;
    insert into tidings_deliveries (event_key, subscription_id, lane, event_id, source, name, topic, headers, data, reason)
      select md5(d || 'd' || n)::uuid, %(s)s, md5(n::text)::uuid, n, 'shop', 'order.placed', 'orders', '', repeat('x', 200)::bytea, 'behind'
      from generate_series(%(a)s, %(a)s + %(lanes)s - 1) n, generate_series(1, 5) d;
"""
_KNOWN, _FREE = 1_000_000, 5_000_000


@pytest.fixture(scope="module", params=["that have not seen it", "none"])
def handling(request: pytest.FixtureRequest, postgresql_databases: PostgreSQLDatabases) -> Iterator[tuple[SQLStore, Database]]:
    """A store with 100,000 inbox rows and 5,000 lanes, which statistics know or not, and a new subscription with a fifth of that."""
    with postgresql_databases.fresh() as database:
        engine = create_engine(database.sync_url)
        store = SQLStore(engine, schema="public")
        with engine.begin() as made:
            migrate.upgrade(made, store.names, store.lock_class)
        engine.dispose()
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            for table in ("inbox", "lanes", "deliveries"):
                connection.execute(f"alter table tidings_{table} set (autovacuum_enabled = false)")  # type: ignore[arg-type]
            connection.execute(
                "insert into tidings_checkpoints (reader, service, group_name, kind, lease_token) values ('shop', 'shop', 'shop', 'log', 3)"
            )
            fill = psycopg.ClientCursor(connection)
            fill.execute(_FILL, {"s": _SEEN, "a": 1, "lanes": 5000})
            if request.param != "none":
                connection.execute("analyze tidings_inbox, tidings_lanes, tidings_deliveries")
            fill.execute(_FILL, {"s": _UNSEEN, "a": _KNOWN, "lanes": 1000})
        yield store, database


def known(connection: Connection, count: int, first: int = _KNOWN) -> list[str]:
    return list(
        connection.exec_driver_sql(f"select md5(n::text) from generate_series({first}, {first + count - 1}) n order by n").scalars()
    )


def free(connection: Connection, count: int) -> list[str]:
    return known(connection, count, _FREE)


def head(connection: Connection) -> str:
    return str(connection.exec_driver_sql(f"select md5('1d{_KNOWN}')").scalar_one())


def lane(connection: Connection) -> Claimed:
    return Claimed(_UNSEEN, known(connection, 1)[0], "k", 7, 1, 5)


def script(connection: Connection, statement: str | None) -> object:
    assert statement is not None
    return connection.exec_driver_sql(statement)


FAILURE = Failure("E", "message", "", "fingerprint")
Use = Callable[[Connection, SQLStore, int], Any]
USES: dict[str, Use] = {
    "opening new events": lambda c, s, n: s.inbox.open(c, _UNSEEN, free(c, n), free(c, n)),
    "opening events of parked keys": lambda c, s, n: s.inbox.open(c, _UNSEEN, free(c, n), known(c, n)),
    "opening duplicates": lambda c, s, n: s.inbox.open(c, _UNSEEN, known(c, n), free(c, n)),
    "looking at duplicates": lambda c, s, n: s.inbox.standing(c, _UNSEEN, known(c, n), free(c, n)),
    "looking at events of parked keys": lambda c, s, n: s.inbox.standing(c, _UNSEEN, free(c, n), known(c, n)),
    "proving": lambda c, s, n: s.inbox.prove(c, _UNSEEN, known(c, n), "shop", 0, 3),
    "opening by a script": lambda c, s, n: script(c, s.inbox.opening(_UNSEEN, free(c, 1)[0], free(c, 1)[0])),
    "opening by a script for a parked key": lambda c, s, n: script(c, s.inbox.opening(_UNSEEN, free(c, 1)[0], known(c, 1)[0])),
    "opening a duplicate by a script": lambda c, s, n: script(c, s.inbox.opening(_UNSEEN, known(c, 1)[0], free(c, 1)[0])),
    "proving by a script": lambda c, s, n: (
        s.inbox.record(c, _UNSEEN, free(c, n), 0),
        script(c, s.inbox.proving(_UNSEEN, free(c, n), "shop", 0, 3)),
    ),
    "counting": lambda c, s, n: s.inbox.present(c, _UNSEEN, known(c, n)),
    "recording": lambda c, s, n: s.inbox.record(c, _UNSEEN, free(c, n), 0),
    "parking in new lanes": lambda c, s, n: s.lanes.park(c, _UNSEEN, [item(key, key) for key in free(c, n)]),
    "parking in lanes that are there": lambda c, s, n: s.lanes.park(c, _UNSEEN, [item(key, key) for key in known(c, n)]),
    "loading a lane": lambda c, s, n: s.lanes.load(c, lane(c), 100),
    "finishing a head": lambda c, s, n: s.lanes.finish(c, lane(c), [head(c)], 30.0),
    "renewing a lane": lambda c, s, n: s.lanes.renew(c, lane(c), 30.0),
    "releasing a lane": lambda c, s, n: s.lanes.release(c, lane(c), state="retrying", attempts=1, delay=1.0),
    "setting a head aside": lambda c, s, n: s.lanes.detach(c, lane(c), head(c), 1),
    "explaining a failure": lambda c, s, n: s.lanes.explain(c, lane(c), head(c), "failed", 1, "[]", FAILURE),
}
#: What the planner may not do without, for each table: one of these in a condition on an index.
SELECTIVE = {"inbox": ("event_key",), "lanes": ("lane",), "deliveries": ("event_key", "lane")}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 100])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_statement_finds_its_rows_by_key(handling: tuple[SQLStore, Database], mode: Mode, use: Use, count: int) -> None:
    store, database = handling
    with watched(database) as worker:
        worker.plan(mode)
        worker.connection.exec_driver_sql("begin")
        assert use(worker.connection, store, count) is not False
        worker.connection.exec_driver_sql("rollback")
        plans = [plan for plan in worker.plans if "tidings_" in plan.query]
    assert plans
    for plan in plans:
        for table, columns in SELECTIVE.items():
            for scan in plan.scans(f"tidings_{table}"):
                # For a hundred keys at once the planner may find it cheaper to read every lane: there are few.
                assert any(column in scan.condition for column in columns) or (table == "lanes" and count > 1), scan
        # An index lookup is three or four pages, an insert a few more; what a new session reads of the catalogs is counted, too.
        assert plan.buffers <= 150 + 25 * count, plan.query


@pytest.fixture(scope="module")
def young(postgresql_databases: PostgreSQLDatabases) -> Iterator[tuple[SQLStore, Database]]:
    """A store in which nothing has been handled yet."""
    with postgresql_databases.fresh() as database:
        engine = create_engine(database.sync_url)
        store = SQLStore(engine, schema="public")
        with engine.begin() as made:
            migrate.upgrade(made, store.names, store.lock_class)
            made.exec_driver_sql("alter table tidings_inbox set (autovacuum_enabled = false)")
            made.exec_driver_sql(
                "insert into tidings_checkpoints (reader, service, group_name, kind, lease_token) values ('shop', 'shop', 'shop', 'log', 3)"
            )
        engine.dispose()
        yield store, database


@pytest.mark.parametrize("use", [name for name in USES if name.startswith(("opening", "looking", "proving", "counting", "recording"))])
def test_a_plan_that_is_made_while_nothing_has_been_handled_serves_a_full_inbox_too(young: tuple[SQLStore, Database], use: str) -> None:
    store, database = young
    with watched(database) as worker:
        worker.plan("force_generic_plan")
        worker.connection.exec_driver_sql("begin")
        USES[use](worker.connection, store, 100)
        worker.connection.exec_driver_sql("rollback")
        plans = [plan for plan in worker.plans if "tidings_inbox" in plan.query]
    assert plans
    for plan in plans:
        for scan in plan.scans("tidings_inbox"):
            assert "event_key" in scan.condition, scan


@pytest.mark.parametrize("mode", MODES)
def test_a_parked_event_is_found_by_its_id_without_an_index_by_id(handling: tuple[SQLStore, Database], mode: Mode) -> None:
    store, database = handling
    with watched(database) as worker:
        worker.plan(mode)
        ParkedQueries(store.names, store.dialect).by_event(worker.connection, "0190f5d2-7a3b-7c4d-8e5f-0123456789ab")
        (plan,) = worker.plans
    assert all(
        any(column in scan.condition for column in ("event_key", "lane", "number =")) for scan in plan.scans("tidings_deliveries")
    ), plan
    assert plan.buffers <= 150


@pytest.mark.parametrize("mode", MODES)
def test_claiming_takes_what_is_due_first_and_looks_at_nothing_else(handling: tuple[SQLStore, Database], mode: Mode) -> None:
    store, database = handling
    with watched(database) as worker:
        worker.plan(mode)
        worker.connection.exec_driver_sql("begin")
        assert len(store.lanes.claim(worker.connection, [_SEEN, _UNSEEN], 16, 30.0, "me")) == 16
        worker.connection.exec_driver_sql("rollback")
        (plan,) = worker.plans
    assert {scan.index for scan in plan.scans("tidings_lanes")} >= {"tidings_lanes_due_at"}
    assert plan.buffers <= 600
