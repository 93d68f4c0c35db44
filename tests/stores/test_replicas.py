"""A replica's snapshots hide the transactions that still run on the primary: whoever reads the log there, loses events. It is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database
from tests.stores.clusters import Cluster, Programs
from tests.stores.events import insert, outgoing, publish
from tests.stores.opening import opened
from tests.stores.waiting import wait_until
from tidings.errors import ReplicaError
from tidings.stores import SQLStore
from tidings.stores.base import Mark

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def standby(programs: Programs, elsewhere: Cluster) -> Iterator[Cluster]:
    with programs.standby(elsewhere) as standby:
        yield standby


@pytest.fixture
async def primary_store(elsewhere: Cluster) -> AsyncIterator[SQLStore]:
    async with opened(Database.postgresql(elsewhere.url), schema="replicated") as store:
        await store.upgrade()
        yield store
    with psycopg.connect(elsewhere.url) as connection:
        connection.execute("drop schema replicated cascade")


@pytest.fixture
async def standby_store(standby: Cluster, primary_store: SQLStore) -> AsyncIterator[SQLStore]:
    async with opened(Database.postgresql(standby.url), schema="replicated") as store:
        yield store


def caught_up(elsewhere: Cluster, standby: Cluster) -> None:
    with psycopg.connect(elsewhere.url) as primary, psycopg.connect(standby.url, autocommit=True) as replica:
        written = primary.execute("select pg_current_wal_lsn()").fetchone()
        wait_until(lambda: replica.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", written).fetchone() == (True,))


async def test_reading_the_log_on_a_replica_raises_and_uses_nothing(
    primary_store: SQLStore, standby_store: SQLStore, elsewhere: Cluster, standby: Cluster
) -> None:
    await publish(primary_store, *[outgoing() for _ in range(5)])
    caught_up(elsewhere, standby)
    start = Mark("1:1:", None, 0)
    for mark in (start, Mark("1:1:", "100000:100000:", 2)):
        with pytest.raises(ReplicaError, match="primary"):
            await standby_store.call(standby_store.log.read, mark, 10)
    batch = await primary_store.call(primary_store.log.read, start, 10)
    assert len(batch.rows) == 5


async def test_a_store_on_a_replica_is_neither_opened_nor_upgraded(
    primary_store: SQLStore, standby_store: SQLStore, elsewhere: Cluster, standby: Cluster
) -> None:
    caught_up(elsewhere, standby)
    for use in (standby_store.open, standby_store.upgrade):
        with pytest.raises(ReplicaError, match="primary"):
            await use()
    (problem,) = await standby_store.check()
    assert "in recovery" in problem


async def test_a_lease_cannot_be_had_on_a_replica(
    primary_store: SQLStore, standby_store: SQLStore, elsewhere: Cluster, standby: Cluster
) -> None:
    await primary_store.transact(primary_store.registry.register, "shop", {"shop": "earliest"}, [])
    caught_up(elsewhere, standby)
    with pytest.raises(DBAPIError, match="read-only"):
        await standby_store.call(standby_store.leases.acquire, "shop/shop@log", "me", 10.0)


async def test_what_would_happen_otherwise(primary_store: SQLStore, elsewhere: Cluster, standby: Cluster) -> None:
    """The replica's snapshot takes a transaction that still runs for finished, and its rows are not there yet."""
    async with primary_store.connections.transaction() as writing:
        await writing.run(insert, primary_store, [outgoing()])
        xid = await writing.run(lambda c: c.exec_driver_sql("select pg_current_xact_id()::text").scalar_one())
        await publish(primary_store, outgoing())  # later, and committed earlier
        caught_up(elsewhere, standby)
        seen = "select pg_visible_in_snapshot(%s::text::xid8, pg_current_snapshot()), (select count(*) from replicated.tidings_outbox)"
        with psycopg.connect(elsewhere.url) as primary, psycopg.connect(standby.url) as replica:
            assert primary.execute(seen, (xid,)).fetchone() == (False, 1)
            assert replica.execute(seen, (xid,)).fetchone() == (True, 1)
