"""The broker, or the connection to it, fails: nothing is lost, no key is inverted, and whoever looks can see it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from datetime import datetime

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World
from tests.relay.sent import first_sendings, in_order, numbers, orders, relaying, sent
from tidings.errors import ConfigurationError, MissingExtra, ProvisionError
from tidings.stores.sql.queries import Queries
from tidings.testing.memory import Memory
from tidings.transports.base import Failure

FAILURES: list[Failure] = ["atomic", "prefix", "independent"]


@pytest.fixture(params=FAILURES)
def broker(request: pytest.FixtureRequest) -> Memory:
    return Memory(request.param)


async def test_lost_confirmations_are_made_good(world: World, broker: Memory) -> None:
    events = orders(1, 400)
    async with relaying(world, broker) as service:
        for first in range(0, 400, 40):
            broker.lose_confirmations(first % 31)
            await world.publish(service, *events[first : first + 40])
            await until_equal(lambda done=first + 40: len(first_sendings(sent(broker))), first + 40)  # type: ignore[misc]
    assert in_order(sent(broker), events)
    assert len(sent(broker)) >= 400


async def test_a_broker_that_is_down_stops_the_relay_and_nothing_else(world: World, broker: Memory) -> None:
    service = relaying(world, broker)
    service.tuning.events = 50
    async with service:
        await world.publish(service, *orders(1, 20))
        await until_equal(lambda: len(sent(broker)), 20)
        broker.stop()
        for first in range(21, 521, 100):
            await world.publish(service, *orders(first, first + 99))
        await until(lambda: state_of(world)[0] == "open")
        assert "stopped" in state_of(world)[1]
        # In the log, not in memory and not among the deliveries.
        assert world.deliveries() == []
        broker.start()
        await until_equal(lambda: len(first_sendings(sent(broker))), 520)
        await until_equal(lambda: state_of(world)[0], None)
    assert in_order(sent(broker), orders(1, 520))


def state_of(world: World) -> tuple[str | None, str]:
    return world.rows("select breaker, breaker_reason from tidings_subscriptions where name = 'relay:memory'")[0]


async def test_a_broker_that_is_down_at_start_does_not_keep_the_service_from_starting(
    world: World, broker: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    with caplog.at_level(logging.WARNING):
        async with relaying(world, broker) as service:
            await world.publish(service, *orders(1, 5))
            await until(lambda: state_of(world)[0] == "open")
            broker.start()
            await until_equal(lambda: len(sent(broker)), 5)
    assert "the service starts without it" in caplog.text


async def test_what_cannot_be_used_any_more_is_tried_again_in_a_process_that_is_running(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Memory()
    there = False

    async def connect() -> object:
        if not there:
            raise ConfigurationError("memory: cafile='/run/ca.pem' is not there")
        return await Memory.publisher(broker)

    monkeypatch.setattr(broker, "publisher", connect)
    with caplog.at_level(logging.INFO):
        async with relaying(world, broker) as service:
            await world.publish(service, *orders(1, 5))
            await until(lambda: state_of(world) == ("open", "memory: cafile='/run/ca.pem' is not there"))
            there = True
            await until_equal(lambda: len(sent(broker)), 5)
    (again,) = [record for record in caplog.records if "connected again after" in record.getMessage()]
    assert again.__dict__["transport"] == "memory"


async def test_a_broker_that_does_not_answer_does_not_either(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Memory()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(broker, "provision", never)
    service = relaying(world, broker)
    service.tuning.first_contact = 0.05
    async with service:
        await world.publish(service, *orders(1, 5))
        await until(lambda: service._runtime is not None and service._runtime.relays[0].reach.told is None)


async def test_a_topic_that_is_not_there_is_an_error_at_start_when_nothing_may_be_made(world: World) -> None:
    with pytest.raises(ProvisionError, match="there is no topic"):
        await relaying(world, Memory(), provision="verify").start()


async def test_what_cannot_be_an_address_is_an_error_at_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Memory()

    async def wrong(*_: object) -> None:
        raise ValueError("Port could not be cast to integer value")

    monkeypatch.setattr(broker, "provision", wrong)
    with pytest.raises(ConfigurationError, match="memory.*cannot be used as it is configured: Port"):
        await relaying(world, broker).start()


async def test_a_missing_client_is_an_error_at_start(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tidings.transports import RabbitMQ

    monkeypatch.setitem(sys.modules, "aiormq", None)
    with pytest.raises(MissingExtra, match=r"tidings\[rabbitmq\]"):
        await relaying(world, RabbitMQ("amqp://localhost:1")).start()


def lease(world: World) -> tuple[int, str | None]:
    found: tuple[int, str | None] = world.rows("select lease_token, owner from tidings_checkpoints where kind = 'log'")[0]  # type: ignore[assignment]
    return found


async def seen(world: World) -> tuple[str | None, datetime | None]:
    """Return what `tidings status` says of the broker, and since when."""
    queries = Queries(world.store.names, world.store.dialect)
    (found,) = [one for one in await world.store.call(queries.subscriptions) if one.name == "relay:memory"]
    return found.breaker, found.breaker_since


async def test_a_process_that_is_cut_off_leaves_the_lease_to_one_that_is_not(world: World) -> None:
    cut_off, broker = Memory(), Memory()
    cut_off.stop()
    first, second = relaying(world, cut_off), relaying(world, broker, engine=world.another_engine())
    first.tuning.lease = second.tuning.lease = 1.0
    async with first:
        await until(lambda: state_of(world)[0] == "open")
        await world.publish(first, *orders(1, 20))
        async with second:
            await until_equal(lambda: len(sent(broker)), 20)
            await until_equal(lambda: state_of(world)[0], None)
            # And it keeps it.
            token, owner = lease(world)
            assert second._runtime is not None
            assert owner == second._runtime.worker
            await world.publish(first, *orders(21, 40))
            await until_equal(lambda: len(sent(broker)), 40)
            assert lease(world) == (token, owner)
    assert in_order(sent(broker), orders(1, 40))


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_lease_that_is_given_up_changes_nothing_of_what_can_be_seen(
    pg_world: World, processes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Since when the broker is down does not depend on who tries, or on whether somebody does at the moment."""
    world, broker = pg_world, Memory()
    broker.stop()
    services = [relaying(world, broker, engine=world.another_engine()) for _ in range(processes)]
    for service in services:
        service.tuning.lease = 0.5
    async with AsyncExitStack() as stack:
        for service in services:
            await stack.enter_async_context(service)
        await until(lambda: state_of(world)[0] == "open")
        await world.publish(services[0], *orders(1, 20))
        began, owners, looks = (await seen(world))[1], set(), 0
        assert began is not None
        # Every process has had it, and it was given up several times.
        while len(owners - {None}) < processes or caplog.text.count("the lease is given up") < 4:
            owners.add(lease(world)[1])
            state, since = await seen(world)
            assert state == "open"
            assert since is not None
            assert abs((since - began).total_seconds()) < 0.5
            looks += 1
            await asyncio.sleep(0.02)
        # Some of them while nobody had it.
        assert None in owners
        assert looks > 20
        broker.start()
        await until_equal(lambda: len(sent(broker)), 20)
        await until_equal(lambda: state_of(world)[0], None)
        assert await seen(world) == ("closed", None)
    assert in_order(sent(broker), orders(1, 20))


