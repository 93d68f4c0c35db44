"""A service that is gone for good is forgotten: the log is not kept for it any more, and it hinders nobody. It may come back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tests.operations.test_retention import age, purge
from tidings import Retry, Service, Subscriptions
from tidings.errors import ConfigurationError, StillRunning
from tidings.observability.status import gather
from tidings.operations import Operations

DAY = timedelta(days=1)


def make(world: World, name: str, *bad: str, **options: Any) -> Service:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1))
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, f"{name}/bill", event)
        if event.order_id in bad:
            raise ValueError("broken")

    return world.service(handlers, name=name, **options)


def operations(world: World, service: str | None = None) -> Operations:
    return Operations(world.store, service, "cli:eve")


def audited(world: World) -> list[tuple[Any, ...]]:
    rows = world.rows("select actor, action, target, count, outcome from tidings_audit order by number")
    return [
        (actor, action, json.loads(target) if isinstance(target, str) else target, count, outcome)
        for actor, action, target, count, outcome in rows
    ]


async def test_the_log_is_not_kept_any_longer_for_a_service_that_is_forgotten(world: World) -> None:
    gone = make(world, "gone", outbox_retention=100 * DAY, inbox_retention=400 * DAY)
    ours = make(world, "ours", outbox_retention=DAY)
    async with gone, ours:
        await world.publish(ours, OrderPlaced("a", 0))
        await until_equal(world.effects, [("a", 0), ("a", 0)])
    async with ours:
        # Read by nobody of the other service, which is behind with that.
        await world.publish(ours, OrderPlaced("b", 0))
        await until_equal(lambda: len(world.effects()), 3)
    await age(world, "outbox", "time", 60)
    await purge(ours)
    assert world.one("select count(*) from tidings_outbox") == 2
    states = {item.name: item for item in await operations(world).services()}
    assert (states["gone"].state, states["gone"].groups, states["gone"].subscriptions) == ("stopped", ("gone",), 1)
    assert (states["gone"].outbox, states["gone"].inbox, states["gone"].holds_log) == (100 * 86400.0, 400 * 86400.0, True)

    found = await operations(world).forget_service("gone")
    assert found is not None
    assert (found.groups, found.subscriptions, found.parked) == (("gone",), ("gone/bill",), 0)
    await purge(ours)
    assert world.one("select count(*) from tidings_outbox") == 0
    states = {item.name: item for item in await operations(world).services()}
    assert (states["gone"].state, states["gone"].groups, states["gone"].holds_log) == ("forgotten", (), False)
    assert states["ours"].state == "stopped"
    assert audited(world) == [("cli:eve", "forget service", {"service": "gone"}, 1, "done")]
    # Nothing asks for its workers any more.
    assert not any("gone" in problem for problem in (await gather(world.store)).problems)
    # What it has handled is remembered for as long as it wanted.
    await age(world, "inbox", "handled_at", 60)
    await purge(ours)
    assert world.rows("select s.service from tidings_inbox i join tidings_subscriptions s on s.id = i.subscription_id") == [("gone",)]


async def test_a_service_of_which_a_worker_is_alive_is_not_forgotten(world: World) -> None:
    service = make(world, "ours")
    async with service:
        with pytest.raises(StillRunning, match=r"workers of service 'ours' are alive \(\S+:\d+\)"):
            await operations(world).forget_service("ours")
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.effects, [("a", 0)])
    assert audited(world) == []


async def test_whoever_has_just_registered_is_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make(world, "ours")
    alive: list[str] = []
    add_task = world.store.registry.add_task

    def slow(connection: Any, task: str) -> None:
        rows = connection.exec_driver_sql("select count(*) from tidings_workers").scalar_one()
        alive.append(str(rows))
        add_task(connection, task)

    monkeypatch.setattr(service.store.registry, "add_task", slow)
    async with service:
        pass
    assert alive
    assert set(alive) == {"1"}


async def test_a_service_that_comes_back_is_active_again_and_repeats_nothing(world: World) -> None:
    service = make(world, "ours", outbox_retention=3 * DAY)
    async with service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.effects, [("a", 0)])
    assert await operations(world).forget_service("ours") is not None
    again = make(world, "ours", outbox_retention=3 * DAY)
    async with again:
        await world.publish(again, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 0), ("a", 1)])
        (state,) = await operations(world).services()
        assert (state.state, state.groups, state.outbox) == ("running", ("ours",), 3 * 86400.0)


async def test_what_is_parked_stays_until_somebody_gives_it_up(world: World) -> None:
    service = make(world, "ours", "a")
    async with service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.lanes, [("a", "dead", 1, 1)])
    found = await operations(world).forget_service("ours")
    assert found is not None
    assert found.parked == 1
    assert world.lanes() == [("a", "dead", 1, 1)]
    assert await operations(world).discard(reason="its service is gone", subscription="ours/bill") == 1


async def test_there_is_nothing_to_forget_of_a_service_that_nobody_knows_or_that_is_forgotten(world: World) -> None:
    async with make(world, "ours"):
        pass
    assert await operations(world).forget_service("theirs") is None
    assert await operations(world).forget_service("ours") is not None
    assert await operations(world).forget_service("ours") is None
    assert [(action, outcome) for _, action, _, _, outcome in audited(world)] == [
        ("forget service", "not found"),
        ("forget service", "done"),
        ("forget service", "not found"),
    ]


async def test_retiring_is_in_the_audit_and_happens_once(world: World) -> None:
    service = make(world, "ours")
    async with service:
        with pytest.raises(StillRunning, match="a worker reads for group 'ours' right now"):
            await until_refused(world)
    mine = operations(world, "ours")
    assert await mine.retire_subscription("ours", "bill")
    assert not await mine.retire_subscription("ours", "bill")
    assert await mine.retire_group("ours")
    assert not await mine.retire_group("ours")
    with pytest.raises(ConfigurationError, match="say which service"):
        await operations(world).retire_group("ours")
    assert audited(world) == [
        ("cli:eve", "retire subscription", {"service": "ours", "subscription": "ours/bill"}, 1, "done"),
        ("cli:eve", "retire subscription", {"service": "ours", "subscription": "ours/bill"}, 0, "not found"),
        ("cli:eve", "retire group", {"service": "ours", "group": "ours"}, 1, "done"),
        ("cli:eve", "retire group", {"service": "ours", "group": "ours"}, 0, "not found"),
    ]


async def until_refused(world: World) -> None:
    """Wait until the worker has the lease, then try."""
    await until_equal(lambda: world.one("select count(*) from tidings_checkpoints where kind = 'log' and lease_until is not null"), 1)
    await operations(world, "ours").retire_group("ours")
