"""Invariant 8: nothing of ours needs the session that it ran in before, and nothing of ours is left in one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import psycopg

from tests.consume.shop import OrderPlaced
from tests.consume.world import World
from tests.pgbouncer.job import Job, running
from tests.pgbouncer.proxies import Behind
from tidings.stores.base import Lease
from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql

#: Settings that PgBouncer itself carries from client to client.
CARRIED = {"application_name", "client_encoding", "DateStyle", "standard_conforming_strings", "TimeZone", "IntervalStyle"}

#: What else a session can keep for later.
LEFT = (
    "pg_prepared_statements",
    "pg_listening_channels()",
    "pg_cursors",
    "pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    "pg_class where relpersistence = 't'",
)


@contextmanager
def both_sessions(behind: Behind) -> Iterator[list[psycopg.Connection]]:
    """A transaction in each of the proxy's two sessions."""
    with ExitStack() as stack:
        clients = [stack.enter_context(psycopg.connect(behind.proxied.dsn, prepare_threshold=None)) for _ in range(2)]
        assert len({client.execute("select pg_backend_pid()").fetchone() for client in clients}) == 2
        yield clients


@asynccontextmanager
async def held_lease(world: World, name: str) -> AsyncIterator[Lease]:
    await world.store.transact(world.store.registry.add_task, name)
    lease = await world.store.call(world.store.leases.acquire, name, "a worker", 60.0)
    assert lease is not None
    yield lease
    await world.store.call(world.store.leases.release, lease)


async def test_a_connection_that_is_kept_moves_from_session_to_session(any_world: World, behind: Behind) -> None:
    store = any_world.store
    with both_sessions(behind):
        pass
    async with held_lease(any_world, "task:kept") as lease, store.connections.autocommit() as held:
        # What a reader and a retrier do all the time; the proxy lends its sessions in turn.
        for _ in range(3):
            assert await held.run(store.leases.renew, lease, 60.0)
        for _ in range(3):
            assert await held.run(store.lanes.unpaused, [1, 2, 3]) == []
        for _ in range(3):
            assert await held.run(store.inbox.standing, 1, ["0" * 32], ["0" * 32]) == {}
        sessions = [await held.run(run, Command(Sql("select pg_backend_pid()"), ())) for _ in range(3)]
        assert sessions[0] == sessions[2] != sessions[1]


async def test_nothing_is_left_in_a_session(world: World, behind: Behind) -> None:
    job = Job(asynchronous=True)
    first, second = (world.service(job.subscriptions) for _ in range(2))
    async with running(first, second):
        await job.publish_everything(world, first, behind, 10)
        await job.is_done(world, 10)
    with both_sessions(behind) as sessions:
        for session in sessions:
            changed = session.execute("select name from pg_settings where source = 'session' and setting is distinct from reset_val")
            assert {name for (name,) in changed} <= CARRIED
            for what in LEFT:
                assert session.execute(f"select count(*) from {what}".encode()).fetchone() == (0,), what


async def test_the_only_lock_that_outlives_a_statement_ends_with_its_transaction(world: World, behind: Behind) -> None:
    service = world.service(Job(asynchronous=True).subscriptions)
    locks = "select count(*) from pg_locks where locktype = 'advisory' and pid in (select pid from ours)"
    async with world.engine.connect() as connection, connection.begin():  # type: ignore[union-attr]
        async with service.publishing(connection) as publish:
            publish(OrderPlaced("a"))
        assert behind.seen(locks) == [(1,)]
    assert behind.seen(locks) == [(0,)]
