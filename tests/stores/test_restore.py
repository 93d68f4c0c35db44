"""A database that was restored or moved goes on where its readers were: what they had not read is delivered, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.services.databases import Database
from tests.stores.events import ids, insert, outgoing, publish, read_on
from tests.stores.opening import opened
from tests.stores.processes import Processes
from tests.stores.restoring import acquire, execute, history, read_rest, read_some, register, state
from tidings.publish.outgoing import Outgoing
from tidings.stores import SQLStore
from tidings.stores.base import Mark
from tidings.stores.sql import migrate

# What a restored database looks like from inside: rows and checkpoints with transaction numbers of another cluster, which may lie in the
# future here, and may be used again.
MOVED = (
    "update tidings_outbox set tx = (tx::text::bigint + 1000000000)::text::xid8",
    "update tidings_checkpoints set previous = moved(previous), current = moved(current)",
    "update tidings_meta set system_identifier = '1234567890123456789'",
)
MOVE = """
    create function moved(s pg_snapshot) returns pg_snapshot language sql strict as $$
      select ((pg_snapshot_xmin(s)::text::bigint + 1000000000) || ':' || (pg_snapshot_xmax(s)::text::bigint + 1000000000) || ':' ||
        coalesce((select string_agg((x::text::bigint + 1000000000)::text, ',' order by x::text::bigint) from pg_snapshot_xip(s) x), ''))::pg_snapshot
    $$
