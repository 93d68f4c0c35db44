"""A row of the log goes when it is old and everyone has read it; never by its position or its time alone (invariant 2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from tests.stores.events import everything, ids, insert, outgoing, publish, read_on
from tidings.ids import event_key, uuid7
from tidings.stores import SQLStore
from tidings.stores.base import Lease
from tidings.stores.sql.commands import AuditRow

HOUR = 3600.0


async def register(store: SQLStore, *groups: str) -> None:
    await store.transact(store.registry.register, "shop", dict.fromkeys(groups, "earliest"), [])


async def purger(store: SQLStore) -> Lease:
    await store.call(store.registry.add_task, "purge")
    lease = await store.call(store.leases.acquire, "purge", "me", 30.0)
    assert lease is not None
    return lease


async def purge(store: SQLStore, lease: Lease, retention: float = 0.0, limit: int = 1000) -> int:
    return await store.transact(store.upkeep.purge_log, lease, retention, limit)


async def read(store: SQLStore, group: str, count: int | None = None) -> None:
    """Let a group read that many events, by default all, and write its checkpoint."""
    lease = await store.call(store.leases.acquire, f"shop/{group}@log", "me", 30.0)
    assert lease is not None
    rows, marks, end = await store.call(read_on, store, lease.mark)
    mark = end if count is None or count == len(rows) else marks[count - 1]
    assert await store.call(store.leases.move, lease, mark, max(row[0] for row in rows), same_window=False)


async def scalar(store: SQLStore, query: str) -> Any:
    def ask(connection: Connection) -> Any:
        return connection.exec_driver_sql(query).scalar_one()

    return await store.call(ask)


async def execute(store: SQLStore, statement: str) -> None:
    await store.call(lambda connection: connection.exec_driver_sql(statement).close())


async def age(store: SQLStore, position: int, hours: int) -> None:
    """Make the rows up to a position that much older."""
    older = (
        f"time - interval '{hours} hours'"
        if store.dialect.name == "postgresql"
        else f"strftime('%Y-%m-%dT%H:%M:%fZ', time, '-{hours} hours')"
    )
    await execute(store, f"update tidings_outbox set time = {older} where position <= {position}")


async def test_rows_younger_than_the_retention_stay(store: SQLStore) -> None:
    await register(store, "shop")
    events = [outgoing() for _ in range(5)]
    await publish(store, *events)
    await read(store, "shop")
    await age(store, 3, hours=2)
    lease = await purger(store)
    assert await purge(store, lease, 3 * HOUR) == 0
    assert await purge(store, lease, HOUR) == 3
    assert ids(await everything(store)) == ids(events)[3:]
    assert await purge(store, lease, HOUR) == 0


async def test_what_the_slowest_group_has_not_read_stays(store: SQLStore) -> None:
    await register(store, "fast", "slow")
    events = [outgoing() for _ in range(6)]
    await publish(store, *events)
    await read(store, "fast")
    lease = await purger(store)
    assert await purge(store, lease) == 0
    # In the middle of a window nothing of it goes on PostgreSQL, where only whole windows are known to be read.
    await read(store, "slow", 4)
    gone = 0 if store.dialect.name == "postgresql" else 4
    assert await purge(store, lease) == gone
    assert ids(await everything(store)) == ids(events)[gone:]
    await read(store, "slow")
    assert await purge(store, lease) == 6 - gone
    assert await everything(store) == []


async def test_a_group_that_has_read_nothing_holds_everything(store: SQLStore) -> None:
    await register(store, "shop")
    await publish(store, outgoing())
    assert await purge(store, await purger(store)) == 0


async def test_a_paused_group_holds_its_rows_and_a_retired_one_does_not(store: SQLStore) -> None:
    await register(store, "fast", "other")
    await publish(store, *[outgoing() for _ in range(3)])
    await read(store, "fast")
    lease = await purger(store)
    await execute(store, "update tidings_checkpoints set state = 'paused' where reader = 'shop/other@log'")
    assert await purge(store, lease) == 0
    await execute(store, "update tidings_checkpoints set state = 'retired' where reader = 'shop/other@log'")
    assert await purge(store, lease) == 3


async def test_without_any_group_the_retention_alone_counts(store: SQLStore) -> None:
    await publish(store, *[outgoing() for _ in range(3)])
    lease = await purger(store)
    assert await purge(store, lease, HOUR) == 0
    assert await purge(store, lease) == 3


async def test_a_late_transactions_rows_are_old_and_still_stay_until_they_are_read(postgresql_store: SQLStore) -> None:
    """Their time is that of the insert, hours before the commit, and their positions lie below everything that was read."""
    store = postgresql_store
    await register(store, "shop")
    late = [outgoing(), outgoing()]
    async with store.connections.transaction() as slow:
        await slow.run(insert, store, late)
        await publish(store, *[outgoing() for _ in range(3)])
        await read(store, "shop")
        await slow.commit()
    lease = await purger(store)
    assert await purge(store, lease) == 3
    assert ids(await everything(store)) == ids(late)
    await read(store, "shop")
    assert await purge(store, lease) == 2


async def test_rows_go_in_batches_and_the_highest_that_went_is_written_down(store: SQLStore) -> None:
    await register(store, "shop")
    await publish(store, *[outgoing() for _ in range(7)])
    await read(store, "shop")
    lease = await purger(store)
    done = [(await purge(store, lease, limit=3), await scalar(store, "select purged_to from tidings_meta")) for _ in range(4)]
    assert done == [(3, 3), (3, 6), (1, 7), (0, 7)]


async def test_only_who_holds_the_lease_purges(store: SQLStore) -> None:
    await register(store, "shop")
    await publish(store, outgoing())
    await read(store, "shop")
    lost = await purger(store)
    lease = await purger(store)
    assert await purge(store, lost) == 0
    assert await scalar(store, "select purged_to from tidings_meta") is None
    assert await purge(store, lease) == 1


async def test_positions_go_on_after_everything_was_purged(store: SQLStore) -> None:
    """A number that is given out twice is skipped by whoever has read it once: on SQLite, AUTOINCREMENT sees to that."""
    await register(store, "shop")
    await publish(store, *[outgoing() for _ in range(5)])
    await read(store, "shop")
    assert await purge(store, await purger(store)) == 5
    event = outgoing()
    await publish(store, event)
    lease = await store.call(store.leases.acquire, "shop/shop@log", "me", 30.0)
    assert lease is not None
    rows, _, _ = await store.call(read_on, store, lease.mark)
    assert [(row[0], str(row[1])) for row in rows] == [(6, str(event.id))]


async def test_a_purge_does_not_disturb_a_reader_in_the_middle_of_a_window(store: SQLStore) -> None:
    await register(store, "shop")
    events = [outgoing() for _ in range(9)]
    await publish(store, *events)
    lease = await store.call(store.leases.acquire, "shop/shop@log", "me", 30.0)
    assert lease is not None
    first = await store.call(store.log.read, lease.mark, 4)
    assert await store.call(store.leases.move, lease, first.end, 4, same_window=False)
    await purge(store, await purger(store))
    rows, _, end = await store.call(read_on, store, first.end, 4)
    assert ids([*first.rows, *rows]) == ids(events)
    assert await store.call(store.leases.move, lease, end, 9, same_window=False)
    await purge(store, await purger(store))
    assert await everything(store) == []


class TestInbox:
    async def test_old_rows_go_in_batches_under_the_lease(self, store: SQLStore) -> None:
        keys = [event_key("shop", str(n)) for n in range(10)]
        await store.transact(store.inbox.record, 1, keys, 0)
        await store.transact(store.inbox.record, 2, keys[:3], 0)
        lost = await purger(store)
        lease = await purger(store)

        async def purge_inbox(lease: Lease, retention: float) -> int:
            return await store.transact(store.upkeep.purge_inbox, lease, retention, 8)

        assert await purge_inbox(lease, HOUR) == 0
        assert await purge_inbox(lost, -HOUR) == 0
        assert await store.call(store.inbox.present, 1, keys) == 10
        assert [await purge_inbox(lease, -HOUR) for _ in range(3)] == [8, 5, 0]
        assert await store.call(store.inbox.present, 1, keys) == 0


async def test_command_keys_and_the_audit_go_when_they_are_old_and_the_lease_is_held(store: SQLStore) -> None:
    def write(connection: Connection) -> None:
        for number, service in enumerate(("shop", "shop", "shop", "other")):
            store.commands.claim(connection, service, f"k{number}", "Pay", "f")
            started = datetime.now(UTC) - timedelta(days=2)
            row = (str(uuid7()), service, "Pay", None, None, "{}", "succeeded", None, None, started, 1)
            store.commands.audit(connection, AuditRow._make(row))

    await store.transact(write)
    older = "now() - interval '2 days'" if store.dialect.name == "postgresql" else "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-2 days')"
    await execute(store, f"update tidings_command_keys set created_at = {older}")
    lost, lease = await purger(store), await purger(store)
    commands = store.commands
    for mine, retention, keys, rows in (
        (lost, HOUR, 0, 0),
        (lease, 72 * HOUR, 0, 0),
        (lease, HOUR, 2, 2),
        (lease, HOUR, 2, 1),
        (lease, HOUR, 0, 0),
    ):
        assert await store.transact(commands.purge_keys, mine, retention, 2) == keys
        assert await store.transact(commands.purge_audit, mine, "shop", retention, 2) == rows
    assert await scalar(store, "select count(*) from tidings_command_keys") == 0
    assert await scalar(store, "select service from tidings_commands") == "other"
