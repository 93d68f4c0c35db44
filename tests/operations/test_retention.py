"""How long is kept what: each service's own word, also where several share the tables, and a dead event until somebody decides."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Retry, Service, Subscriptions
from tidings.consume import purging
from tidings.consume.purging import PURGER, Purger
from tidings.errors import ConfigurationError
from tidings.operations import Operations
from tidings.stores import SQLStore
from tidings.stores.sql.audit import Audit

DAY = timedelta(days=1)


class Shop:
    """Makes services whose only handler fails for some events."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bad: set[tuple[str, int]] = set()

    def service(self, name: str = "shop", **options: Any) -> Service:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1))
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, f"{name}/bill", event)
            if (event.order_id, event.number) in self.bad:
                raise ValueError(f"order {event.order_id} is broken")

        return self.world.service(handlers, name=name, **options)


@pytest.fixture
def shop(world: World) -> Shop:
    return Shop(world)


async def purge(service: Service) -> None:
    """Do what the process does once a minute that has the lease."""
    store = service.store
    await store.open()
    lease = await store.call(store.leases.acquire, PURGER, "test", 30.0)
    assert lease is not None
    await Purger(store, service.name, service._retention).step(lease)
    await store.call(store.leases.release, lease)


async def age(world: World, table: str, column: str, days: int) -> None:
    """Make all rows so much older."""
    older = (
        f"{column} - interval '{days} days'"
        if world.kind == "postgresql"
        else f"strftime('%Y-%m-%dT%H:%M:%fZ', {column}, '-{days} days')".replace(":", "\\:")
    )
    await world.execute(f"update tidings_{table} set {column} = {older}")


async def test_a_dead_event_is_kept_until_somebody_decides(world: World, shop: Shop) -> None:
    shop.bad = {("a", 0)}
    service = shop.service()
    async with service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.lanes, [("a", "dead", 1, 1)])
    await age(world, "deliveries", "failed_at", 4000)
    await purge(service)
    assert world.lanes() == [("a", "dead", 1, 1)]
    # Its key waits behind it as long.
    async with service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 0))
        await until_equal(world.effects, [("b", 0)])
        await until_equal(world.lanes, [("a", "dead", 2, 1)])


async def test_with_a_retention_it_is_discarded_with_a_warning_unless_something_waits_behind_it(
    world: World, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.bad = {("a", 0), ("b", 0)}
    service = shop.service(dead_retention=30 * DAY)
    async with service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("b", 0), OrderPlaced("b", 1))
        await until_equal(world.lanes, [("a", "dead", 1, 1), ("b", "dead", 2, 1)])
    await age(world, "deliveries", "failed_at", 29)
    await purge(service)
    assert len(world.lanes()) == 2
    await age(world, "deliveries", "failed_at", 2)
    with caplog.at_level(logging.WARNING, "tidings.upkeep"):
        await purge(service)
    assert world.lanes() == [("b", "dead", 2, 1)]
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tidings.upkeep"]
    assert line.endswith("of shop/bill was discarded: it was dead for longer than dead_retention (30.0 days)")
    # A copy that is read later is known.
    shop.bad.clear()
    await world.read_again()
    async with service:
        await until(lambda: service.counters.of("duplicates") >= 1)
    assert ("a", 0) not in world.effects()


async def test_a_service_with_the_same_tables_throws_nothing_of_ours_away(world: World, shop: Shop) -> None:
    shop.bad = {("a", 0)}
    ours = shop.service("ours", outbox_retention=100 * DAY, inbox_retention=400 * DAY)
    short = shop.service("short", outbox_retention=DAY, inbox_retention=DAY, dead_retention=DAY)
    async with ours, short:
        await world.publish(ours, OrderPlaced("a", 0), OrderPlaced("b", 0))
        await until(lambda: len(world.effects()) == 2 and len(world.lanes()) == 2)
    for table, column in (("deliveries", "failed_at"), ("outbox", "time"), ("inbox", "handled_at")):
        await age(world, table, column, 60)
    kept = "select s.service from tidings_{0} x join tidings_subscriptions s on s.id = x.subscription_id"
    # The one as the other: whoever has the lease.
    for service in (short, ours):
        await purge(service)
        assert world.rows(kept.format("lanes")) == [("ours",)]
        # Of `short`, what it has just discarded is new, and what it has handled is gone.
        assert sorted(world.rows(kept.format("inbox"))) == [("ours",), ("short",)]
        assert world.one("select count(*) from tidings_outbox") == 2
    await age(world, "outbox", "time", 60)
    await purge(short)
    assert world.one("select count(*) from tidings_outbox") == 0


