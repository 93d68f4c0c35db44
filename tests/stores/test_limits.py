"""The rows of limits: whoever holds one and is paused must not keep everybody else from their permits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database
from tests.stores.opening import opened
from tidings.stores import SQLStore
from tidings.stores.base import Claim, Verdict
from tidings.stores.sql.errors import kind_of

pytestmark = pytest.mark.postgresql


async def test_who_is_paused_with_a_limit_in_its_hands_loses_it(postgresql: Database) -> None:
    async with opened(postgresql) as store:
        await store.upgrade()
        await store.transact(store.limits.ask, "calls", "one", 10.0, decide)
        async with store.connections.transaction() as paused:
            await paused.run(store.limits.ask, "calls", "one", 10.0, decide)
            # It says nothing more. The others get the row as soon as the server has ended it.
            async with asyncio.timeout(20):
                await store.transact(store.limits.ask, "calls", "two", 10.0, decide)
            with pytest.raises(DBAPIError) as caught:
                await paused.commit()
            assert kind_of(caught.value) == "outage"
        assert await owners(store) == {"one", "two"}


async def test_only_that_transaction_is_in_a_hurry(postgresql: Database) -> None:
    def ask(connection: Connection) -> None:
        store.limits.ask(connection, "calls", "one", 10.0, decide)

    async with opened(postgresql) as store:
        await store.upgrade()
        async with store.connections.transaction() as held:
            before = await held.run(timeout)
            await held.run(ask)
            assert await held.run(timeout) == "3s"
            await held.commit()
            assert await held.run(timeout) == before != "3s"


def decide(ahead: float | None, others: Sequence[Claim]) -> Verdict:
    return Verdict(Claim(1, 1), None)


def timeout(connection: Connection) -> str:
    return str(connection.exec_driver_sql("show idle_in_transaction_session_timeout").scalar_one())


async def owners(store: SQLStore) -> set[str]:
    return await store.call(lambda c: set(c.exec_driver_sql(f"select owner from {store.names.permits}").scalars()))
