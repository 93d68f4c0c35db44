"""Parking, claiming and finishing: an event that failed, and what waits behind it, in order, without losing or stranding anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.services.databases import Database
from tests.stores.lanes import item
from tests.stores.opening import opened
from tests.stores.waiting import become, someone_waits
from tidings.ids import lane_of
from tidings.stores import SQLStore
from tidings.stores.base import Claimed, Delivery, Failure, Parking, Standing

MINE, OTHERS = 1, 2
LANE, LANE_2 = lane_of("k"), lane_of("l")


def key(n: int) -> str:
    """The event key of the n-th event."""
    return f"{n:032x}"


async def park(store: SQLStore, *items: Parking, subscription: int = MINE, **lease: Any) -> list[Claimed]:
    return await store.transact(store.lanes.park, subscription, items, **lease)


async def claim(store: SQLStore, *subscriptions: int, ttl: float = 30.0, limit: int = 16, owner: str = "me") -> list[Claimed]:
    return await store.transact(store.lanes.claim, subscriptions or [MINE], limit, ttl, owner)


async def claim_one(store: SQLStore, ttl: float = 30.0, owner: str = "me") -> Claimed:
    (lane,) = await claim(store, ttl=ttl, owner=owner)
    return lane


async def load(store: SQLStore, lane: Claimed, limit: int = 100) -> list[Delivery]:
    return await store.call(store.lanes.load, lane, limit)


async def keys(store: SQLStore, lane: Claimed) -> list[str]:
    return [row.event_key.replace("-", "") for row in await load(store, lane)]


async def finish(store: SQLStore, lane: Claimed, *numbers: int) -> bool:
    return await store.transact(store.lanes.finish, lane, [key(n) for n in numbers], 30.0)


async def release(store: SQLStore, lane: Claimed, state: str = "retrying", attempts: int = 1, delay: float = 0.0) -> bool:
    return await store.transact(store.lanes.release, lane, state=state, attempts=attempts, delay=delay)


async def left(store: SQLStore) -> tuple[list[tuple[str, int]], int]:
    """The state and depth of every lane, and how many deliveries there are."""
    lanes = await store.call(
        lambda c: [tuple(row) for row in c.exec_driver_sql("select state, depth from tidings_lanes order by state, depth")]
    )
    count = await store.call(lambda c: c.exec_driver_sql("select count(*) from tidings_deliveries").scalar_one())
    return lanes, count


async def leased(store: SQLStore) -> list[tuple[str, int]]:
    """The lanes with an owner, and their tokens."""
    sql = "select lane, lease_token from tidings_lanes where owner is not null"
    return await store.call(lambda c: [(str(row[0]).replace("-", ""), row[1]) for row in c.exec_driver_sql(sql)])


class TestParking:
    async def test_a_lane_keeps_its_events_in_the_order_in_which_they_came(self, store: SQLStore) -> None:
        await park(store, item(key(5), LANE), item(key(9), LANE_2), item(key(3), LANE))
        await park(store, item(key(4), LANE))
        lanes = {lane.lane.replace("-", ""): lane for lane in await claim(store)}
        assert lanes.keys() == {LANE, LANE_2}
        assert await keys(store, lanes[LANE]) == [key(5), key(3), key(4)]
        assert (lanes[LANE].depth, lanes[LANE_2].depth) == (3, 1)
        assert [row.event_key.replace("-", "") for row in await load(store, lanes[LANE], 2)] == [key(5), key(3)]

    async def test_no_lane_is_made_for_what_is_parked_in_another_one(self, store: SQLStore) -> None:
        """A copy of an event that was set aside: its key is not blocked by it."""
        await park(store, item(key(1), key(1), state="dead"))
        claimed = await park(store, item(key(1), LANE), item(key(2), LANE_2), owner="me", ttl=30.0)
        assert [(lane.lane.replace("-", ""), lane.token) for lane in claimed] == await leased(store)
        assert [lane for lane, _ in await leased(store)] == [LANE_2]
        assert await left(store) == ([("dead", 1), ("retrying", 1)], 2)
        await park(store, item(key(1), LANE))
        assert await left(store) == ([("dead", 1), ("retrying", 1)], 2)
        await park(store, item(key(1), LANE), item(key(3), LANE))
        assert await left(store) == ([("dead", 1), ("retrying", 1), ("retrying", 1)], 3)

    async def test_what_is_parked_already_stays_as_it_is(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE, "failed"), item(key(2), LANE))
        await park(store, item(key(2), LANE), item(key(1), LANE), item(key(3), LANE), item(key(3), LANE))
        assert await left(store) == ([("retrying", 3)], 3)
        lane = await claim_one(store)
        assert [(row.event_id, row.reason) for row in await load(store, lane)] == [
            (key(1), "failed"),
            (key(2), "behind"),
            (key(3), "behind"),
        ]

    async def test_the_first_of_a_lane_says_when_it_is_due_and_how_often_it_was_tried(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE, "failed", delay=3600.0, attempts=2), item(key(2), LANE, delay=0.0, attempts=0))
        await park(store, item(key(3), LANE, delay=0.0))
        assert await claim(store) == []
        due = await store.call(store.lanes.next_due, [MINE])
        assert due is not None
        assert 3500 < due <= 3600
        await park(store, item(key(4), LANE_2, "failed", delay=0.0, attempts=2))
        assert (await claim_one(store)).attempts == 3

    async def test_everything_about_an_event_and_its_failure_comes_back(self, store: SQLStore) -> None:
        failure = Failure("ValueError", "kein Geld: „0“", "Traceback …", "abcdef")
        parked = item(
            key(1), LANE, "failed", key="kläuse", event_id="event-1", sequence=77, data=b"\x00\xff not text", history='[{"attempt": 1}]',
            attempts=3, failure=failure,
        )  # fmt: skip
        await park(store, parked)
        (row,) = await load(store, await claim_one(store))
        assert row._replace(event_key=key(1)) == Delivery(
            key(1), "event-1", "shop", "order.placed", 1, "orders", "kläuse", None, 77, b"{}", b"\x00\xff not text", "failed", 3,
            '[{"attempt": 1}]',
        )  # fmt: skip
        columns = "error_type, error_message, traceback, fingerprint, failed_at is not null"
        stored = await store.call(lambda c: tuple(c.exec_driver_sql(f"select {columns} from tidings_deliveries").one()))
        assert stored == (*failure, True)

    async def test_subscriptions_do_not_see_one_anothers_lanes(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        await park(store, item(key(1), LANE), subscription=OTHERS)
        (mine,) = await claim(store, MINE)
        assert await finish(store, mine, 1)
        assert await left(store) == ([("retrying", 1)], 1)
        assert [lane.subscription_id for lane in await claim(store, MINE, OTHERS)] == [OTHERS]

    async def test_a_lane_that_is_promoted_belongs_to_its_worker_at_once(self, store: SQLStore) -> None:
        (mine,) = await park(store, item(key(1), LANE, "slow"), ttl=30.0, owner="me")
        assert (mine.subscription_id, mine.lane.replace("-", "")) == (MINE, LANE)
        assert await claim(store) == []
        await park(store, item(key(2), LANE))
        assert await keys(store, mine) == [key(1), key(2)]
        assert await finish(store, mine, 1)
        assert await left(store) == ([("retrying", 1)], 1)

    async def test_a_lane_that_was_there_is_not_taken_by_promoting(self, store: SQLStore) -> None:
        """Not even from another task of the same worker: two would run one lane."""
        await park(store, item(key(1), LANE))
        retrying = await claim_one(store, owner="me")
        assert await park(store, item(key(2), LANE, "slow"), ttl=30.0, owner="me") == []
        assert await finish(store, retrying, 1)


class TestClaiming:
    async def test_it_counts_an_attempt_and_takes_the_lane_from_nobody(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        lane = await claim_one(store)
        assert (lane.key, lane.attempts, lane.depth) == ("k", 1, 1)
        assert await claim(store, owner="another") == []
        assert await store.call(store.lanes.next_due, [MINE]) is None

    async def test_every_claim_has_a_token_of_its_own(self, store: SQLStore) -> None:
        await park(store, *[item(key(n), lane_of(str(n))) for n in range(6)])
        tokens = [lane.token for _ in range(3) for lane in await claim(store, limit=2)]
        assert len(set(tokens)) == 6

    async def test_the_longest_due_come_first(self, store: SQLStore) -> None:
        for n, delay in enumerate((0.0, -30.0, -20.0, -10.0)):
            await park(store, item(key(n), lane_of(str(n)), key=str(n), delay=delay))
        assert [lane.key for lane in await claim(store, limit=2)] == ["1", "2"]
        assert [lane.key for lane in await claim(store, limit=2)] == ["3", "0"]

    async def test_only_lanes_of_subscriptions_that_this_worker_has(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE), subscription=OTHERS)
        assert await claim(store, MINE) == []
        assert await store.call(store.lanes.next_due, [MINE]) is None
        assert len(await claim(store, MINE, OTHERS)) == 1

    async def test_not_what_waits_for_somebody_to_decide(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE, state="dead"), item(key(2), LANE))
        assert await claim(store) == []
        assert await left(store) == ([("dead", 2)], 2)

    async def test_a_lease_that_ran_out(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        gone = await claim_one(store, ttl=0.05)
        await become(lambda: claim(store, owner="another"))
        assert not await finish(store, gone, 1)
        assert not await release(store, gone)
        assert not await store.transact(store.lanes.renew, gone, 30.0)
        assert await left(store) == ([("retrying", 1)], 1)

    async def test_a_lane_that_was_given_up_stays_free_although_somebody_still_renews_it(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        lane = await claim_one(store)
        assert await release(store, lane)
        assert not await store.transact(store.lanes.renew, lane, 30.0)
        assert (await claim_one(store, owner="another")).token != lane.token

    async def test_workers_who_claim_at_once_get_different_lanes(self, store: SQLStore) -> None:
        await park(store, *[item(key(n), lane_of(str(n))) for n in range(20)])
        claimed = await asyncio.gather(*(claim(store, limit=5, owner=f"worker-{n}") for n in range(4)))
        lanes = [lane.lane for lanes in claimed for lane in lanes]
        assert len(lanes) == len(set(lanes)) == 20


class TestFinishing:
    async def test_the_head_leaves_and_the_next_starts_with_its_first_attempt(self, store: SQLStore) -> None:
        await park(store, *[item(key(n), LANE) for n in range(3)])
        await release(store, await claim_one(store), attempts=4)
        lane = await claim_one(store)
        assert lane.attempts == 5
        assert await finish(store, lane, 0)
        assert await keys(store, lane) == [key(1), key(2)]
        assert await store.call(lambda c: c.exec_driver_sql("select attempts from tidings_lanes").scalar_one()) == 1
        assert await finish(store, lane, 1, 2)
        assert await left(store) == ([], 0)

    async def test_a_head_that_is_not_there_finishes_nothing(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE), item(key(2), LANE))
        lane = await claim_one(store)
        async with store.connections.transaction() as held:
            assert not await held.run(store.lanes.finish, lane, [key(7)], 30.0)
        assert await left(store) == ([("retrying", 2)], 2)

    async def test_an_event_comes_once_however_often_it_was_received(self, store: SQLStore) -> None:
        """Parked, received again behind itself, finished: the third copy finds the inbox row."""
        await park(store, item(key(1), LANE))
        lane = await claim_one(store)
        async with store.connections.transaction() as held:
            assert await held.run(store.inbox.open, MINE, [key(1)], [LANE]) == {0: Standing.PARKED}
            assert await held.run(store.inbox.open, MINE, [key(1)], ["0" * 32]) == {}
            assert await held.run(store.lanes.finish, lane, [key(1)], 30.0)
            await held.commit()
        assert await store.transact(store.inbox.open, MINE, [key(1)], [LANE]) == {0: Standing.DUPLICATE}

    async def test_a_lane_that_failed_is_due_later_with_its_reason(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        lane = await claim_one(store)
        assert await release(store, lane, attempts=1, delay=3600.0)
        await store.transact(store.lanes.explain, lane, key(1), "failed", 1, '["once"]', Failure("E", "m", "t", "f"))
        assert await claim(store) == []
        rows = await store.call(lambda c: c.exec_driver_sql("select reason, attempts, error_type from tidings_deliveries").all())
        assert [tuple(row) for row in rows] == [("failed", 1, "E")]

    async def test_an_attempt_that_was_none_is_given_back(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE, attempts=2))
        lane = await claim_one(store)
        assert await release(store, lane, attempts=lane.attempts - 1)
        assert (await claim_one(store)).attempts == lane.attempts

    async def test_a_dead_head_holds_its_key_or_is_set_aside(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE), item(key(2), LANE))
        lane = await claim_one(store)
        assert await release(store, lane, state="dead", attempts=8)
        assert await claim(store) == []
        # Who is cancelled just then gives it back once more, as if nothing had been decided.
        assert not await release(store, lane)
        assert await claim(store) == []
        assert await store.transact(store.inbox.standing, MINE, [key(3)], [LANE]) == {0: Standing.PARKED}
        await store.call(lambda c: c.exec_driver_sql("update tidings_lanes set state = 'retrying'").close())
        lane = await claim_one(store)
        assert await store.transact(store.lanes.detach, lane, key(1), 8)
        assert await left(store) == ([("dead", 1), ("retrying", 1)], 2)
        assert await keys(store, await claim_one(store)) == [key(2)]

    async def test_the_last_one_set_aside_leaves_no_lane_behind_it(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE))
        assert await store.transact(store.lanes.detach, await claim_one(store), key(1), 8)
        assert await left(store) == ([("dead", 1)], 1)
        assert await store.transact(store.inbox.standing, MINE, [key(2)], [LANE]) == {}

    async def test_without_the_lease_nothing_is_set_aside(self, store: SQLStore) -> None:
        await park(store, item(key(1), LANE), item(key(2), LANE))
        gone = await claim_one(store, ttl=0.05)
        await become(lambda: claim(store, owner="another"))
        assert not await store.transact(store.lanes.detach, gone, key(1), 8)
        assert await left(store) == ([("retrying", 2)], 2)


class TestArrivalsThatRaceWithTheEnd:
    """What arrives while the last delivery of a lane finishes must not be left behind nothing."""

    @pytest.mark.parametrize("ends", ["commit", "rollback"])
    async def test_parking_waits_for_the_one_who_finishes(self, postgresql: Database, ends: str) -> None:
        async with opened(postgresql) as store:
            await store.upgrade()
            await park(store, item(key(1), LANE))
            lane = await claim_one(store)
            async with store.connections.transaction() as finishing:
                assert await finishing.run(store.lanes.finish, lane, [key(1)], 30.0)
                parking = asyncio.create_task(park(store, item(key(2), LANE)))
                await become(lambda: someone_waits(store))
                await (finishing.commit() if ends == "commit" else finishing.rollback())
            await parking
            if ends == "rollback":
                assert await left(store) == ([("retrying", 2)], 2)
                assert await finish(store, lane, 1, 2)
            else:
                assert await left(store) == ([("retrying", 1)], 1)
                again = await claim_one(store)
                assert await keys(store, again) == [key(2)]
                assert await finish(store, again, 2)
            assert await left(store) == ([], 0)

    async def test_finishing_waits_for_the_one_who_parks_and_leaves_the_lane_to_it(self, postgresql: Database) -> None:
        async with opened(postgresql) as store:
            await store.upgrade()
            await park(store, item(key(1), LANE))
            lane = await claim_one(store)
            async with store.connections.transaction() as parking:
                await parking.run(store.lanes.park, MINE, [item(key(2), LANE)])
                finishing = asyncio.create_task(finish(store, lane, 1))
                await become(lambda: someone_waits(store))
                await parking.commit()
            assert await finishing
            assert await left(store) == ([("retrying", 1)], 1)
            assert await keys(store, lane) == [key(2)]

    async def test_two_who_park_in_the_same_lanes_do_not_deadlock(self, postgresql: Database) -> None:
        async with opened(postgresql) as store:
            await store.upgrade()
            lanes = [lane_of(str(n)) for n in range(30)]

            async def parks(worker: int) -> None:
                for turn in range(8):
                    turned = lanes[turn:] + lanes[:turn] if worker % 2 else lanes[::-1]
                    await park(store, *[item(key(worker << 20 | turn << 10 | n), lane) for n, lane in enumerate(turned)])

            await asyncio.gather(*(parks(worker) for worker in range(4)))
            assert await left(store) == ([("retrying", 32)] * 30, 960)
