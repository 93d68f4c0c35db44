"""A dump that is restored, into another cluster or the same one, goes on where its readers were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.services.databases import Database, PostgreSQLDatabases
from tests.stores.clusters import Cluster, Programs
from tests.stores.events import ids, outgoing, publish
from tests.stores.opening import opened
from tests.stores.restoring import history, read_rest, state


def dumped(programs: Programs, database: Database) -> str:
    with psycopg.connect(database.dsn) as connection:
        major = connection.info.server_version // 10000
    if programs.major < major:
        pytest.skip(f"pg_dump is of version {programs.major} and the server of {major}")
    return programs.run("pg_dump", "--no-owner", "--dbname", database.dsn)


def restore(programs: Programs, dump: str, into: Database) -> None:
    programs.run("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", into.dsn, stdin=dump)


@asynccontextmanager
async def another_cluster(elsewhere: Cluster) -> AsyncIterator[Database]:
    """An empty database in the other cluster."""
    with psycopg.connect(elsewhere.url, autocommit=True) as connection:
        connection.execute("create database restored template template0")
        try:
            yield Database.postgresql(elsewhere.url.rpartition("/")[0] + "/restored")
        finally:
            connection.execute("drop database restored with (force)")


async def test_a_dump_restored_into_another_cluster_is_mended(postgresql: Database, programs: Programs, elsewhere: Cluster) -> None:
    async with opened(postgresql) as store:
        await store.upgrade()
        _, unread = await history(store)
        before = await state(store)
    dump = await asyncio.to_thread(dumped, programs, postgresql)
    async with another_cluster(elsewhere) as database:
        await asyncio.to_thread(restore, programs, dump, database)
        async with opened(database) as store:
            # A publisher is not asked to notice anything.
            unnoticed = outgoing()
            await publish(store, unnoticed)
            assert any("tidings db restored" in problem for problem in await store.check())
            await store.open()
            assert await store.check() == []
            generation, cluster = await state(store)
            assert generation == before[0] + 1
            assert cluster != before[1]
            assert sorted(await read_rest(store)) == sorted([*unread, str(unnoticed.id)])
            assert not await store.mend()
            new = [outgoing(), outgoing()]
            await publish(store, *new)
            assert await read_rest(store) == ids(new)
            assert (await state(store))[0] == generation


async def test_a_dump_restored_into_another_database_of_its_cluster_needs_no_mending(
    postgresql: Database, postgresql_databases: PostgreSQLDatabases, programs: Programs
) -> None:
    """Transactions go on counting there, so nothing has to be mended."""
    async with opened(postgresql) as store:
        await store.upgrade()
        _, unread = await history(store)
        before = await state(store)
    dump = await asyncio.to_thread(dumped, programs, postgresql)
    with postgresql_databases.fresh() as database:
        await asyncio.to_thread(restore, programs, dump, database)
        async with opened(database) as store:
            new = outgoing()
            await publish(store, new)
            await store.open()
            assert await state(store) == before
            assert await read_rest(store) == [*unread, str(new.id)]
