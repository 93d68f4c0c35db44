"""`service.health()` tells the truth: what does not work is not ready, and what works is."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from private_services.proxy import Proxy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World, effect
from tests.observability.asking import ask
from tests.services.databases import Database
from tidings import Service, Subscriptions
from tidings.observability.health import Health
from tidings.stores import SQLStore
from tidings.testing.memory import Memory
from tidings.transports.base import Outcome, Outgoing

NOW = timedelta(0)


def handlers_of(world: World) -> Subscriptions:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "work", event)

    return handlers


async def becomes(service: Service, ready: bool, reason: str = "", **options: Any) -> Health:
    """Wait until the service says that it is, or is not, ready, for this reason."""
    found: Health | None = None
    for _ in range(600):
        found = await service.health(**options)
        if found.ready == ready and reason in " ".join(found.reasons):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"still {found}")


async def test_a_service_that_works_is_live_and_ready(world: World) -> None:
    service = world.service(handlers_of(world))
    assert await service.health() == Health(True, False, ("the service does not run in this process: it was not started, or has stopped",))
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 1)
        assert await service.health() == Health(True, True)
        # Idle for long is not stalled.
        await becomes(service, True, stalled=NOW)
    assert not (await service.health()).ready


async def test_a_reader_that_was_killed_is_neither_live_nor_ready(world: World) -> None:
    async with world.service(handlers_of(world)) as service:
        runtime = service._runtime
        assert runtime is not None
        await until(lambda: len(runtime._tasks) == len(runtime._parts))
        (reader,) = (task for name, task in runtime._tasks if name == "shop/shop@log")
        reader.cancel()
        found = await becomes(service, False, "shop/shop@log has crashed: it was cancelled")
        assert not found.live


async def test_a_task_that_crashes_ends_the_service_which_is_not_live(world: World) -> None:
    service = world.service(handlers_of(world))
    await service.start()
    runtime = service._runtime
    assert runtime is not None
    assert runtime.retrier is not None
    runtime.retrier._company = None  # type: ignore[assignment]
    runtime.retrier.wake()
    found = await becomes(service, False, "the retrier has crashed: AttributeError")
    assert not found.live
    await service.stop()


async def test_a_reader_that_hangs_although_events_wait_is_not_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.service(handlers_of(world)) as service:
        runtime = service._runtime
        assert runtime is not None
        await until(lambda: world.one("select owner from tidings_checkpoints where kind = 'log'") is not None)
        (receiver,) = runtime.receivers
        never = asyncio.Event()

        async def hang(*_: object) -> Any:
            await never.wait()

        monkeypatch.setattr(receiver, "_next", hang)
        await world.publish(service, OrderPlaced("a"))
        found = await becomes(service, False, "shop/shop@log has not moved", stalled=timedelta(seconds=0.3))
        assert found.live
        assert (await service.health()).ready, "not before it has stood still for as long as was asked"
        monkeypatch.undo()
        never.set()
        await becomes(service, True, stalled=timedelta(seconds=0.3))


class Blocking(Memory):
    """A broker that accepts connections and messages, and answers nothing while `blocked` is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def publisher(self) -> Any:
        channel: Any = await super().publisher()
        publish, answers = channel.publish, self.answers

        class Channel:
            async def publish(self, outgoing: Sequence[Outgoing]) -> Sequence[Outcome]:
                await answers.wait()
                found: Sequence[Outcome] = await publish(outgoing)
                return found

            async def close(self) -> None:
                await channel.close()

        return Channel()


async def test_a_relay_whose_broker_confirms_nothing_is_not_ready(world: World) -> None:
    broker = Blocking()
    async with world.service(transport=broker) as service:
        await becomes(service, True, stalled=timedelta(seconds=0.3))
        await world.publish(service, OrderPlaced("a"))
        await becomes(service, False, "relay:memory@log has not moved", stalled=timedelta(seconds=0.3))
        broker.answers.set()
        await becomes(service, True, stalled=timedelta(seconds=0.3))


async def test_a_broker_that_is_down_is_not_ready_until_it_is_back(world: World) -> None:
    broker = Memory()
    async with world.service(transport=broker) as service:
        await becomes(service, True)
        broker.stop()
        await world.publish(service, OrderPlaced("a"))
        found = await becomes(service, False, "relay:memory: the broker cannot be used")
        assert found.live
        broker.start()
        await becomes(service, True)


