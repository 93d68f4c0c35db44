"""Leases: one worker at a time, by the database's clock, and nothing of a worker that has lost its lease is kept (invariant 7)."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from tests.stores.events import earliest, insert, outgoing
from tests.stores.waiting import become
from tidings.errors import StillRunning
from tidings.stores import SQLStore
from tidings.stores.base import Lease, Mark
from tidings.stores.sql.registry import Inbound, Wanted
from tidings.stores.sql.retire import Retire

READER = "shop/shop@log"


@pytest.fixture
async def ready(store: SQLStore) -> SQLStore:
    """A store with one group."""
    await store.transact(store.registry.register, "shop", {"shop": "earliest"}, [])
    return store


async def acquire(store: SQLStore, owner: str, ttl: float = 30.0) -> Lease | None:
    return await store.call(store.leases.acquire, READER, owner, ttl)


async def held(store: SQLStore, owner: str, ttl: float = 30.0) -> Lease:
    lease = await acquire(store, owner, ttl)
    assert lease is not None
    return lease


async def holds(store: SQLStore, lease: Lease) -> bool:
    return await store.call(store.leases.holds, lease)


async def renew(store: SQLStore, lease: Lease, ttl: float = 30.0) -> bool:
    return await store.call(store.leases.renew, lease, ttl)


async def move(store: SQLStore, lease: Lease, mark: Mark, high: int, *, same_window: bool = False) -> bool:
    return await store.call(store.leases.move, lease, mark, high, same_window=same_window)


async def test_one_owner_at_a_time(ready: SQLStore) -> None:
    lease = await held(ready, "one")
    assert (lease.reader, lease.shard, lease.mark, lease.high) == (READER, 0, earliest(ready), 0)
    assert await holds(ready, lease)
    assert await acquire(ready, "two") is None
    assert await holds(ready, lease)


async def test_a_lease_that_was_given_up_can_be_had_at_once(ready: SQLStore) -> None:
    one = await held(ready, "one")
    await ready.call(ready.leases.release, one)
    two = await held(ready, "two")
    assert two.token > one.token
    assert not await holds(ready, one)
    # Who has lost it gives up nothing.
    await ready.call(ready.leases.release, one)
    assert await holds(ready, two)
    assert await acquire(ready, "three") is None


async def test_a_lease_that_ran_out_is_taken_over(ready: SQLStore) -> None:
    one = await held(ready, "one", ttl=0.05)
    assert await holds(ready, one)  # until somebody takes it
    await become(lambda: acquire(ready, "two"))
    assert not await holds(ready, one)
    assert not await renew(ready, one)


async def test_a_lease_that_is_renewed_does_not_run_out(ready: SQLStore) -> None:
    await ready.transact(ready.registry.register, "shop", {"other": "earliest"}, [])
    one = await held(ready, "one", ttl=0.05)
    assert await renew(ready, one, 30.0)
    assert await ready.call(ready.leases.acquire, "shop/other@log", "one", 0.05)
    await become(lambda: ready.call(ready.leases.acquire, "shop/other@log", "two", 30.0))
    assert await acquire(ready, "two") is None


async def test_an_owner_takes_over_from_itself(ready: SQLStore) -> None:
    """After a restart, under the same name."""
    one = await held(ready, "one")
    again = await held(ready, "one")
    assert again.token > one.token
    assert not await holds(ready, one)


async def test_of_many_who_ask_at_once_one_gets_it(ready: SQLStore) -> None:
    answers = await asyncio.gather(*(acquire(ready, f"worker-{n}") for n in range(8)))
    assert len([lease for lease in answers if lease is not None]) == 1


async def test_a_paused_or_retired_reader_gives_no_lease_and_renews_none(ready: SQLStore) -> None:
    lease = await held(ready, "one")
    for state in ("paused", "retired"):
        await ready.call(lambda c, s=state: c.exec_driver_sql(f"update tidings_checkpoints set state = '{s}'").close())
        assert not await renew(ready, lease)
        assert await acquire(ready, "one") is None
        assert await acquire(ready, "two") is None


async def test_there_is_no_lease_of_what_is_not_registered(store: SQLStore) -> None:
    assert await acquire(store, "one") is None


class TestTheDatabasesClock:
    async def test_it_decides_however_old_the_transaction_is(self, postgresql_store: SQLStore) -> None:
        """`now()` stands still in a transaction; a lease that ran out since its beginning has run out."""
        ready = postgresql_store
        await ready.transact(ready.registry.register, "shop", {"shop": "earliest"}, [])
        async with ready.connections.transaction() as old:
            await old.run(lambda c: c.exec_driver_sql("select now()").close())
            await held(ready, "one", ttl=0.05)
            await become(lambda: old.run(ready.leases.acquire, READER, "two", 30.0))

    @pytest.mark.parametrize("ttl", [0.5, 30.0])
    async def test_a_lease_lasts_from_there(self, ready: SQLStore, ttl: float) -> None:
        await held(ready, "one", ttl)
        left = {
            "postgresql": "select extract(epoch from lease_until - clock_timestamp())::float8 from tidings_checkpoints",
            "sqlite": "select (julianday(lease_until) - julianday('now')) * 86400.0 from tidings_checkpoints",
        }[ready.dialect.name]
        seconds = await ready.call(lambda c: c.exec_driver_sql(left).scalar_one())
        assert ttl - 0.4 < seconds <= ttl + 0.002


class TestCheckpoints:
    async def test_it_is_where_the_next_owner_starts(self, ready: SQLStore) -> None:
        one = await held(ready, "one")
        mark = Mark("10:20:12", "30:40:33", 7) if ready.dialect.name == "postgresql" else Mark(None, None, 7)
        assert await move(ready, one, mark, 9)
        await ready.call(ready.leases.release, one)
        two = await held(ready, "two")
        assert (two.mark, two.high) == (mark, 9)

    async def test_inside_a_window_only_the_position_moves(self, ready: SQLStore) -> None:
        one = await held(ready, "one")
        mark = Mark("10:20:12", "30:40:33", 7) if ready.dialect.name == "postgresql" else Mark(None, None, 7)
        assert await move(ready, one, mark, 9)
        assert await move(ready, one, replace(mark, previous=None, current=None, position=8), 12, same_window=True)
        assert (await held(ready, "one")).mark == replace(mark, position=8)

    async def test_the_highest_position_never_goes_back(self, ready: SQLStore) -> None:
        one = await held(ready, "one")
        for high in (5, 3):
            assert await move(ready, one, earliest(ready), high)
        assert (await held(ready, "one")).high == 5

    @pytest.mark.parametrize("same_window", [False, True])
    async def test_a_stale_token_writes_nothing(self, ready: SQLStore, same_window: bool) -> None:
        stale = await held(ready, "one")
        await ready.call(ready.leases.release, stale)
        lease = await held(ready, "two")
        await move(ready, lease, replace(earliest(ready), position=3), 3)
        assert not await move(ready, stale, replace(earliest(ready), position=99), 99, same_window=same_window)
        again = await held(ready, "two")
        assert (again.mark.position, again.high) == (3, 3)

    async def test_it_goes_with_its_transaction(self, ready: SQLStore) -> None:
        lease = await held(ready, "one")
        async with ready.connections.transaction() as undone:
            await undone.run(insert, ready, [outgoing()])
            assert await undone.run(ready.leases.move, lease, replace(earliest(ready), position=5), 5, same_window=False)
        assert (await held(ready, "one")).mark == earliest(ready)


class TestRestarts:
    """How often a lease was taken without progress: the mark of an event that kills its worker."""

    async def test_every_acquisition_counts_until_the_checkpoint_moves(self, ready: SQLStore) -> None:
        assert [(await held(ready, "one")).restarts for _ in range(3)] == [1, 2, 3]
        lease = await held(ready, "one")
        assert await move(ready, lease, earliest(ready), 0)
        assert (await held(ready, "one")).restarts == 1

    async def test_a_renewal_is_no_progress(self, ready: SQLStore) -> None:
        lease = await held(ready, "one")
        assert await renew(ready, lease)
        assert (await held(ready, "one")).restarts == 2

    async def test_giving_the_lease_up_properly_is_no_crash(self, ready: SQLStore) -> None:
        for _ in range(3):
            lease = await held(ready, "one")
            await ready.call(ready.leases.release, lease)
        assert (await held(ready, "two")).restarts == 1

    async def test_who_gives_up_may_say_how_often_it_was(self, ready: SQLStore) -> None:
        lease = await held(ready, "one")
        await ready.call(ready.leases.release, lease, restarts=2)
        assert (await held(ready, "two")).restarts == 3


class TestFences:
    async def test_registering_a_subscription_fences_the_groups_reader(self, ready: SQLStore) -> None:
        lease = await held(ready, "one")
        await ready.transact(ready.registry.register, "shop", {"shop": "earliest"}, [Wanted("shop", "charge", ("order.placed",), True)])
        assert not await holds(ready, lease)
        assert not await renew(ready, lease)
        assert not await move(ready, lease, replace(earliest(ready), position=9), 9)
        # It is the owner still, and goes on at once with the new list.
        again = await held(ready, "one")
        assert await holds(ready, again)
        assert again.mark == earliest(ready)

    async def test_a_proof_counts_nothing_without_the_lease(self, ready: SQLStore) -> None:
        lease = await held(ready, "one")
        keys = ["0" * 31 + str(n) for n in range(3)]

        async def handle(lease: Lease) -> int:
            async with ready.connections.transaction() as handling:
                await handling.run(ready.inbox.open, 1, keys, keys)
                return await handling.run(ready.inbox.prove, 1, keys, lease.reader, lease.shard, lease.token)

        assert await handle(lease) == 3
        await held(ready, "one")
        assert await handle(lease) == 0


class TestSharing:
    """Reading side by side, where a broker divides the messages."""

    QUEUE = "shop/shop@rabbitmq"

    @pytest.fixture
    async def queue(self, store: SQLStore) -> SQLStore:
        await store.transact(store.registry.register, "shop", {}, [Wanted("shop", "x", ("e",), True)], [Inbound("shop", "rabbitmq", False)])
        return store

    async def join(self, store: SQLStore, worker: str, ttl: float = 10.0) -> Lease:
        lease = await store.call(store.sharing.join, self.QUEUE, worker, ttl)
        assert lease is not None
        return lease

    async def test_nobody_is_kept_out_and_all_have_one_token(self, queue: SQLStore) -> None:
        first, second = await self.join(queue, "a"), await self.join(queue, "b")
        assert first == second
        assert (first.restarts, second.restarts) == (1, 1)
        assert await queue.call(queue.sharing.stay, first, "a", 10.0)
        assert await queue.call(queue.leases.holds, second)

    async def test_a_new_subscription_makes_everybody_look_again(self, queue: SQLStore) -> None:
        lease = await self.join(queue, "a")
        await queue.transact(
            queue.registry.register, "shop", {}, [Wanted("shop", "x", ("e",), True), Wanted("shop", "y", ("f",), True)],
            [Inbound("shop", "rabbitmq", False)],
        )  # fmt: skip
        assert not await queue.call(queue.leases.holds, lease)
        assert not await queue.call(queue.sharing.stay, lease, "a", 10.0)
        assert await queue.call(queue.leases.holds, await self.join(queue, "a"))

    async def test_who_has_crashed_is_counted_until_it_is_forgiven(self, queue: SQLStore) -> None:
        for worker in ("a", "b"):
            await self.join(queue, worker, ttl=-1.0)
        third = await self.join(queue, "c")
        assert third.restarts == 3
        await queue.call(queue.sharing.forgive, third)
        assert (await self.join(queue, "d")).restarts == 1

    async def test_who_has_left_is_not(self, queue: SQLStore) -> None:
        lease = await self.join(queue, "a", ttl=-1.0)
        await queue.call(queue.sharing.leave, lease, "a")
        assert (await self.join(queue, "b")).restarts == 1

    async def test_a_retired_group_has_no_readers(self, queue: SQLStore) -> None:
        lease = await self.join(queue, "a")
        retire = Retire(queue.names, queue.dialect)
        with pytest.raises(StillRunning, match="a worker reads for group 'shop' right now"):
            await queue.transact(retire.group, "shop", "shop")
        assert await queue.call(queue.sharing.stay, lease, "a", 10.0)
        await queue.transact(retire.service, "shop")
        assert not await queue.call(queue.sharing.stay, lease, "a", 10.0)
        assert await queue.call(queue.sharing.join, self.QUEUE, "a", 10.0) is None
