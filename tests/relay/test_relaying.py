"""A service that relays to a broker: what is committed arrives, in order, and the checkpoint follows what was confirmed."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import MailWanted, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tests.relay.sent import in_order, numbers, orders, relaying, sent
from tidings import Subscriptions
from tidings.testing.memory import Memory
from tidings.transports.base import Failure

FAILURES: list[Failure] = ["atomic", "prefix", "independent"]


@pytest.fixture(params=FAILURES)
def broker(request: pytest.FixtureRequest) -> Memory:
    return Memory(request.param)


async def test_what_is_committed_arrives_in_order(world: World, broker: Memory) -> None:
    events = orders(1, 300)
    async with relaying(world, broker) as service:
        for first in range(0, 300, 50):
            await world.publish(service, *events[first : first + 50])
        await until_equal(lambda: len(sent(broker)), 300)
    assert in_order(sent(broker), events)


async def test_what_was_published_before_any_relay_ran_arrives(world: World, broker: Memory) -> None:
    service = relaying(world, broker)
    await world.publish(service, *orders(1, 20))
    async with service:
        await until_equal(lambda: len(sent(broker)), 20)


async def test_nothing_is_sent_again_after_a_restart(world: World, broker: Memory) -> None:
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(1, 50))
        await until_equal(lambda: len(sent(broker)), 50)
    async with relaying(world, broker) as service:
        await world.publish(service, *orders(51, 60))
        await until_equal(lambda: len(sent(broker)), 60)
    assert in_order(sent(broker), orders(1, 60))


async def test_events_without_key_arrive(world: World, broker: Memory) -> None:
    async with relaying(world, broker) as service:
        await world.publish(service, *(MailWanted("a@b", number) for number in range(5)))
        await until_equal(lambda: sorted(numbers(sent(broker, "mail.wanted"))), list(range(5)))


async def test_an_event_reaches_the_broker_and_the_services_own_subscribers(world: World, broker: Memory) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "charge", event)

    service = world.service(handlers, transport=broker)
    async with service:
        await world.publish(service, *orders(1, 10))
        await until_equal(lambda: len(sent(broker)), 10)
        await until_equal(lambda: len(world.effects()), 10)


async def test_another_services_events_in_the_same_tables_are_not_sent(world: World, broker: Memory) -> None:
    other = world.service(name="other")
    async with relaying(world, broker) as service:
        await world.publish(other, OrderPlaced("a", 1))
        await world.publish(service, OrderPlaced("a", 2))
        await until_equal(lambda: numbers(sent(broker)), [2])
        await until(lambda: world.one("select count(*) from tidings_checkpoints where kind = 'log'") == 1)


async def test_a_process_without_the_role_sends_nothing(world: World, broker: Memory) -> None:
    service = relaying(world, broker)
    await service.start(["consume", "schedule"])
    await world.publish(service, OrderPlaced("a", 1))
    assert service._runtime is not None
    assert not service._runtime.relays
    await service.stop()
    assert not broker.topics


async def test_what_has_expired_is_not_sent_and_holds_nothing_up(world: World, broker: Memory) -> None:
    service = relaying(world, broker)
    await world.publish(service, OrderPlaced("a", 1), expires=timedelta(milliseconds=30))
    await world.publish(service, OrderPlaced("a", 2), expires=timedelta(hours=1))
    await asyncio.sleep(0.05)
    async with service:
        await until_equal(lambda: numbers(sent(broker)), [2])
        await until_equal(lambda: service.counters.of("expired"), 1)
