"""A connection that several tasks share: one statement at a time, opened when needed, given back for good."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection

from tests.services.databases import Database
from tests.stores.opening import opened
from tidings.stores.sql.connections import Line


def one(connection: Connection) -> int:
    return int(connection.exec_driver_sql("select 1").scalar_one())


async def test_it_is_opened_once_and_given_back(database: Database) -> None:
    async with opened(database) as store:
        line = Line(store.connections)
        pool = store.connections.sync_engine.pool
        assert await asyncio.gather(*(line.run(one) for _ in range(5))) == [1] * 5
        assert pool.checkedout() == 1  # type: ignore[attr-defined]
        await line.close()
        assert pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_line_that_was_closed_opens_no_connection_any_more(database: Database) -> None:
    """Nobody would give it back: two generators would end, one inside the other, whenever the garbage collector finds them."""
    async with opened(database) as store:
        line = Line(store.connections)
        await line.run(one)
        await line.close()
        with pytest.raises(RuntimeError, match="closed"):
            await line.run(one)
        assert store.connections.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_after_an_error_it_is_opened_anew(database: Database) -> None:
    def fail(connection: Connection) -> None:
        raise ValueError("a mistake")

    async with opened(database) as store:
        line = Line(store.connections)
        with pytest.raises(ValueError, match="a mistake"):
            await line.run(fail)
        assert await line.run(one) == 1
        await line.close()