async def test_what_another_worker_does_is_its_own_to_tell(world: World) -> None:
    handlers = handlers_of(world)
    async with world.service(handlers) as first:
        await until(lambda: world.one("select owner from tidings_checkpoints where kind = 'log'") is not None)
        second = world.service(handlers, engine=world.another_engine())
        async with second:
            assert first._runtime is not None
            (receiver,) = first._runtime.receivers
            never = asyncio.Event()

            async def hang(*_: object) -> Any:
                await never.wait()

            receiver._next = hang  # type: ignore[method-assign]
            await world.publish(first, OrderPlaced("a"))
            await becomes(first, False, "has not moved", stalled=timedelta(seconds=0.2))
            assert (await second.health(stalled=timedelta(seconds=0.2))).ready
            del receiver._next
            never.set()


async def test_a_group_that_somebody_has_paused_stands_still_for_a_good_reason(world: World) -> None:
    async with world.service(handlers_of(world)) as service:
        await service.operations.pause("shop/work")
        await asyncio.sleep(0)
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: world.one("select count(*) from tidings_outbox") == 1)
        assert (await service.health(stalled=NOW)).ready


@asynccontextmanager
async def behind_proxy(database: Database) -> AsyncIterator[tuple[Proxy, Service]]:
    world_engine = create_async_engine(database.url)
    store = SQLStore(world_engine)
    await store.upgrade()
    await world_engine.dispose()
    proxy = Proxy(database.dsn)
    await proxy.start()
    engine = create_async_engine(f"postgresql+asyncpg://{proxy.url.partition('://')[2]}", pool_timeout=1, connect_args={"ssl": False})
    from tests.consume.shop import shop

    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = Service("shop", contracts=[shop], subscriptions=[handlers], store=SQLStore(engine), grace=1.0)
    try:
        async with service:
            yield proxy, service
            proxy.resume()
    finally:
        await engine.dispose()
        await proxy.stop()
        gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("how", ["stopped", "silent"])
async def test_a_store_that_is_down_is_not_ready(postgresql: Database, how: str) -> None:
    async with behind_proxy(postgresql) as (proxy, service):
        assert (await service.health()).ready
        if how == "stopped":
            await proxy.stop()
            found = await becomes(service, False, "the store is down", timeout=1.0)
        else:
            proxy.silence()
            found = await becomes(service, False, "the store did not answer within 0.3 s", timeout=0.3)
        assert found.live
        if how == "stopped":
            await proxy.start()
        else:
            proxy.resume()
        await becomes(service, True)


async def test_the_endpoints_answer_what_probes_ask(world: World) -> None:
    service = world.service(handlers_of(world))
    app = service.health_app()
    assert (await ask(app, "/ready"))[0] == 503
    app = service.health_app()
    async with service:
        status, headers, body = await ask(app, "/health/ready")
        assert (status, json.loads(body)) == (200, {"status": "ok", "reasons": []})
        assert headers["content-type"] == "application/json"
        assert headers["content-length"] == str(len(body))
        assert (await ask(app, "/live"))[0] == 200
        assert (await ask(app, "/live", "HEAD"))[2] == b""
        assert (await ask(app, "/live", "POST"))[0] == 405
        assert (await ask(app, "/alive"))[0] == 404
    status, _, body = await ask(service.health_app(), "/ready")
    assert status == 503
    assert json.loads(body)["reasons"]
    assert (await ask(service.health_app(), "/live"))[0] == 200


async def test_whether_a_process_lives_is_not_asked_of_the_store(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    service = world.service(handlers_of(world))
    async with service:
        await becomes(service, True)
        asked: list[object] = []

        async def hang(*arguments: object, **_: object) -> Any:
            asked.append(arguments)
            await asyncio.Event().wait()

        monkeypatch.setattr(service.store, "call", hang)
        monkeypatch.setattr(service.store, "transact", hang)
        app = service.health_app()
        asked.clear()
        # It never waits: an answer that is there at the first step of the coroutine has asked nobody.
        live = ask(app, "/live")
        with pytest.raises(StopIteration) as ended:
            live.send(None)
        assert ended.value.value[0] == 200
        assert asked == []
        monkeypatch.undo()
