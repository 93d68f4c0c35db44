"""Everything that a service does, through a proxy that lends each transaction another session (invariant 8)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import event

from tests.consume.world import World
from tests.pgbouncer.conftest import open_behind
from tests.pgbouncer.job import Job, running
from tests.pgbouncer.proxies import DOCUMENTED, PSYCOPG, Behind, proxy, proxy_of_our_own
from tests.services.databases import Database
from tidings.stores import SQLStore


async def whole_job(world: World, behind: Behind, count: int = 20) -> None:
    """Two workers and five publishers at once."""
    job = Job(asynchronous=world.asynchronous)
    first, second = (world.service(job.subscriptions) for _ in range(2))
    async with running(first, second):
        await job.publish_everything(world, first, behind, count)
        await job.is_done(world, count)


async def test_the_whole_job(any_world: World, behind: Behind) -> None:
    await whole_job(any_world, behind)


async def test_two_server_connections_are_enough_for_all_clients(world: World, behind: Behind) -> None:
    sessions: list[int] = []

    async def look() -> None:
        while True:
            ((count,),) = behind.seen("select count(*) from ours")
            sessions.append(count)
            await asyncio.sleep(0.02)

    clients: set[int] = set()
    event.listen(world.store.connections.sync_engine, "connect", lambda connection, _: clients.add(id(connection)))
    watcher = asyncio.create_task(look())
    await whole_job(world, behind)
    watcher.cancel()
    assert len(clients) > 4
    assert max(sessions) == 2


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_every_transaction_may_find_a_session_that_was_just_reset(
    past_the_proxy: Database, postgresql_url: str, pgbouncer_program: Path, driver: str
) -> None:
    settings = {"server_reset_query": "DISCARD ALL", "server_reset_query_always": "1"}
    with proxy_of_our_own(pgbouncer_program, postgresql_url, settings) as url:
        behind = proxy(url, past_the_proxy)
        options = DOCUMENTED if driver == "asyncpg" else PSYCOPG
        async with open_behind(behind, options, asynchronous=driver == "asyncpg") as world:
            await whole_job(world, behind, count=10)


async def test_tables_are_made_once_by_two_deploys_at_a_time(behind: Behind) -> None:
    async with open_behind(behind, DOCUMENTED) as world:
        stores = [SQLStore(world.engine, prefix="again_") for _ in range(2)]
        assert sorted(await asyncio.gather(*(store.upgrade() for store in stores))) == [(0, 1), (1, 1)]
        assert await stores[0].check() == []