async def test_a_broker_that_is_away_for_a_moment_costs_no_lease(world: World, broker: Memory, caplog: pytest.LogCaptureFixture) -> None:
    async with relaying(world, broker) as service:
        service.tuning.lease = 60.0
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session)
        broker.stop()
        await world.publish(service, *orders(1, 20))
        await until(lambda: caplog.text.count("the broker cannot be used") >= 10)
        broker.start()
        await until_equal(lambda: len(sent(broker)), 20)
    assert "the lease is given up" not in caplog.text


@pytest.mark.parametrize("failure", FAILURES)
async def test_two_relays_that_overlap_may_send_twice_and_never_skip_or_invert(world: World, failure: Failure) -> None:
    """One of them is stopped in the middle of a call, as a paused process is, and goes on when the other one has taken over."""
    broker = Memory(failure)
    gate = asyncio.Event()
    gate.set()
    reached = asyncio.Event()

    class Slow(Memory):
        async def publisher(self):  # type: ignore[no-untyped-def]
            inner = await broker.publisher()
            publish = inner.publish

            async def held(batch):  # type: ignore[no-untyped-def]
                if not gate.is_set():
                    reached.set()
                    await gate.wait()
                return await publish(batch)

            inner.publish = held  # type: ignore[method-assign]
            return inner

        async def provision(self, *arguments):  # type: ignore[no-untyped-def]
            await broker.provision(*arguments)

    first, second = relaying(world, Slow(failure)), relaying(world, broker, engine=world.another_engine())
    events = orders(1, 300, keys=5)
    await first.start()
    await world.publish(first, *events[:100])
    await until_equal(lambda: len(sent(broker)), 100)
    gate.clear()
    await world.publish(first, *events[100:200])
    await reached.wait()
    # The lease is taken from under it.
    await world.execute("update tidings_checkpoints set lease_until = null, owner = null where kind = 'log'")
    await second.start()
    await until_equal(lambda: len(first_sendings(sent(broker))), 200)
    gate.set()
    await world.publish(second, *events[200:])
    await until_equal(lambda: len(first_sendings(sent(broker))), 300)
    await first.stop()
    await second.stop()
    assert in_order(sent(broker), events)


async def test_a_relay_whose_lease_may_have_run_out_sends_nothing(world: World, broker: Memory) -> None:
    service = relaying(world, broker)
    async with service:
        await until(lambda: service._runtime is not None and service._runtime.relays[0]._session)
        assert service._runtime is not None
        relay = service._runtime.relays[0]
        assert relay._session is not None
        tenure = relay._session.tenure
        tenure.until = 0.0
        await world.publish(service, OrderPlaced("a", 1))
        # It notices, takes the lease anew and sends under that one.
        await until_equal(lambda: numbers(sent(broker)), [1])
        assert relay._session is not None
        assert relay._session.tenure is not tenure
