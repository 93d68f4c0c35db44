"""Who reads the log, from where, and for which events: what is registered, and what registering refuses."""

from __future__ import annotations

import asyncio

import pytest

from tests.services.databases import Database
from tests.stores.events import everything, ids, insert, outgoing, publish, read_on
from tests.stores.opening import opened
from tests.stores.processes import Processes
from tests.stores.waiting import become, someone_waits
from tidings.errors import ConfigurationError, RenamedSubscription
from tidings.stores import SQLStore
from tidings.stores.base import Lease, Registered
from tidings.stores.sql.registry import Start, Wanted


def wanted(name: str, *events: str, group: str = "billing", renamed_from: str | None = None) -> Wanted:
    return Wanted(group, name, events or ("order.placed",), True, renamed_from)


async def register(store: SQLStore, *subscriptions: Wanted, start: Start = "earliest", service: str = "shop") -> dict[str, Registered]:
    groups: dict[str, Start] = {item.group: start for item in subscriptions} or {"billing": start}
    found = await store.transact(store.registry.register, service, groups, list(subscriptions))
    return {row.name: row for row in found}


async def acquire(store: SQLStore, reader: str = "shop/billing@log") -> Lease | None:
    return await store.call(store.leases.acquire, reader, "me", 30.0)


async def fenced(store: SQLStore, lease: Lease | None) -> bool:
    assert lease is not None
    return not await store.call(store.leases.holds, lease)


async def test_what_is_registered_keeps_its_number(store: SQLStore) -> None:
    first = await register(store, wanted("charge"), wanted("receipt", "order.placed", "order.paid"))
    assert {name: (row.group, row.events, row.state) for name, row in first.items()} == {
        "charge": ("billing", ("order.placed",), "active"),
        "receipt": ("billing", ("order.placed", "order.paid"), "active"),
    }
    assert await register(store, wanted("charge"), wanted("receipt", "order.placed", "order.paid")) == first


async def test_services_and_groups_have_subscriptions_of_their_own(store: SQLStore) -> None:
    one = await register(store, wanted("charge"), wanted("charge", group="reporting"))
    other = await register(store, wanted("charge"), service="warehouse")
    rows = await store.call(store.registry.list, "shop")
    assert [(row.service, row.group, row.name) for row in rows] == [("shop", "billing", "charge"), ("shop", "reporting", "charge")]
    assert len({*(row.id for row in rows), other["charge"].id}) == 3
    assert one["charge"].service == "shop"


