"""Delayed events enter the log when they are due: once, in the order of their times, and in order with everything else of their key."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy import event as hooks
from sqlalchemy.exc import DBAPIError

from tests.services.databases import Database
from tests.stores.events import everything, ids, insert, outgoing, publish
from tests.stores.opening import opened
from tests.stores.waiting import become, someone_waits
from tidings.stores import SQLStore
from tidings.stores.base import Lease
from tidings.stores.sql.driver import run

PAST = datetime(2020, 1, 1, tzinfo=UTC)


async def mover(store: SQLStore, owner: str = "me") -> Lease:
    await store.call(store.registry.add_task, "scheduled")
    lease = await store.call(store.leases.acquire, "scheduled", owner, 30.0)
    assert lease is not None
    return lease


async def move(store: SQLStore, lease: Lease, limit: int = 100) -> int:
    return await store.transact(store.upkeep.move_due, lease, limit)


async def waiting(store: SQLStore) -> int:
    return int(await store.call(lambda c: c.exec_driver_sql("select count(*) from tidings_scheduled").scalar_one()))


async def test_what_is_due_moves_and_what_is_not_stays(store: SQLStore) -> None:
    due, later = outgoing(due=PAST), outgoing(due=timedelta(hours=1))
    await publish(store, due, later)
    assert await everything(store) == []
    assert await move(store, await mover(store)) == 1
    assert ids(await everything(store)) == [str(due.id)]
    assert await waiting(store) == 1


async def test_a_delay_counts_from_the_publishers_insert_by_the_databases_clock(store: SQLStore) -> None:
    await publish(store, outgoing(due=timedelta(seconds=0.2)))
    lease = await mover(store)
    left = await store.call(store.upkeep.due_in)
    assert left is not None
    assert left <= 0.2
    await become(lambda: move(store, lease))
    assert len(await everything(store)) == 1
    assert await store.call(store.upkeep.due_in) is None


async def test_how_long_until_the_next_is_due_is_known(store: SQLStore) -> None:
    assert await store.call(store.upkeep.due_in) is None
    await publish(store, outgoing(due=timedelta(seconds=600)), outgoing(due=timedelta(seconds=60)))
    left = await store.call(store.upkeep.due_in)
    assert left is not None
    assert 50 < left <= 60


async def test_they_enter_the_log_in_the_order_of_their_times_in_batches(store: SQLStore) -> None:
    events = [outgoing("k", due=PAST + timedelta(seconds=second)) for second in (5, 1, 4, 2, 3)]
    await publish(store, *events)
    lease = await mover(store)
    assert [await move(store, lease, 2) for _ in range(4)] == [2, 2, 1, 0]
    by_time = sorted(events, key=lambda event: event.due)  # type: ignore[arg-type,return-value]
    assert ids(await everything(store)) == ids(by_time)


async def test_what_moves_is_what_was_published_and_says_when_it_was_due(store: SQLStore) -> None:
    when = datetime(2021, 5, 4, 3, 2, 1, 987000, tzinfo=UTC)
    event = outgoing(
        "kläuse|1", due=when, headers='{"tenantid": "t-1", "note": "ein \\u00fcberlanger \\"Text\\""}', total=12.5, text="ä\u2028"
    )
    await publish(store, event)
    await move(store, await mover(store))
    ((_, event_id, source, name, version, topic, key, headers, data, time),) = await everything(store)
    assert (str(event_id), source, name, version, topic, key) == (str(event.id), *event[1:6])
    assert json.loads(data) == {"total": 12.5, "text": "ä\u2028"}
    read = json.loads(headers)
    scheduled_for = read.pop("scheduledfor")
    assert read == {"tenantid": "t-1", "note": 'ein überlanger "Text"'}
    assert datetime.fromisoformat(scheduled_for) == when
    # Its time, and with it the retention, counts from the move.
    moved = datetime.fromisoformat(time) if isinstance(time, str) else time
    assert abs(datetime.now(UTC) - moved) < timedelta(minutes=5)


async def test_only_who_holds_the_lease_moves(store: SQLStore) -> None:
    await publish(store, outgoing(due=PAST))
    lost = await mover(store)
    lease = await mover(store)
    assert await move(store, lost) == 0
    assert await waiting(store) == 1
    assert await move(store, lease) == 1


async def test_a_move_that_is_rolled_back_has_not_happened(store: SQLStore) -> None:
    event = outgoing(due=PAST)
    await publish(store, event)
    lease = await mover(store)
    async with store.connections.transaction() as held:
        assert await held.run(store.upkeep.move_due, lease, 10) == 1
    assert (await waiting(store), await everything(store)) == (1, [])
    assert await move(store, lease) == 1
    assert ids(await everything(store)) == [str(event.id)]


async def test_what_was_cancelled_does_not_move(store: SQLStore) -> None:
    kept, cancelled = outgoing(due=PAST), outgoing(due=PAST)
    await publish(store, kept, cancelled)
    cancel = store.publishing.cancel_scheduled([cancelled.id])
    assert len(await store.transact(run, cancel)) == 1
    assert await store.transact(run, cancel) == []
    assert await move(store, await mover(store)) == 1
    assert ids(await everything(store)) == [str(kept.id)]


async def test_what_another_worker_is_moving_is_left_to_it(postgresql_store: SQLStore) -> None:
    """A mover that lost its lease in the middle of its move: nothing is moved twice, and nobody waits."""
    store = postgresql_store
    await publish(store, *[outgoing(due=PAST) for _ in range(4)])
    lease = await mover(store)
    async with store.connections.transaction() as slow:
        assert await slow.run(store.upkeep.move_due, lease, 2) == 2
        lease = await mover(store, "me")
        assert await move(store, lease) == 2
        await slow.commit()
    assert len(ids(await everything(store))) == 4
    assert await waiting(store) == 0


async def test_a_keyed_event_waits_for_whoever_publishes_the_key(postgresql: Database) -> None:
    """Invariant 5: one order of a key for everyone, with the lock of its slot; other keys do not wait."""
    async with opened(postgresql) as store:
        await store.upgrade()
        delayed, free = outgoing("a", due=PAST), outgoing("b", due=PAST)
        first = outgoing("a")
        await publish(store, delayed)
        lease = await mover(store)
        async with store.connections.transaction() as publisher:
            await publisher.run(insert, store, [first])
            moving = asyncio.create_task(move(store, lease))
            await become(lambda: someone_waits(store))
            await publish(store, outgoing("b"))
            assert not moving.done()
            await publisher.commit()
        assert await moving == 1
        rows = await everything(store)
        assert [str(row[1]) for row in rows if row[6] == "a"] == ids([first, delayed])
        # Without the promise nobody waits.
        await publish(store, free._replace(lock=False))
        async with store.connections.transaction() as publisher:
            await publisher.run(insert, store, [outgoing("b")])
            assert await move(store, lease) == 1


async def test_what_falls_due_between_two_statements_is_not_lost(sqlite_store: SQLStore) -> None:
    """The move on SQLite is an INSERT and a DELETE. An event that falls due between them must be in both or in neither."""
    store = sqlite_store
    due, falling_due = outgoing(due=PAST), outgoing(due=timedelta(hours=1))
    await publish(store, due, falling_due)
    lease = await mover(store)
    make_due = f"update tidings_scheduled set due_at = '2020-01-01T00:00:00.000Z' where id = '{falling_due.id}'"

    def after_insert(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        if "insert into" in statement and "tidings_scheduled" in statement:
            connection.exec_driver_sql(make_due)

    hooks.listen(store.connections.sync_engine, "after_cursor_execute", after_insert)
    try:
        assert await move(store, lease) == 1
    finally:
        hooks.remove(store.connections.sync_engine, "after_cursor_execute", after_insert)
    assert ids(await everything(store)) == [str(due.id)]
    assert await waiting(store) == 1
    assert await move(store, lease) == 1
    assert ids(await everything(store)) == ids([due, falling_due])


async def test_an_event_is_in_the_schedule_or_in_the_log_and_never_in_both(store: SQLStore) -> None:
    """Many movers, of which one at a time has the lease, and publishers who go on."""
    events = [outgoing(f"k{n % 5}", due=timedelta(seconds=n % 3 / 100)) for n in range(60)]

    async def publisher(part: int) -> None:
        for event in events[part::3]:
            await publish(store, event)

    async def worker(name: str) -> None:
        while len(await everything(store)) < len(events):
            lease = await mover(store, "shared")  # from one another, as if every lease had run out
            await move(store, lease, 7)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for part in range(3):
            tasks.create_task(publisher(part))
        for name in ("one", "two"):
            tasks.create_task(worker(name))
    assert sorted(ids(await everything(store))) == sorted(ids(events))
    assert await waiting(store) == 0


async def test_an_id_cannot_be_scheduled_twice(store: SQLStore) -> None:
    event = outgoing(due=PAST)
    await publish(store, event)
    with pytest.raises(DBAPIError):
        await publish(store, event)
