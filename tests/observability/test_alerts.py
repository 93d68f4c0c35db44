"""Alerts are told once when they begin and once when they are over, by one worker, whoever that is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect
from tidings import Breaker, Retry, Service, Subscriptions
from tidings.errors import ConfigurationError
from tidings.observability import alerts
from tidings.observability.alerts import BacklogAlert, BreakerAlert
from tidings.testing.memory import Memory

AGE = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_LOOK", 0.05)


def listening(service: Service) -> list[BacklogAlert | BreakerAlert]:
    told: list[BacklogAlert | BreakerAlert] = []

    @service.on_backlog(age=AGE)
    async def backlog(alert: BacklogAlert) -> None:
        told.append(alert)

    @service.on_breaker
    def breaker(alert: BreakerAlert) -> None:
        told.append(alert)

    return told


async def several_looks() -> None:
    """Let the leased task look a few times more; nothing can be awaited that does not happen."""
    await asyncio.sleep(0.5)


async def test_a_backlog_is_told_once_and_its_end_once(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    reading = world.service(handlers)
    async with reading:
        pass  # registered, and nobody reads any more
    watching = world.service(handlers, roles=["schedule"])
    told = listening(watching)
    async with watching:
        await world.publish(watching, OrderPlaced("a"), OrderPlaced("b"))
        await until(lambda: told)
        await several_looks()
        (alert,) = told
        assert isinstance(alert, BacklogAlert)
        assert (alert.service, alert.group, alert.reader, alert.events, alert.over) == ("shop", "shop", "shop/shop@log", 2, False)
        assert alert.age >= AGE
        async with world.service(handlers, engine=world.another_engine()):
            await until(lambda: len(told) == 2)
            await several_looks()
        assert len(told) == 2
        end = told[1]
        assert isinstance(end, BacklogAlert)
        assert end.over
        assert end.since == alert.since


async def test_whoever_takes_over_does_not_tell_again(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    async with world.service(handlers):
        pass
    first = world.service(handlers, roles=["schedule"])
    told_first = listening(first)
    async with first:
        await world.publish(first, OrderPlaced("a"))
        await until(lambda: told_first)
    second = world.service(handlers, roles=["schedule"], engine=world.another_engine())
    told_second = listening(second)
    async with second:
        await until(lambda: world.one("select owner from tidings_checkpoints where reader = 'task:alerts:shop'") is not None)
        await several_looks()
        assert told_second == []
        async with world.service(handlers, engine=world.another_engine()):
            await until(lambda: told_second)
    assert [alert.over for alert in told_second] == [True]


async def test_several_workers_tell_it_once(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    async with world.service(handlers):
        pass
    services = [world.service(handlers, roles=["schedule"], engine=world.another_engine()) for _ in range(3)]
    told = [listening(service) for service in services]
    async with AsyncExitStack() as stack:
        for service in services:
            await stack.enter_async_context(service)
        await world.publish(services[0], OrderPlaced("a"))
        await until(lambda: any(told))
        await several_looks()
    assert sum(map(len, told)) == 1


async def test_a_breaker_is_told_once_however_often_it_probes(world: World) -> None:
    handlers = Subscriptions()
    down = True

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=50, base=0.05, max=0.1), breaker=Breaker(keys=2, pause=0.05, longest=0.1))
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        if down:
            raise ConnectionError("the bank is closed")
        await effect(session, "work", event)

    service = world.service(handlers)
    told = listening(service)
    async with service:
        await world.publish(service, *(OrderPlaced(str(n)) for n in range(20)))
        await until(lambda: any(isinstance(alert, BreakerAlert) for alert in told))
        await several_looks()
        down = False
        await until(lambda: any(alert.over for alert in told if isinstance(alert, BreakerAlert)))
        await several_looks()
    breaker = [alert for alert in told if isinstance(alert, BreakerAlert)]
    assert [alert.over for alert in breaker] == [False, True]
    assert breaker[0].subscription == "shop/work"
    assert "the bank is closed" in breaker[0].reason


async def test_a_broker_that_is_down_is_a_breaker_of_its_relay(world: World) -> None:
    broker = Memory()
    service = world.service(transport=broker)
    told = listening(service)
    async with service:
        await until(lambda: world.one("select owner from tidings_checkpoints where kind = 'log'") is not None)
        broker.stop()
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: told)
        assert isinstance(told[0], BreakerAlert)
        assert (told[0].subscription, told[0].over) == ("relay:memory", False)
        broker.start()
        await until(lambda: any(isinstance(alert, BreakerAlert) and alert.over for alert in told))


async def test_a_callback_that_fails_stops_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    broker = Memory()
    service = world.service(transport=broker)

    @service.on_breaker
    def break_(alert: BreakerAlert) -> None:
        raise RuntimeError("no network")

    told = listening(service)
    async with service:
        broker.stop()
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: told)
    assert "a callback for BreakerAlert failed" in caplog.text


async def test_an_age_of_nothing_is_refused(world: World) -> None:
    with pytest.raises(ConfigurationError, match="a second or more"):
        world.service().on_backlog(age=timedelta(0))
