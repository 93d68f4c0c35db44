"""Starting and stopping: what is under way is finished or handed back, and an interrupted attempt is not a failure (invariant 11)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import Envelope, Publish, Retry, Service, Subscriptions
from tidings.errors import ConfigurationError, SchemaError


def released(world: World) -> bool:
    """Whether nobody holds a lease or is seen as a worker."""
    owners = world.rows("select owner, lease_until from tidings_checkpoints")
    return all(row == (None, None) for row in owners) and world.rows("select * from tidings_workers") == []


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_handler_under_way_is_finished_within_the_grace_time(world: World, kind: str) -> None:
    handlers = Subscriptions()
    entered, leave = threading.Event(), threading.Event()

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        entered.set()
        await until(leave.is_set)

    def handle_in_thread(event: OrderPlaced, session: Session, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        effect_sync(session, "handle", event)
        entered.set()
        leave.wait(30)

    function: Any = handle if kind == "async def" else handle_in_thread
    handlers.subscribe(OrderPlaced, name="handle")(function)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(entered.is_set)
        stopping = asyncio.create_task(service.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        leave.set()
        await stopping
    assert world.effects() == [("a", 1)]
    assert len(world.published("order.billed")) == 1
    assert released(world)
    again = world.service(handlers)
    async with again:
        await world.publish(again, OrderPlaced("a", 2))
        await until_equal(world.effects, [("a", 1), ("a", 2)])
    assert again.counters.of("duplicates") == 0


@pytest.mark.parametrize("behaviour", ["waits", "swallows"])
async def test_a_handler_that_takes_longer_is_rolled_back_and_runs_again_uncounted(world: World, behaviour: str) -> None:
    handlers = Subscriptions()
    attempts: list[int] = []
    entered = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope, publish: Publish) -> None:
        attempts.append(envelope.attempt)
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        if len(attempts) == 1:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if behaviour == "waits":
                    raise

    service = world.service(handlers, grace=0.1)
    async with service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("a", 2))
        await entered.wait()
    assert (world.effects(), world.deliveries()) == ([], [])
    assert world.rows("select owner from tidings_checkpoints where kind = 'log'") == [(None,)]
    async with world.service(handlers) as again:
        await until_equal(world.effects, [("a", 1), ("a", 2)])
        assert again.counters.of("failed") == 0
    assert attempts == [1, 1, 1]
    assert len(world.published("order.billed")) == 2


@pytest.mark.parametrize("plain", [False, True])
async def test_an_interrupted_retry_is_not_counted(world: World, plain: bool) -> None:
    handlers = Subscriptions()
    attempts: list[int] = []
    entered = asyncio.Event()

    async def attempt(envelope: Envelope) -> None:
        attempts.append(envelope.attempt)
        if len(attempts) == 1:
            raise ValueError("no luck")
        if len(attempts) == 2:
            entered.set()
            await asyncio.Event().wait()

    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        await attempt(envelope)

    async def handle_plain(event: OrderPlaced, envelope: Envelope) -> None:
        await attempt(envelope)

    function: Any = handle_plain if plain else handle
    handlers.subscribe(OrderPlaced, name="handle", retry=Retry(attempts=3, base=0.01))(function)
    service = world.service(handlers, grace=0.1)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await entered.wait()
    assert world.lanes() == [("a", "retrying", 1, 1)]
    async with world.service(handlers):
        await until_equal(world.lanes, [])
    assert attempts == [1, 2, 2]


async def test_an_event_that_follows_a_retried_one_is_interrupted_with_no_attempt(world: World) -> None:
    handlers = Subscriptions()
    attempts: list[tuple[int, int]] = []
    entered = asyncio.Event()

    @handlers.subscribe(OrderPlaced, shared=False, retry=Retry(attempts=9, base=0.01, factor=1))
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        attempts.append((event.number, envelope.attempt))
        if event.number == 1 and envelope.attempt < 4:
            raise ValueError("no luck")
        if event.number == 2 and not entered.is_set():
            entered.set()
            await asyncio.Event().wait()

    service = world.service(handlers, grace=0.1)
    async with service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("a", 2))
        await entered.wait()
    assert world.lanes() == [("a", "retrying", 1, 0)]
    async with world.service(handlers):
        await until_equal(world.lanes, [])
    assert attempts == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 1)]


async def test_a_backlog_is_left_for_later(world: World) -> None:
    """Stopping finishes what runs, not everything that was read."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, concurrency=2, shared=False)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await asyncio.sleep(0.02)
        await effect(session, "handle", event)

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(500)))
    async with service:
        await until(lambda: service.counters.of("handled") > 0)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    assert 0 < len(world.effects()) < 400
    assert released(world)
    again = world.service(handlers)
    seen = len(world.effects())
    async with again:
        await until(lambda: again.counters.of("handled") > 5)
    assert again.counters.of("duplicates") <= 2
    assert len(world.effects()) > seen
    assert len(set(world.effects())) == len(world.effects())


