"""Numbers of workers: the inbox names who handled an event, at no cost, and never somebody else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, text

from tidings.ids import event_key, uuid7
from tidings.stores import SQLStore
from tidings.stores.base import Lease
from tidings.stores.sql.numbers import HIGHEST
from tidings.stores.sql.registry import Wanted
from tidings.stores.sql.remembered import Remembered


async def draw(store: SQLStore, pid: int, worker: str | None = None) -> int | None:
    return await store.transact(store.numbers.draw, worker or str(uuid7()), "shop", "host", pid)


async def execute(store: SQLStore, statement: str) -> list[tuple[object, ...]]:
    def work(connection: Connection) -> list[tuple[object, ...]]:
        ran = connection.execute(text(statement))
        return [tuple(row) for row in ran] if ran.returns_rows else []

    return await store.transact(work)


async def purger(store: SQLStore) -> Lease:
    await store.transact(store.registry.add_task, "task:purger")
    lease = await store.call(store.leases.acquire, "task:purger", "me", 60.0)
    assert lease is not None
    return lease


async def test_numbers_go_round_and_leave_out_those_that_are_taken(store: SQLStore) -> None:
    assert [await draw(store, pid) for pid in (1, 2, 3)] == [1, 2, 3]
    await execute(store, "delete from tidings_worker_numbers where number = 1")
    assert await draw(store, 4) == 4, "the lowest free one would be one that the inbox may still have"
    await execute(store, f"update tidings_worker_numbers set number = {HIGHEST} where number = 4")
    assert [await draw(store, pid) for pid in (5, 6)] == [1, 4], "2 and 3 are taken"


async def test_when_all_are_taken_a_worker_has_none(store: SQLStore) -> None:
    def take(connection: Connection) -> None:
        rows = [{"n": n, "id": str(uuid7()), "at": _stamp(store)} for n in range(1, HIGHEST + 1)]
        value = "cast(:id as uuid)" if store.dialect.name == "postgresql" else ":id"
        connection.execute(
            text(
                f"insert into tidings_worker_numbers (number, worker, service, host, pid, started_at) values (:n, {value}, 'shop', 'h', 1, :at)"
            ),
            rows,
        )

    await store.transact(take)
    assert await draw(store, 1) is None
    await execute(store, "delete from tidings_worker_numbers where number = 7")
    assert await draw(store, 1) == 7


async def test_two_that_start_together_get_two(store: SQLStore) -> None:
    assert sorted(filter(None, await asyncio.gather(*(draw(store, pid) for pid in range(8))))) == list(range(1, 9))


async def test_a_number_is_kept_for_as_long_as_the_inbox_may_name_it(store: SQLStore) -> None:
    lease = await purger(store)
    alive, gone = str(uuid7()), str(uuid7())
    for pid, worker in enumerate((alive, gone)):
        await store.call(store.upkeep.beat, worker, "shop", None, "consume", "host", pid, "1")
        await draw(store, pid, worker)
    await store.call(store.upkeep.leave, gone)
    assert await store.transact(store.numbers.purge, lease, 3600.0, 10) == 0
    assert await execute(store, "select number from tidings_worker_numbers where gone_at is not null") == [(2,)]
    assert await store.transact(store.numbers.purge, lease._replace(token=lease.token - 1), -1.0, 10) == 0, "without the lease, nothing"
    assert await store.transact(store.numbers.purge, lease, -1.0, 10) == 1
    assert await execute(store, "select number from tidings_worker_numbers") == [(1,)]


async def test_one_that_was_forgotten_and_has_come_back_keeps_its_number(store: SQLStore) -> None:
    lease = await purger(store)
    worker = str(uuid7())
    await draw(store, 1, worker)
    assert await store.transact(store.numbers.purge, lease, 3600.0, 10) == 0
    await store.call(store.upkeep.beat, worker, "shop", None, "consume", "host", 1, "1")
    assert await store.transact(store.numbers.purge, lease, -1.0, 10) == 0


async def test_the_inbox_says_who_handled_an_event_and_nobody_when_the_number_has_gone_round(store: SQLStore) -> None:
    (row,) = await store.transact(store.registry.register, "shop", {"shop": "earliest"}, [Wanted("shop", "ship", ("a",), True)])
    worker, operator = str(uuid7()), str(uuid7())
    await store.transact(store.inbox.record, row.id, [event_key("shop", operator)], 2)
    number = await draw(store, 7)
    assert number is not None
    store.inbox.workers[row.id] = number
    await store.transact(store.inbox.open, row.id, [event_key("shop", worker)], ["0" * 32])
    remembered = Remembered(store.names, store.dialect)
    assert [(item.subscription, item.word, item.worker) for item in await store.call(remembered.of, "shop", worker)] == [
        ("shop/ship", "handled", "host:7")
    ]
    assert [(item.word, item.worker) for item in await store.call(remembered.of, "shop", operator)] == [("discarded", None)]
    later = "now() + interval '1 hour'" if store.dialect.name == "postgresql" else "'2099-01-01T00:00:00.000Z'"
    await execute(store, f"update tidings_worker_numbers set started_at = {later}")
    assert [item.worker for item in await store.call(remembered.of, "shop", worker)] == [None]


@pytest.mark.postgresql
async def test_a_row_of_the_inbox_is_no_longer_for_it(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    await store.transact(store.inbox.record, 1, [event_key("shop", "a")], 0)
    store.inbox.workers[1] = HIGHEST
    await store.transact(store.inbox.record, 1, [event_key("shop", "b")], 0)
    rows = await execute(
        store, "select pg_column_size(i), pg_column_size(row(event_key, subscription_id, outcome, handled_at)) from tidings_inbox i"
    )
    assert rows == [(56, 56), (56, 56)]


def _stamp(store: SQLStore) -> object:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return at if store.dialect.name == "postgresql" else "2026-01-01T00:00:00.000Z"
