"""Routing by environment: each event is handled by one environment, whoever starts and stops meanwhile; what is left to another is counted."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import EnvironmentRouting, Retry, Service, Subscriptions, context
from tidings.errors import ConfigurationError
from tidings.ids import uuid7

#: Looks at the workers for every event: what a test changes counts at once.
ROUTING = EnvironmentRouting(look=0)
KINDS = ["transactional", "session thread", "batch", "plain", "plain batch"]


class Environments:
    """Services of one name on one database, whose handlers note which environment has handled what."""

    def __init__(self, world: World, kind: str = "transactional") -> None:
        self.world = world
        self.kind = kind
        self.calls: list[tuple[str, int]] = []
        self.failing: set[str] = set()

    def service(self, environment: str, **options: Any) -> Service:
        handlers = Subscriptions()

        def note(event: OrderPlaced) -> None:
            self.calls.append((environment, event.number))
            if environment in self.failing:
                raise ValueError("no luck")

        async def transactional(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, environment, event)
            note(event)

        def session_thread(event: OrderPlaced, session: Session) -> None:
            effect_sync(session, environment, event)
            note(event)

        async def batch(events: list[OrderPlaced], session: AsyncSession) -> None:
            for event in events:
                await effect(session, environment, event)
                note(event)

        async def plain(event: OrderPlaced) -> None:
            note(event)

        async def plain_batch(events: list[OrderPlaced]) -> None:
            for event in events:
                note(event)

        functions: dict[str, Any] = {
            "transactional": transactional, "session thread": session_thread, "batch": batch, "plain": plain, "plain batch": plain_batch,
        }  # fmt: skip
        handlers.subscribe(OrderPlaced, name="bill", **({"batch": 10} if "batch" in self.kind else {}))(functions[self.kind])
        options = {"route_by_environment": ROUTING, "retry": Retry(base=0.05, max=0.05, attempts=100), **options}
        return self.world.service(handlers, environment=environment, engine=self.world.another_engine(), **options)

    async def publish(self, service: Service, environment: str | None, *numbers: int) -> None:
        values = {} if environment is None else {"environment": environment}
        with context.bind(**values):
            await self.world.publish(service, *(OrderPlaced(f"k{number % 7}", number) for number in numbers))

    async def pretend(self, environment: str, *, ago: int = 0) -> None:
        """Let it look as if a worker of an environment had been seen some seconds ago."""
        time = (
            f"now() - interval '{ago} s'" if self.world.kind == "postgresql" else f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-{ago} seconds')"
        )
        await self.world.execute(
            "insert into tidings_workers (id, service, environment, roles, host, pid, version, started_at, seen_at) "
            f"values (:id, 'shop', :environment, 'consume', 'h', 1, 'v', {time}, {time})".replace(":%", "\\:%"),
            id=uuid7() if self.world.kind == "postgresql" else str(uuid7()), environment=environment,
        )  # fmt: skip

    async def forget(self) -> None:
        await self.world.execute("delete from tidings_workers where host = 'h'")

    def numbers(self, environment: str) -> list[int]:
        return sorted({number for name, number in self.calls if name == environment})


@pytest.mark.parametrize("kind", KINDS)
async def test_events_go_to_their_environment_and_to_the_default_one(world: World, kind: str) -> None:
    both = Environments(world, kind)
    main, canary = both.service("main"), both.service("canary")
    async with main, canary:
        await both.publish(main, "canary", 1, 2, 3)
        await both.publish(canary, "main", 4)
        await both.publish(canary, None, 5, 6)
        await both.publish(main, "nobody", 7)
        await until_equal(lambda: main.counters.of("handled") + canary.counters.of("handled"), 7)
        # What is not handled here is counted, and leaves nothing in the inbox.
        await until_equal(lambda: (main.counters.of("skipped"), canary.counters.of("skipped")), (3, 4))
    assert (both.numbers("main"), both.numbers("canary")) == ([4, 5, 6, 7], [1, 2, 3])
    assert len(both.calls) == 7
    rows = world.rows(
        "select s.group_name, count(*) from tidings_inbox i join tidings_subscriptions s on s.id = i.subscription_id group by s.group_name"
    )
    # Those that several environments might take have a further row that these share.
    assert dict(tuple(row) for row in rows) == {"shop": 4, "shop@canary": 3, "shop@": 4}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_default_environment_has_handled_is_not_handled_again(world: World, kind: str) -> None:
    both = Environments(world, kind)
    main = both.service("main")
    async with main:
        await both.publish(main, "canary", 1, 2, 3)
        await until_equal(lambda: main.counters.of("handled"), 3)
    canary = both.service("canary")
    async with canary:
        await until_equal(lambda: canary.counters.of("duplicates"), 3)
        await both.publish(canary, "canary", 4)
        await until_equal(lambda: canary.counters.of("handled"), 1)
    assert (both.numbers("main"), both.numbers("canary")) == ([1, 2, 3], [4])
    assert len(both.calls) == 4


async def test_an_environment_that_was_away_for_longer_than_the_inbox_keeps_its_rows_finds_what_was_handled(world: World) -> None:
    """Its checkpoint holds the log, and so the rows by which it knows stay as long."""
    both = Environments(world)
    canary = both.service("canary")
    async with canary:
        await both.publish(canary, "canary", 1)
        await until_equal(lambda: canary.counters.of("handled"), 1)
    main = both.service("main")
    async with main:
        await both.publish(main, "canary", 2, 3)
        await both.publish(main, None, 4)
        await until_equal(lambda: main.counters.of("handled"), 3)
    ago = "now() - interval '{} days'" if world.kind == "postgresql" else "strftime('%Y-%m-%dT%H\\:%M\\:%fZ', 'now', '-{} days')"
    await world.execute(f"update tidings_inbox set handled_at = {ago.format(20)}")
    await world.execute(f"update tidings_outbox set time = {ago.format(21)}")
    store = main.store
    await store.transact(store.registry.add_task, "task:test")
    lease = await store.call(store.leases.acquire, "task:test", "me", 30.0)
    assert lease is not None
    await store.transact(store.upkeep.purge_inbox, lease, 14 * 86400.0, 1000)
    canary = both.service("canary")
    async with canary:
        await until_equal(lambda: canary.counters.of("duplicates"), 2)
        await both.publish(canary, "canary", 5)
        await until_equal(lambda: canary.counters.of("handled"), 1)
    assert sorted(both.calls) == [("canary", 1), ("canary", 5), ("main", 2), ("main", 3), ("main", 4)]
    # When the log has them no more, nobody needs the rows.
    await world.execute("delete from tidings_outbox")
    await world.execute(f"update tidings_inbox set handled_at = {ago.format(20)}")
    await store.transact(store.upkeep.purge_inbox, lease, 14 * 86400.0, 1000)
    assert world.one("select count(*) from tidings_inbox") == 0


async def test_what_environments_share_is_nobody_s_to_look_at(world: World) -> None:
    both = Environments(world)
    main = both.service("main")
    async with main:
        found = await main.operations.subscriptions()
    assert [item.label for item in found] == ["shop/bill"]


async def test_what_was_left_to_an_environment_that_ended_waits_for_it(world: World) -> None:
    both = Environments(world)
    canary = both.service("canary")
    async with canary:
        await both.publish(canary, "canary", 1)
        await until_equal(lambda: canary.counters.of("handled"), 1)
    main = both.service("main")
    await both.pretend("canary")
    async with main:
        await both.publish(main, "canary", 2, 3)
        await until_equal(lambda: main.counters.of("skipped"), 3)
        await both.forget()
        # From now on the default environment takes them.
        await both.publish(main, "canary", 4)
        await until_equal(lambda: main.counters.of("handled"), 1)
        canary = both.service("canary")
        async with canary:
            await until_equal(lambda: canary.counters.of("handled"), 2)
            await until_equal(lambda: canary.counters.of("duplicates"), 1)
    assert sorted(both.calls) == [("canary", 1), ("canary", 2), ("canary", 3), ("main", 4)]


async def test_what_was_left_to_a_new_environment_is_there_for_it_wherever_groups_start(world: World) -> None:
    both = Environments(world)
    main, canary = both.service("main", start="now"), both.service("canary", start="now")
    # Its workers are there before its group is: the default environment believes them.
    await both.pretend("canary")
    async with main:
        await both.publish(main, "canary", 1, 2)
        await until_equal(lambda: main.counters.of("skipped"), 2)
        async with canary:
            await until_equal(lambda: canary.counters.of("handled"), 2)


async def test_a_worker_that_was_not_seen_for_long_is_none(world: World) -> None:
    both = Environments(world)
    main = both.service("main")
    await both.pretend("canary", ago=40)
    async with main:
        await both.publish(main, "canary", 1)
        await until_equal(lambda: main.counters.of("handled"), 1)


@pytest.mark.parametrize("kind", ["transactional", "session thread", "batch"])
async def test_two_environments_that_both_take_an_event_handle_it_once(world: World, kind: str) -> None:
    """The default environment believes for long that the other one is not there."""
    both = Environments(world, kind)
    main = both.service("main", route_by_environment=EnvironmentRouting(look=60))
    canary = both.service("canary")
    async with main:
        await both.publish(main, "canary", 0)
        await until_equal(lambda: main.counters.of("handled"), 1)
        async with canary:
            for first in range(1, 100, 10):
                await both.publish(main, "canary", *range(first, first + 10))
                await asyncio.sleep(0)
            await until(lambda: len(world.effects()) >= 101)
            total = lambda service: service.counters.of("handled") + service.counters.of("duplicates")  # noqa: E731
            await until_equal(lambda: (total(main), total(canary)), (101, 101))
    assert sorted(value for _, value in world.effects()) == list(range(101))
    # Within one environment the order of a key holds.
    for environment in ("main", "canary"):
        of_key: dict[str, list[int]] = {}
        for key, value in world.effects(environment):
            of_key.setdefault(key, []).append(value)
        assert all(values == sorted(values) for values in of_key.values())


@pytest.mark.parametrize("kind", ["transactional", "plain"])
async def test_a_retry_in_one_environment_finds_what_the_other_has_handled(world: World, kind: str) -> None:
    both = Environments(world, kind)
    both.failing.add("main")
    main = both.service("main")
    async with main:
        await both.publish(main, "canary", 1)
        await until(world.lanes)
        canary = both.service("canary")
        async with canary:
            await until_equal(lambda: canary.counters.of("handled"), 1)
        both.failing.clear()
        await until_equal(lambda: main.counters.of("duplicates"), 1)
        await until(lambda: not world.lanes())
        assert main.counters.of("handled") == 0
    assert both.numbers("canary") == [1]


async def test_an_environment_that_is_no_name_is_none(world: World) -> None:
    both = Environments(world)
    canary, main = both.service("canary"), both.service("main")
    async with main, canary:
        for text in ("canary\n", "canary " * 20, "", 7, None):
            await world.insert_row(headers=json.dumps({"x-env": text}))
        await until_equal(lambda: main.counters.of("handled"), 5)
        await until_equal(lambda: canary.counters.of("skipped"), 5)
    assert both.numbers("canary") == []


async def test_without_routing_an_environment_handles_everything(world: World) -> None:
    both = Environments(world)
    service = both.service("canary", route_by_environment=False)
    async with service:
        await both.publish(service, "main", 1)
        await until_equal(lambda: service.counters.of("handled"), 1)
    assert world.rows("select distinct group_name from tidings_subscriptions") == [("shop",)]


async def test_wrong_settings_are_refused(world: World) -> None:
    for options, message in (
        ({"route_by_environment": True}, "environment=None"),
        ({"route_by_environment": True, "environment": "a b"}, "a b"),
        ({"route_by_environment": "main", "environment": "a"}, "EnvironmentRouting"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            world.service(**options)  # type: ignore[arg-type]
    for wrong in ({"default": "a/b"}, {"alive": 1}, {"look": 61}, {"look": -1}):
        with pytest.raises(ConfigurationError, match="EnvironmentRouting"):
            EnvironmentRouting(**wrong)  # type: ignore[arg-type]


async def test_subscriptions_that_a_broker_feeds_are_refused(world: World) -> None:
    from tidings.testing.memory import Memory

    both = Environments(world)
    service = both.service("canary", transport=Memory())
    with pytest.raises(ConfigurationError, match="fed by a broker"):
        await service.start()