async def test_the_number_of_a_worker_goes_after_the_rows_that_may_name_it(world: World, shop: Shop) -> None:
    service = shop.service(inbox_retention=10 * DAY)
    async with service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.effects, [("a", 0)])
    await purge(service)
    await age(world, "worker_numbers", "gone_at", 10)
    await purge(service)
    assert world.one("select count(*) from tidings_worker_numbers") == 1
    await age(world, "worker_numbers", "gone_at", 2)
    await purge(service)
    assert world.one("select count(*) from tidings_worker_numbers") == 0


async def acted(world: World, *reasons: str) -> None:
    for reason in reasons:
        await Operations(world.store, "shop").discard(reason=reason, key="nobody's")


def audited(world: World) -> int:
    return int(world.one("select count(*) from tidings_audit"))


async def test_what_operators_did_is_kept_for_a_year_or_as_it_is_said(world: World, shop: Shop) -> None:
    service, short, ever = shop.service(), shop.service(operations_retention=DAY), shop.service(operations_retention=None)
    async with service:
        pass
    await acted(world, "one", "two")
    for column in ("time", "changed_at"):
        await age(world, "audit", column, 364)
    await purge(ever)
    await purge(service)
    assert audited(world) == 2
    await acted(world, "three")
    for column in ("time", "changed_at"):
        await age(world, "audit", column, 2)
    await purge(ever)
    assert audited(world) == 3
    await purge(service)
    assert audited(world) == 1, "two are older than a year"
    await purge(short)
    assert audited(world) == 0


async def test_of_services_that_share_tables_the_longest_counts_for_what_operators_did(world: World, shop: Shop) -> None:
    long, short = shop.service("long", operations_retention=100 * DAY), shop.service("short", operations_retention=DAY)
    async with long, short:
        pass
    await acted(world, "one")
    for column in ("time", "changed_at"):
        await age(world, "audit", column, 99)
    await purge(short)
    assert audited(world) == 1
    async with shop.service("ever", operations_retention=None):
        pass
    await age(world, "audit", "changed_at", 99)
    await purge(short)
    assert audited(world) == 1
    # One that was forgotten has no say any more; that this was done is new.
    assert await Operations(world.store).forget_service("ever") is not None
    await purge(short)
    assert world.rows("select action from tidings_audit") == [("forget service",)]


async def test_what_operators_did_is_deleted_under_the_lease_and_in_batches(world: World, shop: Shop) -> None:
    service = shop.service()
    async with service:
        pass
    await acted(world, "one", "two", "three")
    await age(world, "audit", "changed_at", 400)
    store, audit = world.store, Audit(world.store.names, world.store.dialect)
    lease = await store.call(store.leases.acquire, PURGER, "test", 30.0)
    assert lease is not None
    assert await store.transact(audit.purge, lease._replace(token=lease.token - 1), 86400.0, 5) == 0
    assert await store.transact(audit.purge, lease, 86400.0, 2) == 2
    assert audited(world) == 1


@pytest.mark.parametrize("name", ["outbox_retention", "inbox_retention", "dead_retention", "audit_retention", "operations_retention"])
@pytest.mark.parametrize("value", [timedelta(0), -DAY, 7, "7 days"])
def test_a_retention_is_a_time(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}=.*timedelta above 0"):
        Service("shop", store=SQLStore(create_engine("sqlite:///shop.db")), **{name: value})


@pytest.mark.parametrize("name", ["outbox_retention", "inbox_retention"])
def test_log_and_inbox_do_not_grow_for_ever(name: str) -> None:
    nothing: Any = None
    with pytest.raises(ConfigurationError, match=rf"{name}=None: give a timedelta above 0$"):
        Service("shop", store=SQLStore(create_engine("sqlite:///shop.db")), **{name: nothing})


async def test_by_hand_it_goes_on_until_nothing_is_old_enough(world: World, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of dead events a batch is smaller than of all else."""
    shop.bad = {(f"k{number}", 0) for number in range(5)}
    service = shop.service(dead_retention=30 * DAY)
    async with service:
        await world.publish(service, *(OrderPlaced(key, 0) for key, _ in sorted(shop.bad)))
        await until_equal(lambda: len(world.lanes()), 5)
    await age(world, "deliveries", "failed_at", 31)
    monkeypatch.setattr(purging, "_DEAD", 2)
    told: list[int] = []
    await service.store.open()
    assert await purging.purge(service.store, told.append) == 5
    assert world.lanes() == []
    assert told == [2, 4, 5, 5]
