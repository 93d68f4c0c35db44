"""The broker, or the store, is down: nothing is lost, nothing spins, and whoever looks can see it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.cli.conftest import CommandLine
from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tests.inbound.shops import fast, in_order, orders, receiving
from tests.relay.test_command_line import run
from tidings import Subscriptions
from tidings.errors import ProvisionError
from tidings.stores.sql.errors import UNAVAILABLE
from tidings.testing.memory import Memory, MemoryLog


@pytest.fixture(params=[Memory, MemoryLog])
def broker(request: pytest.FixtureRequest) -> Memory:
    made: Memory = request.param()
    return made


def state_of(world: World) -> Any:
    return world.one("select breaker from tidings_subscriptions where name = 'inbound:memory'")


async def test_a_broker_that_goes_down_is_seen_and_comes_back(world: World, broker: Memory, cli: CommandLine) -> None:
    async with receiving(world, broker), fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(1, 50))
        await until_equal(lambda: len(world.effects()), 50)
        (shown,) = (await run(cli, world, "status", "--json")).json["inbound"]
        assert (shown["inbound"], shown["broker"]) == ("billing/inbound:memory", "connected")
        broker.stop()
        await until_equal(lambda: state_of(world), "open")
        ended = await run(cli, world, "status")
        assert ended.exit_code == 1
        assert "billing/inbound:memory: its broker has been down" in ended.out
        (shown,) = (await run(cli, world, "status", "--json")).json["inbound"]
        assert shown["broker"] == "down"
        assert "stopped" in shown["reason"]
        await world.publish(publisher, *orders(51, 100))
        broker.start()
        await until_equal(lambda: len(world.effects()), 100)
        await until_equal(lambda: state_of(world), None)
    assert in_order(world.effects(), orders(1, 100))


async def test_the_service_starts_while_its_broker_is_down(world: World, broker: Memory, caplog: pytest.LogCaptureFixture) -> None:
    broker.stop()
    with caplog.at_level(logging.WARNING):
        async with receiving(world, broker) as service:
            await until_equal(lambda: state_of(world), "open")
            broker.start()
            await world.publish(service, *orders(1, 5))
            await until_equal(lambda: len(world.effects()), 5)
    assert "the service starts without it" in caplog.text


async def test_a_topic_that_is_not_there_is_an_error_at_start_when_nothing_may_be_made(world: World, broker: Memory) -> None:
    with pytest.raises(ProvisionError, match="there is no topic"):
        await receiving(world, broker, provision="verify").start(["consume"])


async def test_a_process_that_is_cut_off_leaves_the_lease_to_one_that_is_not(world: World) -> None:
    cut_off, broker = MemoryLog(), MemoryLog()
    cut_off.stop()
    first, second = receiving(world, cut_off), receiving(world, broker, engine=world.another_engine())
    first.tuning.lease = second.tuning.lease = 1.0
    async with first, fast(world.service(name="shop", transport=broker)) as publisher:
        await until_equal(lambda: state_of(world), "open")
        await world.publish(publisher, *orders(1, 20))
        async with second:
            await until_equal(lambda: len(world.effects()), 20)
            await until_equal(lambda: state_of(world), None)
    assert in_order(world.effects(), orders(1, 20))


async def test_connections_that_are_lost_again_and_again_lose_nothing(world: World, broker: Memory) -> None:
    events = orders(1, 400, keys=20)
    async with receiving(world, broker), fast(world.service(name="shop", transport=broker)) as publisher:
        for first in range(0, 400, 40):
            await world.publish(publisher, *events[first : first + 40])
            await asyncio.sleep(0.02)
            broker.stop()
            await asyncio.sleep(0)
            broker.start()
        await until_equal(lambda: len(world.effects()), 400)
    assert in_order(world.effects(), events)


async def test_a_store_that_is_down_stops_receiving_and_nothing_is_lost(
    world: World, broker: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every statement fails for a while, as when the server is gone."""
    service = receiving(world, broker)
    down = False
    asked = 0
    connections = service.store.connections
    autocommit, transaction = connections.autocommit, connections.transaction

    def failing(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal asked
            if down:
                asked += 1
                raise OSError("the server is gone")
            return method(*arguments)

        return call

    assert OSError in UNAVAILABLE or issubclass(OSError, UNAVAILABLE)
    publisher = fast(world.service(name="shop", transport=broker, engine=world.another_engine()))
    async with publisher, service:
        await world.publish(publisher, *orders(1, 20))
        await until_equal(lambda: len(world.effects()), 20)
        monkeypatch.setattr(connections, "autocommit", failing(autocommit))
        monkeypatch.setattr(connections, "transaction", failing(transaction))
        down = True
        await world.transact(lambda session: [publisher.publish(session, event) for event in orders(21, 60)])
        await until(lambda: len(broker.topics["order.placed"]) == 60)
        await asyncio.sleep(1.0)
        assert len(world.effects()) == 20
        # It waits between its attempts.
        assert asked < 200
        down = False
        await until_equal(lambda: len(world.effects()), 60)
    assert in_order(world.effects(), orders(1, 60))


async def test_what_is_in_memory_has_a_bound(world: World, broker: Memory) -> None:
    service = receiving(world, broker)
    service.tuning.events = 30
    async with fast(world.service(name="shop", transport=broker)) as publisher, service:
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].session)
        await service.operations.pause("charge")
        assert service._runtime is not None
        (subscriber,) = service._runtime.subscribers
        await until(lambda: subscriber.session is not None and subscriber.session.pools[0].paused)
        await world.publish(publisher, *orders(1, 200))
        await until(lambda: len(broker.topics["order.placed"]) == 200)
        await until(lambda: subscriber.session is not None and subscriber.session._in_memory == 30)
        assert subscriber.session is not None
        assert subscriber.session.received <= 60
        assert world.effects() == []
        await service.operations.resume("charge")
        await until_equal(lambda: len(world.effects()), 200)
    assert in_order(world.effects(), orders(1, 200))


