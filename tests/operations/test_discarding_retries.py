"""An event that would be tried again can be given up; nothing that its worker does at that moment, or did before it lost its lease, comes between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Retry, Service, Subscriptions
from tidings.errors import ConfigurationError
from tidings.stores.base import Claimed
from tidings.stores.sql import repair as module
from tidings.stores.sql.repair import Heads


class Failing:
    """A service whose handler fails for some events, which are tried again in an hour, or waits in others."""

    def __init__(self, world: World, **retry: Any) -> None:
        self.world = world
        self.bad: set[tuple[str, int]] = set()
        self.slow: set[tuple[str, int]] = set()
        self.entered: list[tuple[str, int]] = []
        self.released = asyncio.Event()
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(**{"attempts": 5, "base": 3600.0, "max": 3600.0, **retry}))
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            which = (event.order_id, event.number)
            await effect(session, "bill", event)
            self.entered.append(which)
            if which in self.slow and self.entered.count(which) > 1:
                await self.released.wait()
            elif which in self.bad:
                raise ValueError(f"order {event.order_id} is broken")

        self.service: Service = world.service(handlers)

    async def claimed(self) -> list[Claimed]:
        """Let a worker of its own take every lane that is due, whoever looks after them."""
        store = self.world.store
        subscriptions = [self.world.one("select id from tidings_subscriptions where name = 'bill'")]
        return await store.transact(store.lanes.claim, subscriptions, 10, 30.0, "another")


async def test_a_retrying_head_is_given_up_and_its_key_goes_on_without_it(world: World) -> None:
    failing = Failing(world)
    failing.bad = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(3)), OrderPlaced("b", 0))
        await until_equal(world.lanes, [("a", "retrying", 3, 1)])
        assert await service.operations.count(key="a") == (0, 0)
        assert await service.operations.count(key="a", state="idle") == (1, 3)
        # Dead ones are meant unless it is said.
        assert await service.operations.discard(reason="a test", key="a") == 0
        assert await service.operations.discard(reason="a test", key="a", state="retrying") == 1
        await until_equal(world.lanes, [])
        assert sorted(world.effects()) == [("a", 1), ("a", 2), ("b", 0)]
    failing.bad.clear()
    await world.read_again()
    async with failing.service as service:
        await until(lambda: service.counters.of("duplicates") >= 4)
    assert sorted(world.effects()) == [("a", 1), ("a", 2), ("b", 0)]
    last = world.rows("select action, count, outcome from tidings_audit order by number")[-1]
    assert last == ("discard", 1, "done")


async def test_all_of_a_retrying_key_can_be_given_up(world: World) -> None:
    failing = Failing(world)
    failing.bad = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(3)))
        await until_equal(world.lanes, [("a", "retrying", 3, 1)])
        assert await service.operations.discard(reason="a test", whole=True, state="retrying", key="a") == 3
        assert world.lanes() == []
        await world.publish(service, OrderPlaced("a", 3))
        await until_equal(world.effects, [("a", 3)])


async def test_each_key_loses_one_event_however_many_batches_there_are(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.operations._BATCH", 2)
    failing = Failing(world)
    keys = "abcde"
    failing.bad = {(key, number) for key in keys for number in range(3)}
    async with failing.service as service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(3) for key in keys))
        await until_equal(world.lanes, [(key, "retrying", 3, 1) for key in keys])
    # Nobody tries what comes next: it is retrying, and due, and must not be met again.
    assert await failing.service.operations.discard(reason="a test", state="retrying") == 5
    assert world.lanes() == [(key, "retrying", 2, 0) for key in keys]


async def test_what_is_being_tried_is_left_alone(world: World) -> None:
    failing = Failing(world)
    failing.bad = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.lanes, [("a", "retrying", 1, 1)])
    await world.execute("update tidings_lanes set due_at = '2020-01-01T00\\:00\\:00Z'")
    (lane,) = await failing.claimed()
    operations = failing.service.operations
    assert await operations.count(state="idle") == (0, 0)
    assert await operations.discard(reason="a test", state="retrying") == 0
    assert [row[:3] for row in world.lanes()] == [("a", "retrying", 1)]
    store = world.store
    (delivery,) = await store.call(store.lanes.load, lane, 10)
    assert await store.transact(store.lanes.finish, lane, [delivery.event_key], 30.0)


async def test_a_worker_whose_lease_ran_out_is_fenced(world: World) -> None:
    failing = Failing(world)
    failing.bad = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("a", 1))
        await until_equal(world.lanes, [("a", "retrying", 2, 1)])
    past = "update tidings_lanes set {0} = '2020-01-01T00\\:00\\:00Z'"
    await world.execute(past.format("due_at"))
    (lane,) = await failing.claimed()
    await world.execute(past.format("lease_until"))
    assert await failing.service.operations.discard(reason="a test", state="retrying") == 1
    store = world.store
    (delivery,) = await store.call(store.lanes.load, lane, 10)
    assert not await store.transact(store.lanes.finish, lane, [delivery.event_key], 30.0)
    assert not await store.transact(store.lanes.release, lane, state="dead", attempts=2, delay=0.0)
    assert not await store.call(store.lanes.renew, lane, 30.0)
    # What came next is at its first attempt.
    assert world.lanes() == [("a", "retrying", 1, 0)]


async def test_a_worker_that_is_still_at_it_although_its_lease_has_run_out_comes_first(pg_world: World) -> None:
    world = pg_world
    failing = Failing(world, base=0.01, max=0.01)
    failing.bad = failing.slow = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("a", 1))
        await until(lambda: failing.entered.count(("a", 0)) == 2)
        # As it is for a process that is paused for longer than its lease, and nobody else takes it.
        late, far = "2020-01-01T00\\:00\\:00Z", "2100-01-01T00\\:00\\:00Z"
        await world.execute(f"update tidings_lanes set lease_until = '{late}', due_at = '{far}'")
        giving_up = asyncio.create_task(service.operations.discard(reason="a test", state="retrying"))
        await until(lambda: _waits(world))
        failing.released.set()
        assert await giving_up == 0
        await until_equal(world.lanes, [])
    assert world.effects() == [("a", 0), ("a", 1)]
    assert sorted(world.rows("select outcome from tidings_inbox")) == [(0,), (0,)]


async def test_a_paused_worker_does_not_hold_up_whoever_gives_events_up(pg_world: World) -> None:
    world = pg_world
    failing = Failing(world, base=0.01, max=0.01)
    failing.bad = failing.slow = {("a", 0)}
    async with failing.service as service:
        await world.publish(service, OrderPlaced("a", 0))
        await until(lambda: failing.entered.count(("a", 0)) == 2)
        late, far = "2020-01-01T00\\:00\\:00Z", "2100-01-01T00\\:00\\:00Z"
        await world.execute(f"update tidings_lanes set lease_until = '{late}', due_at = '{far}'")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await service.operations.discard(reason="a test", state="retrying")
        failing.released.set()
        await until_equal(world.effects, [("a", 0)])


def _waits(world: World) -> bool:
    return bool(world.one("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"))


@pytest.mark.parametrize("moment", ["choose_idle", "draw"])
async def test_a_head_that_has_changed_since_it_was_chosen_is_kept(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    failing = Failing(world)
    failing.bad = {("a", 0), ("a", 1)}
    async with failing.service as service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("a", 1))
        await until_equal(world.lanes, [("a", "retrying", 2, 1)])
    repair = world.store.repair
    real = module.run

    def meanwhile(connection: Any, command: Any) -> Any:
        rows = real(connection, command)
        if command.sql is getattr(repair, moment):
            # Somebody is quicker.
            connection.exec_driver_sql("update tidings_lanes set depth = 1")
            connection.exec_driver_sql("delete from tidings_deliveries where number = (select min(number) from tidings_deliveries)")
        return rows

    monkeypatch.setattr(module, "run", meanwhile)
    assert (await world.store.transact(repair.discard_idle, Heads(key="a"))).events == 0
    assert world.one("select count(*) from tidings_deliveries") == 1
    assert world.one("select count(*) from tidings_inbox") == 0


async def test_there_are_no_other_states(world: World) -> None:
    with pytest.raises(ConfigurationError, match="state='waiting': give 'dead' or 'retrying'"):
        await Failing(world).service.operations.discard(reason="a test", state="waiting")  # type: ignore[arg-type]