"""


async def move(store: SQLStore) -> None:
    await execute(store, MOVE, *MOVED)


async def test_late_and_new_events_are_delivered_and_nothing_else(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    _, unread = await history(store)
    await move(store)
    unnoticed = outgoing()
    await publish(store, unnoticed)
    assert await read_rest_blindly(store) == []  # whoever does not mend sees nothing, and would for years
    assert await store.mend()
    assert sorted(await read_rest(store)) == sorted([*unread, str(unnoticed.id)])
    assert await read_rest(store) == []


async def read_rest_blindly(store: SQLStore) -> list[str]:
    async with store.connections.autocommit() as held:
        mark = await held.run(
            lambda c: Mark(c.exec_driver_sql("select previous::text from tidings_checkpoints").scalar_one(), None, 0),
        )
        rows, _, _ = await held.run(read_on, store, mark)
    return ids(rows)


@pytest.mark.parametrize("finished", [3, 10])
async def test_a_reader_in_the_middle_of_a_large_window_goes_on_there(postgresql_store: SQLStore, finished: int) -> None:
    store = postgresql_store
    await register(store)
    events = [outgoing() for _ in range(12)]
    await publish(store, *events)
    assert await read_some(store, 5, finished) == ids(events)[:finished]
    await move(store)
    assert await store.mend()
    assert await read_rest(store) == ids(events)[finished:]


async def test_mending_twice_changes_nothing(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    _, unread = await history(store)
    await move(store)
    assert await store.mend()
    once = await state(store)
    assert not await store.mend()
    await store.open()
    assert await state(store) == once
    assert sorted(await read_rest(store)) == sorted(unread)


async def test_of_processes_that_mend_at_once_one_does(postgresql: Database, four_processes: Processes) -> None:
    async with opened(postgresql) as store:
        await store.upgrade()
        _, unread = await history(store)
        await move(store)
        before, _ = await state(store)
        assert sorted(await asyncio.to_thread(four_processes.all_at_once, "mend", postgresql.url)) == [False, False, False, True]
        assert (await state(store))[0] == before + 1
        assert sorted(await read_rest(store)) == sorted(unread)


async def test_a_transaction_counter_behind_a_checkpoint_is_noticed_too(postgresql_store: SQLStore) -> None:
    """The identifier of the cluster is the same after some ways of restoring."""
    store = postgresql_store
    _, unread = await history(store)
    identifier = (await state(store))[1]
    await move(store)
    await execute(store, f"update tidings_meta set system_identifier = '{identifier}'")
    assert await store.mend()
    assert not await store.mend()
    assert sorted(await read_rest(store)) == sorted(unread)


async def test_what_others_commit_while_it_is_mended_hides_nothing(postgresql_store: SQLStore) -> None:
    """A snapshot leaves out the transaction that takes it, and counts it among those that are over when a later one is."""
    store = postgresql_store
    _, unread = await history(store)
    await move(store)
    async with store.connections.transaction() as mending:
        await mending.run(lambda connection: connection.exec_driver_sql("select pg_current_xact_id()").scalar_one())
        await execute(store, "select pg_current_xact_id()")
        assert await mending.run(migrate.restored, store.names)
        await mending.commit()
    assert sorted(await read_rest(store)) == sorted(unread)
    assert await read_rest(store) == []


async def test_every_reader_gets_what_it_has_not_read(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    ahead, behind = await register(store, "ahead"), await register(store, "behind")
    events = [outgoing() for _ in range(6)]
    await publish(store, *events)
    await read_some(store, 100, 5, ahead)
    await read_some(store, 100, 2, behind)
    await move(store)
    assert await store.mend()
    assert sorted(await read_rest(store, behind)) == sorted(ids(events)[2:])
    # A row is new for everyone or for nobody: what the other had not read comes once more, and the inbox knows it.
    assert sorted(await read_rest(store, ahead)) == sorted(ids(events)[2:])


async def test_a_group_that_started_now_is_not_given_what_came_before(postgresql_store: SQLStore) -> None:
    """It has read nothing, and everything lies above that."""
    store = postgresql_store
    await publish(store, *[outgoing() for _ in range(3)])
    late, after = outgoing(), outgoing()
    async with store.connections.transaction() as running:
        await running.run(insert, store, [late])
        await publish(store, outgoing())
        await store.transact(store.registry.register, "shop", {"shop": "now"}, [])
        await running.commit()
    await publish(store, after)
    await move(store)
    assert await store.mend()
    assert await read_rest(store) == ids([late, after])


async def test_who_has_retired_from_the_log_makes_nothing_new(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    ahead, retired = await register(store, "ahead"), await register(store, "retired")
    events = [outgoing() for _ in range(4)]
    await publish(store, *events)
    await read_some(store, 100, 3, ahead)
    await execute(store, f"update tidings_checkpoints set state = 'retired' where reader = '{retired}'")
    await move(store)
    assert await store.mend()
    assert await read_rest(store, ahead) == ids(events)[3:]


async def test_whoever_still_reads_with_old_marks_is_fenced(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    _, unread = await history(store)
    lease = await acquire(store, owner="another")
    await move(store)
    assert await store.mend()
    assert not await store.call(store.leases.holds, lease)
    assert not await store.call(store.leases.move, lease, Mark("1:1:", None, 0), 0, same_window=False)
    assert sorted(await read_rest(store)) == sorted(unread)


async def positions(store: SQLStore, events: Sequence[Outgoing]) -> list[int]:
    rows = await store.call(lambda c: c.exec_driver_sql("select id::text, position from tidings_outbox").all())
    found = {row[0]: row[1] for row in rows}
    return [found[str(event.id)] for event in events]


async def test_positions_go_on_where_rows_came_without_their_sequences(postgresql_store: SQLStore) -> None:
    """Logical replication copies rows and not the state of sequences."""
    store = postgresql_store
    await history(store)
    registered = await store.transact(store.registry.register, "other", {"other": "now"}, [])
    assert registered == []
    await execute(
        store,
        *(
            f"alter sequence tidings_{sequence} restart"
            for sequence in ("outbox_position_seq", "deliveries_number_seq", "subscriptions_id_seq", "token")
        ),
        "insert into tidings_deliveries overriding system value select 40, gen_random_uuid(), 1, gen_random_uuid(), '', '', '', 1, '', '', null, null,"
        " '', '', '', 0, '[]'",
        "insert into tidings_subscriptions overriding system value values (50, 's', 'g', 'n', '[]')",
        "insert into tidings_lanes (lane, subscription_id, lease_token) values (gen_random_uuid(), 1, 60)",
    )
    await move(store)
    assert await store.mend()
    event = outgoing()
    await publish(store, event)
    assert await positions(store, [event]) == [12]
    next_ones = "select nextval('tidings_deliveries_number_seq'), nextval('tidings_subscriptions_id_seq'), nextval('tidings_token')"
    assert tuple(await store.call(lambda c: c.exec_driver_sql(next_ones).one())) == (41, 51, 61)


async def test_positions_that_were_purged_are_not_given_out_again(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    await publish(store, *[outgoing() for _ in range(30)])
    await execute(store, "delete from tidings_outbox")
    await move(store)
    assert await store.mend()
    event = outgoing()
    await publish(store, event)
    assert await positions(store, [event]) == [31]


async def test_sqlite_has_nothing_to_mend(sqlite_store: SQLStore) -> None:
    assert not await sqlite_store.mend()