async def test_stopping_finishes_what_is_under_way_and_hands_back_the_rest(world: World, broker: Memory) -> None:
    handlers = Subscriptions()
    began = asyncio.Event()

    @handlers.subscribe(OrderPlaced, concurrency=1, shared=False)
    async def charge(event: OrderPlaced, session: AsyncSession) -> None:
        began.set()
        await asyncio.sleep(0.05)
        await effect(session, "charge", event)

    async with fast(world.service(name="shop", transport=broker)) as publisher:
        async with receiving(world, broker, handlers):
            await world.publish(publisher, *orders(1, 20))
            await began.wait()
        handled = len(world.effects())
        assert 1 <= handled < 20
        async with receiving(world, broker, handlers) as service:
            await until_equal(lambda: len(world.effects()), 20)
            assert service.counters.of("duplicates") == 0
    assert in_order(world.effects(), orders(1, 20))
    assert world.deliveries() == []


#: What a process says that handles events one at a time.
WARY = "events are handled one at a time"


async def crashed(world: World) -> None:
    """Leave behind what two processes do that are gone, or cannot reach the store."""
    for number in (1, 2):
        await world.execute(f"""
            insert into tidings_checkpoints (reader, shard, service, group_name, kind, owner, lease_until, moved_at)
            select reader || '#gone-{number}', 0, service, group_name, 'session', 'gone-{number}', moved_at, moved_at
            from tidings_checkpoints where kind = 'queue'
        """)
    await world.execute("update tidings_checkpoints set restarts = 2 where kind = 'stream'")


async def test_a_process_that_comes_back_to_the_store_does_not_take_others_for_crashed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """After an outage that is longer than the leases, the first one back sees nobody else."""
    broker = Memory()
    async with receiving(world, broker) as service, fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(1, 5))
        await until_equal(lambda: len(world.effects()), 5)
        assert service._runtime is not None
        (subscriber,) = service._runtime.subscribers
        session = subscriber.session
        await crashed(world)
        # It leaves, and comes back.
        await world.execute("update tidings_checkpoints set lease_token = lease_token + 1 where kind = 'queue'")
        await until(lambda: subscriber.session not in (None, session))
        await world.publish(publisher, *orders(6, 10))
        await until_equal(lambda: len(world.effects()), 10)
    assert WARY not in caplog.text
    # One that starts does, because it may be one of those that have crashed.
    async with receiving(world, broker), fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(11, 15))
        await until_equal(lambda: len(world.effects()), 15)
    assert WARY in caplog.text


async def test_what_has_been_handled_one_at_a_time_is_over_when_a_connection_is_lost(
    world: World, broker: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving(world, broker):
        pass
    await crashed(world)
    async with receiving(world, broker) as service, fast(world.service(name="shop", transport=broker)) as publisher:
        await world.publish(publisher, *orders(1, 5))
        await until_equal(lambda: len(world.effects()), 5)
        assert service._runtime is not None
        (subscriber,) = service._runtime.subscribers
        await until(lambda: subscriber.session is not None and not subscriber.session.careful)
        assert caplog.text.count(WARY) == 1
        broker.stop()
        await until_equal(lambda: state_of(world), "open")
        broker.start()
        await world.publish(publisher, *orders(6, 10))
        await until_equal(lambda: len(world.effects()), 10)
    assert caplog.text.count(WARY) == 1