async def test_stopping_gives_everything_back(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    service = world.service(handlers)
    tasks = asyncio.all_tasks()
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
        assert world.one("select count(*) from tidings_workers") == 1
        assert not released(world)
    assert released(world)
    assert asyncio.all_tasks() == tasks
    assert world.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert world.one("select sum(value) from tidings_stats where measure = 'handled'") == 1


async def test_a_service_can_be_started_again_and_stopped_as_often_as_one_likes(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, session: Session) -> None:
        effect_sync(session, "handle", event)

    service = world.service(handlers)
    await service.stop()
    for number in range(3):
        await service.start()
        with pytest.raises(ConfigurationError, match="service 'shop' is running already"):
            await service.start()
        await world.publish(service, OrderPlaced("a", number))
        await until(lambda number=number: len(world.effects()) == number + 1)  # type: ignore[misc]
        await service.stop()
        await service.stop()
    assert world.effects() == [("a", 0), ("a", 1), ("a", 2)]


async def test_an_error_in_the_block_stops_the_service_too(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced) -> None: ...

    with pytest.raises(ZeroDivisionError):
        async with world.service(handlers):
            raise ZeroDivisionError
    assert released(world)


async def test_without_tables_it_says_so_and_can_be_started_later(database: Any) -> None:
    from tests.consume.world import make_async_engine
    from tidings.stores import SQLStore

    engine = make_async_engine(database)
    try:
        service = Service("shop", store=SQLStore(engine))
        with pytest.raises(SchemaError, match="tidings db upgrade"):
            await service.start()
        await SQLStore(engine).upgrade()
        async with service:
            pass
    finally:
        await engine.dispose()


async def test_without_roles_it_publishes_and_reads_nothing(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    async with world.service(handlers, roles=()) as service:
        await world.publish(service, OrderPlaced("a", 1))
        assert world.rows("select owner from tidings_checkpoints") == [(None,)] * 3
    assert world.effects() == []
    async with world.service(handlers):
        await until_equal(world.effects, [("a", 1)])


async def test_the_lifespan_of_an_asgi_application(world: World) -> None:
    """Starlette and FastAPI call `lifespan(app)`, enter what comes out, and leave it when the server stops."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    service = world.service(handlers)

    class App:
        def __init__(self, lifespan: Any) -> None:
            self.lifespan_context = lifespan

    app = App(lifespan=service.lifespan)
    for number in range(2):
        async with app.lifespan_context(app) as state:
            assert state is None
            await world.publish(service, OrderPlaced("a", number))
            await until(lambda number=number: len(world.effects()) == number + 1)  # type: ignore[misc]
        assert released(world)


async def test_the_lifespan_of_fastapi(world: World) -> None:
    fastapi = pytest.importorskip("fastapi")
    service = world.service()
    app = fastapi.FastAPI(lifespan=service.lifespan)
    async with app.router.lifespan_context(app):
        assert world.one("select count(*) from tidings_workers") == 1
    assert released(world)