class TestFencing:
    """A receiver with an old list of subscriptions must not move past an event that a new one wants (invariant 6)."""

    async def test_a_new_subscription_fences_its_groups_reader_and_no_other(self, store: SQLStore) -> None:
        await register(store, wanted("charge"), wanted("report", group="reporting"))
        billing, reporting = await acquire(store), await acquire(store, "shop/reporting@log")
        await register(store, wanted("charge"), wanted("receipt"), wanted("report", group="reporting"))
        assert await fenced(store, billing)
        assert not await fenced(store, reporting)

    async def test_another_set_of_events_fences(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        lease = await acquire(store)
        rows = await register(store, wanted("charge", "order.placed", "order.paid"))
        assert rows["charge"].events == ("order.placed", "order.paid")
        assert await fenced(store, lease)

    async def test_registering_the_same_again_fences_nobody(self, store: SQLStore) -> None:
        await register(store, wanted("charge", "a", "b"), wanted("receipt"))
        lease = await acquire(store)
        await register(store, wanted("receipt"), wanted("charge", "b", "a"))
        assert not await fenced(store, lease)

    async def test_retiring_fences(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        lease = await acquire(store)
        await store.transact(store.registry.retire, "shop", "billing", "charge")
        assert await fenced(store, lease)

    async def test_a_registration_that_is_rolled_back_fences_nobody(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        lease = await acquire(store)
        async with store.connections.transaction() as undone:
            await undone.run(store.registry.register, "shop", {"billing": "earliest"}, [wanted("charge"), wanted("receipt")])
        assert not await fenced(store, lease)
        assert len(await store.call(store.registry.list, "shop")) == 1


class TestStart:
    async def read(self, store: SQLStore, group: str = "billing") -> list[str]:
        lease = await acquire(store, f"shop/{group}@log")
        assert lease is not None
        return ids((await store.call(read_on, store, lease.mark))[0])

    async def test_earliest_is_the_whole_log(self, store: SQLStore) -> None:
        before, after = outgoing(), outgoing()
        await publish(store, before)
        await register(store, wanted("charge"), start="earliest")
        await publish(store, after)
        assert await self.read(store) == ids([before, after])

    async def test_now_is_what_is_not_committed_yet(self, store: SQLStore) -> None:
        await publish(store, outgoing())
        await register(store, wanted("charge"), start="now")
        assert await self.read(store) == []
        after = outgoing()
        await publish(store, after)
        assert await self.read(store) == [str(after.id)]

    async def test_a_transaction_that_runs_now_is_yet_to_come(self, postgresql_store: SQLStore) -> None:
        store = postgresql_store
        late = outgoing()
        async with store.connections.transaction() as running:
            await running.run(insert, store, [late])
            await publish(store, outgoing())
            await register(store, wanted("charge"), start="now")
            await running.commit()
        assert await self.read(store) == [str(late.id)]

    async def test_it_counts_for_new_groups_only(self, store: SQLStore) -> None:
        event = outgoing()
        await register(store, wanted("charge"), start="earliest")
        await publish(store, event)
        await register(store, wanted("charge"), wanted("receipt"), start="now")
        assert await self.read(store) == [str(event.id)]

    async def test_a_subscription_that_joins_a_group_starts_where_the_group_is(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        await publish(store, outgoing())
        lease = await acquire(store)
        assert lease is not None
        _, _, mark = await store.call(read_on, store, lease.mark)
        assert await store.call(store.leases.move, lease, mark, 1, same_window=False)
        await register(store, wanted("charge"), wanted("receipt"))
        assert await self.read(store) == []


class TestRenaming:
    """Under a new name everything would be handled again: that must be meant."""

    async def test_a_name_that_vanished_while_one_like_it_appeared_is_refused(self, store: SQLStore) -> None:
        await register(store, wanted("charge"), wanted("receipt"))
        with pytest.raises(RenamedSubscription, match=r"'charge' is stored.*'charge_card'.*renamed_from='charge'.*retire billing/charge"):
            await register(store, wanted("charge_card"), wanted("receipt"))
        assert [row.name for row in await store.call(store.registry.list, "shop")] == ["charge", "receipt"]

    async def test_renamed_from_keeps_the_number_and_fences(self, store: SQLStore) -> None:
        before = await register(store, wanted("charge"))
        lease = await acquire(store)
        after = await register(store, wanted("charge_card", "order.placed", "order.paid", renamed_from="charge"))
        assert after == {"charge_card": before["charge"]._replace(name="charge_card", events=("order.placed", "order.paid"))}
        assert await fenced(store, lease)
        # It may stay in the code.
        lease = await acquire(store)
        assert await register(store, wanted("charge_card", "order.placed", "order.paid", renamed_from="charge")) == after
        assert not await fenced(store, lease)

    async def test_renamed_from_a_name_that_never_was_is_a_new_subscription(self, store: SQLStore) -> None:
        assert list(await register(store, wanted("charge", renamed_from="never"))) == ["charge"]

    async def test_a_name_that_is_still_in_the_code_cannot_have_been_renamed(self, store: SQLStore) -> None:
        before = await register(store, wanted("charge"))
        with pytest.raises(ConfigurationError, match="'charge'"):
            await register(store, wanted("charge"), wanted("charge_card", renamed_from="charge"))
        assert await register(store, wanted("charge")) == before

    async def test_two_cannot_be_the_same_renamed_one(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        with pytest.raises(ConfigurationError, match="'charge'"):
            await register(store, wanted("one", renamed_from="charge"), wanted("two", renamed_from="charge"))

    async def test_other_events_or_another_group_are_no_renaming(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        await register(store, wanted("ship", "order.shipped"))
        await register(store, wanted("charge", group="reporting"), wanted("ship", "order.shipped"))
        names = [(row.group, row.name) for row in await store.call(store.registry.list, "shop")]
        assert names == [("billing", "charge"), ("billing", "ship"), ("reporting", "charge")]

    async def test_what_was_retired_is_not_missed(self, store: SQLStore) -> None:
        before = await register(store, wanted("charge"))
        assert await store.transact(store.registry.retire, "shop", "billing", "charge")
        after = await register(store, wanted("charge_card"))
        assert after["charge_card"].id != before["charge"].id


class TestRetiring:
    async def test_what_is_retired_is_registered_no_more(self, store: SQLStore) -> None:
        await register(store, wanted("charge"), wanted("receipt"))
        assert await store.transact(store.registry.retire, "shop", "billing", "receipt")
        assert {row.name: row.state for row in await store.call(store.registry.list, "shop")} == {"charge": "active", "receipt": "retired"}
        assert list(await register(store, wanted("charge"))) == ["charge"]

    async def test_what_nobody_knows_cannot_be_retired(self, store: SQLStore) -> None:
        assert not await store.transact(store.registry.retire, "shop", "billing", "nobody")

    async def test_code_that_has_it_again_brings_it_back_and_fences(self, store: SQLStore) -> None:
        before = await register(store, wanted("charge"), wanted("receipt"))
        await store.transact(store.registry.retire, "shop", "billing", "receipt")
        lease = await acquire(store)
        assert await register(store, wanted("charge"), wanted("receipt")) == before
        assert await fenced(store, lease)

    async def test_a_group_that_was_retired_reads_again_when_code_has_it_again(self, store: SQLStore) -> None:
        event = outgoing()
        await register(store, wanted("charge"))
        await publish(store, event)
        await store.call(lambda c: c.exec_driver_sql("update tidings_checkpoints set state = 'retired'").close())
        assert await acquire(store) is None
        await register(store, wanted("charge"))
        lease = await acquire(store)
        assert lease is not None
        assert ids((await store.call(read_on, store, lease.mark))[0]) == [str(event.id)]

    async def test_a_group_that_is_paused_stays_paused(self, store: SQLStore) -> None:
        await register(store, wanted("charge"))
        await store.call(lambda c: c.exec_driver_sql("update tidings_checkpoints set state = 'paused'").close())
        await register(store, wanted("charge"))
        assert await acquire(store) is None


async def test_who_registers_waits_for_the_one_who_is_registering(postgresql_store: SQLStore) -> None:
    store = postgresql_store
    async with store.connections.transaction() as first:
        await first.run(store.registry.register, "shop", {"billing": "earliest"}, [wanted("charge")])
        second = asyncio.create_task(register(store, wanted("charge"), wanted("receipt")))
        await become(lambda: someone_waits(store))
        await first.commit()
    rows = await second
    assert list(rows) == ["charge", "receipt"]
    assert await register(store, wanted("charge"), wanted("receipt")) == rows


async def test_processes_that_register_at_once_agree(database: Database, four_processes: Processes) -> None:
    async with opened(database) as store:
        await store.upgrade()
        results = await asyncio.to_thread(four_processes.all_at_once, "register", database.url)
        rows = {row.name: row.id for row in await store.call(store.registry.list, "shop")}
        assert set(rows) == {"charge", "audit-0", "audit-1", "audit-2", "audit-3"}
        for place, seen in enumerate(results):
            assert seen["charge"] == rows["charge"]
            assert seen[f"audit-{place}"] == rows[f"audit-{place}"]
        # The last one saw all of them: whoever reads with fewer was fenced after it had looked.
        assert any(seen == rows for seen in results)


async def test_a_task_is_registered_once_and_holds_no_log(store: SQLStore) -> None:
    for _ in range(2):
        await store.call(store.registry.add_task, "purge")
    lease = await acquire(store, "purge")
    assert lease is not None
    assert await everything(store) == []
    kinds = await store.call(lambda c: [row[0] for row in c.exec_driver_sql("select kind from tidings_checkpoints")])
    assert kinds == ["task"]
