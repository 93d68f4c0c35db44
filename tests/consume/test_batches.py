"""Handlers that take a list of events."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import Envelope, Publish, Retry, Subscriptions

ONCE = Retry(attempts=2, base=1000, max=1000)


async def test_what_waits_comes_in_lists_in_order(world: World) -> None:
    handlers = Subscriptions()
    sizes: list[int] = []

    @handlers.subscribe(OrderPlaced, batch=20, concurrency=1)
    async def handle(events: list[OrderPlaced], envelopes: list[Envelope], session: AsyncSession, publish: Publish) -> None:
        assert [envelope.key for envelope in envelopes] == [event.order_id for event in events]
        sizes.append(len(events))
        publish(OrderBilled("batch", len(events)))
        for event in events:
            await effect(session, "handle", event)

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced(f"k{number % 3}", number) for number in range(50)))
    async with service:
        await until(lambda: service.counters.of("handled") == 50)
    assert max(sizes) == 20
    assert sum(sizes) == 50
    assert len(world.published("order.billed")) == len(sizes)
    for k in range(3):
        assert [value for key, value in world.effects() if key == f"k{k}"] == [number for number in range(50) if number % 3 == k]


async def test_a_list_in_a_plain_def(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, batch=10)
    def handle(events: list[OrderPlaced], session: Session) -> None:
        for event in events:
            effect_sync(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(15)))
        await until_equal(world.effects, [("a", number) for number in range(15)])


async def test_a_list_of_several_event_classes(world: World) -> None:
    handlers = Subscriptions()
    seen: list[OrderPlaced | OrderCancelled] = []

    @handlers.subscribe(OrderPlaced, OrderCancelled, batch=10)
    async def handle(events: list[OrderPlaced | OrderCancelled], session: AsyncSession) -> None:
        seen.extend(events)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderCancelled("a", 2), OrderPlaced("a", 3))
        await until(lambda: service.counters.of("handled") == 3)
    assert seen == [OrderPlaced("a", 1), OrderCancelled("a", 2), OrderPlaced("a", 3)]


async def test_a_list_without_transaction(world: World) -> None:
    handlers = Subscriptions()
    lists: list[list[int]] = []

    @handlers.subscribe(OrderPlaced, batch=10, concurrency=1)
    async def handle(events: list[OrderPlaced]) -> None:
        lists.append([event.number for event in events])

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced("a", number) for number in range(25)))
    async with service:
        await until(lambda: service.counters.of("handled") == 25)
    assert [number for numbers in lists for number in numbers] == list(range(25))
    assert max(map(len, lists)) == 10


async def test_a_list_that_fails_is_handled_one_by_one(world: World) -> None:
    handlers = Subscriptions()
    lists: list[list[int]] = []

    @handlers.subscribe(OrderPlaced, batch=100, concurrency=1, retry=ONCE)
    async def handle(events: list[OrderPlaced], session: AsyncSession, publish: Publish) -> None:
        lists.append([event.number for event in events])
        for event in events:
            publish(OrderBilled(event.order_id))
            await effect(session, "handle", event)
            if event.number == 7:
                raise ValueError("no luck")

    service = world.service(handlers)
    await world.publish(service, *(OrderPlaced(f"k{number}", number) for number in range(20)))
    async with service:
        await until(lambda: service.counters.of("handled") == 19 and len(world.deliveries()) == 1)
    assert world.deliveries() == [("k7", "failed", 1, "ValueError")]
    assert sorted(value for _, value in world.effects()) == [number for number in range(20) if number != 7]
    assert len(world.published("order.billed")) == 19
    assert [7] in lists


async def test_a_list_that_fails_keeps_the_order_of_its_keys(world: World) -> None:
    handlers = Subscriptions()
    calls = 0

    @handlers.subscribe(OrderPlaced, batch=100, retry=Retry(attempts=5, base=0.01, jitter=0))
    async def handle(events: list[OrderPlaced], session: AsyncSession) -> None:
        nonlocal calls
        for event in events:
            if event.number == 3 and event.order_id == "bad":
                calls += 1
                if calls <= 3:
                    raise ValueError("no luck")
            await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(8) for key in ("bad", "good")))
        await until(lambda: len(world.effects()) == 16)
    for key in ("bad", "good"):
        assert [value for each, value in world.effects() if each == key] == list(range(8))
