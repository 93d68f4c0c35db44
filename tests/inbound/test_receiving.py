"""One service publishes, its relay sends, a broker keeps, another service handles: once, in order, on each kind of broker in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import MailWanted, OrderBilled, OrderCancelled, OrderPlaced, shop
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tests.inbound.shops import charging, fast, in_order, orders, receiving
from tidings import Contract, Envelope, Publish, Retry, Service, Subscriptions
from tidings.errors import ConfigurationError
from tidings.testing.memory import Memory, MemoryLog
from tidings.transports import Local

private = Contract("private")


@private.event("order.noted", key="order_id", internal=True)
@dataclass(frozen=True)
class OrderNoted:
    order_id: str
    number: int = 0


@pytest.fixture(params=[Memory, MemoryLog])
def broker(request: pytest.FixtureRequest) -> Memory:
    made: Memory = request.param()
    return made


def publishing(world: World, broker: Any, **options: Any) -> Service:
    return fast(world.service(name="shop", transport=broker, **options))


async def test_what_one_service_publishes_another_handles_once_and_in_order(world: World, broker: Memory) -> None:
    events = orders(1, 300)
    async with receiving(world, broker), publishing(world, broker) as publisher:
        for first in range(0, 300, 50):
            await world.publish(publisher, *events[first : first + 50])
        await until_equal(lambda: len(world.effects()), 300)
    assert in_order(world.effects(), events)


async def test_a_group_that_is_new_begins_with_the_earliest(world: World, broker: Memory) -> None:
    await broker.provision(["order.placed"], {})
    async with publishing(world, broker) as publisher:
        await world.publish(publisher, *orders(1, 20))
        await until_equal(lambda: len(broker.topics["order.placed"]), 20)
    async with receiving(world, broker):
        await until_equal(lambda: len(world.effects()), 20)


async def test_a_group_by_position_may_begin_now(world: World) -> None:
    broker = MemoryLog()
    async with publishing(world, broker) as publisher:
        await world.publish(publisher, *orders(1, 5))
        await until_equal(lambda: len(broker.topics["order.placed"]), 5)
        async with receiving(world, broker, start={"billing": "now"}) as service:
            await until(lambda: service._runtime is not None and service._runtime.subscribers[0].session)
            await world.publish(publisher, *orders(6, 7))
            await until_equal(lambda: len(world.effects()), 2)
        await world.publish(publisher, *orders(8, 8))
        async with receiving(world, broker, start={"billing": "now"}):
            await until_equal(lambda: sorted(number for _, number in world.effects()), [6, 7, 8])


async def test_nothing_is_handled_again_after_a_restart(world: World, broker: Memory) -> None:
    async with publishing(world, broker) as publisher:
        async with receiving(world, broker) as service:
            await world.publish(publisher, *orders(1, 50))
            await until_equal(lambda: len(world.effects()), 50)
            assert service._runtime is not None
            await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
        await world.publish(publisher, *orders(51, 60))
        async with receiving(world, broker) as service:
            await until_equal(lambda: len(world.effects()), 60)
            assert service.counters.of("duplicates") == 0
    assert in_order(world.effects(), orders(1, 60))


async def test_what_is_sent_twice_is_handled_once(world: World, broker: Memory) -> None:
    async with publishing(world, broker) as publisher, receiving(world, broker) as service:
        await world.publish(publisher, *orders(1, 20))
        await until_equal(lambda: len(world.effects()), 20)
        broker.topics["order.placed"] += broker.topics["order.placed"]
        await until_equal(lambda: service.counters.of("duplicates"), 20)
    assert in_order(world.effects(), orders(1, 20))


async def test_own_events_come_back_by_the_broker_and_internal_ones_by_the_log(world: World, broker: Memory) -> None:
    handlers = charging()

    @handlers.subscribe(OrderNoted)
    async def note(event: OrderNoted, session: AsyncSession) -> None:
        await effect(session, "note", event)

    async with receiving(world, broker, handlers, name="shop", contracts=[shop, private]) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderNoted("a", 2))
        await until_equal(lambda: world.effects("note"), [("a", 2)])
        await until_equal(lambda: world.effects("charge"), [("a", 1)])
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
        assert service.counters.of("duplicates") == 0
    assert len(broker.topics["order.placed"]) == 1


async def test_local_beside_a_broker_lets_subscribers_read_the_log(world: World, broker: Memory) -> None:
    async with receiving(world, [broker, Local()], name="shop") as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
        await until_equal(lambda: len(broker.topics["order.placed"]), 1)
        assert service._runtime is not None
        assert not service._runtime.subscribers


async def test_an_event_that_was_handled_from_the_log_is_not_handled_again_when_a_broker_brings_it(world: World, broker: Memory) -> None:
    """And the other way round: the same service, first without a broker, then with one, then without it again."""
    async with receiving(world, Local(), name="shop") as service:
        await world.publish(service, *orders(1, 10))
        await until_equal(lambda: len(world.effects()), 10)
    async with receiving(world, broker, name="shop") as service:
        await world.publish(service, *orders(11, 20))
        await until_equal(lambda: len(world.effects()), 20)
        await until_equal(lambda: service.counters.of("duplicates"), 10)
    async with receiving(world, Local(), name="shop") as service:
        await world.publish(service, *orders(21, 30))
        await until_equal(lambda: len(world.effects()), 30)
    assert in_order(world.effects(), orders(1, 30))


async def test_what_a_broker_still_had_when_an_event_went_back_to_the_log_is_read_there(world: World, broker: Memory) -> None:
    """The group reads the log for another event all the time, so its checkpoint is behind what it was to get from the broker."""
    handlers = charging()

    @handlers.subscribe(OrderNoted)
    async def note(event: OrderNoted, session: AsyncSession) -> None:
        await effect(session, "note", event)

    contracts = [shop, private]
    async with receiving(world, broker, handlers, name="shop", contracts=contracts) as service:
        await world.publish(service, *orders(1, 10))
        await until_equal(lambda: len(world.effects("charge")), 10)
    stopped = receiving(world, broker, handlers, name="shop", contracts=contracts)
    await world.publish(stopped, *orders(11, 20), OrderNoted("a", 1))
    broker.stop()
    async with stopped:
        # The log is read to its end, and what is for the broker is passed over.
        await until_equal(lambda: world.effects("note"), [("a", 1)])
    assert len(world.effects("charge")) == 10
    async with receiving(world, broker, handlers, name="shop", contracts=contracts, routes={shop: Local()}):
        await until_equal(lambda: len(world.effects("charge")), 20)
    assert in_order(world.effects("charge"), orders(1, 20))
    assert world.effects("note") == [("a", 1)]


async def test_limits_hold_for_what_a_broker_brings(world: World, broker: Memory) -> None:
    handlers = Subscriptions()
    running = most = 0

    @handlers.subscribe(OrderPlaced, concurrency=2)
    async def charge(event: OrderPlaced) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    async with receiving(world, broker, handlers) as service, publishing(world, broker) as publisher:
        await world.publish(publisher, *orders(1, 40, keys=40))
        await until_equal(lambda: service.counters.of("handled") >= 40, True)
    assert most == 2


async def test_an_operator_can_hold_back_what_comes_from_a_broker(world: World, broker: Memory) -> None:
    async with receiving(world, broker) as service, publishing(world, broker) as publisher:
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].session)
        await service.operations.pause("inbound:memory")
        await until(lambda: service._runtime.subscribers[0].session._paused)  # type: ignore[union-attr]
        await world.publish(publisher, *orders(1, 10))
        await until_equal(lambda: len(broker.topics["order.placed"]), 10)
        await asyncio.sleep(0.2)
        received = service._runtime.subscribers[0].session.received  # type: ignore[union-attr]
        await service.operations.resume("inbound:memory")
        await until_equal(lambda: len(world.effects()), 10)
    # One call of `receive` was under way.
    assert received <= 10


async def test_a_failing_event_holds_back_its_own_key_only(world: World, broker: Memory) -> None:
    handlers = Subscriptions()
    broken = True

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=50, base=0.02, max=0.05, jitter=0))
    async def charge(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        if broken and event.number == 3:
            raise ValueError("not yet")
        await effect(session, "charge", event)

    async with publishing(world, broker) as publisher, receiving(world, broker, handlers) as service:
        await world.publish(publisher, *orders(1, 28))
        await until_equal(lambda: len(world.effects()), 24)
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
        broken = False
        await until_equal(lambda: len(world.effects()), 28)
        await until_equal(world.lanes, [])
    assert in_order(world.effects(), orders(1, 28))


async def test_plain_handlers_are_called_and_written_down_before_the_acknowledgement(world: World, broker: Memory) -> None:
    handlers = Subscriptions()
    called: list[int] = []

    @handlers.subscribe(MailWanted, ordered=False)
    async def send(event: MailWanted) -> None:
        called.append(event.number)

    async with publishing(world, broker) as publisher, receiving(world, broker, handlers) as service:
        await world.publish(publisher, *(MailWanted("a@b", number) for number in range(30)))
        await until_equal(lambda: sorted(called), list(range(30)))
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
        assert world.one("select count(*) from tidings_inbox") == 30


async def test_groups_of_a_service_each_get_everything(world: World, broker: Memory) -> None:
    handlers = charging()

    @handlers.subscribe(OrderPlaced, group="reporting")
    async def report(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "report", event)

    async with publishing(world, broker) as publisher, receiving(world, broker, handlers):
        await world.publish(publisher, *orders(1, 20))
        await until_equal(lambda: len(world.effects("charge")), 20)
        await until_equal(lambda: len(world.effects("report")), 20)


async def test_the_envelope_says_what_the_publisher_said(world: World, broker: Memory) -> None:
    handlers = Subscriptions()
    seen: list[Envelope] = []

    @handlers.subscribe(OrderPlaced)
    async def charge(event: OrderPlaced, envelope: Envelope) -> None:
        seen.append(envelope)

    async with publishing(world, broker) as publisher, receiving(world, broker, handlers):
        await world.publish(publisher, OrderPlaced("a", 1), headers={"colour": "grün"}, expires=timedelta(hours=1))
        await until(lambda: seen)
    (envelope,) = seen
    (row,) = world.published("order.placed")
    assert str(envelope.id) == str(row["id"])
    assert (envelope.source, envelope.name, envelope.version, envelope.key) == ("shop", "order.placed", 1, "a")
    assert (envelope.topic, envelope.sequence) == ("order.placed", row["position"])
    assert dict(envelope.headers) == {"colour": "grün"}
    assert envelope.expires is not None
    assert envelope.subscription == "charge"


async def test_what_has_expired_is_not_handled(world: World, broker: Memory) -> None:
    async with receiving(world, broker) as service:
        async with publishing(world, broker) as publisher:
            await world.publish(publisher, OrderPlaced("a", 1), expires=timedelta(milliseconds=400))
            await until_equal(lambda: len(world.effects()), 1)
            again = broker.topics["order.placed"][0]
        await world.execute("delete from tidings_inbox")
        await asyncio.sleep(0.4)
        broker.topics["order.placed"].append(again)
        await until_equal(lambda: service.counters.of("expired"), 1)
    assert len(world.effects()) == 1


async def test_what_is_published_in_a_handler_goes_on_to_the_next_service(world: World, broker: Memory) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id, event.number))

    third = Subscriptions()

    @third.subscribe(OrderBilled)
    async def book(event: OrderBilled, session: AsyncSession) -> None:
        await effect(session, "book", event)

    async with receiving(world, broker, handlers), receiving(world, broker, third, name="ledger"), publishing(world, broker) as publisher:
        await world.publish(publisher, *orders(1, 20))
        await until_equal(lambda: len(world.effects("book")), 20)
    assert in_order(world.effects("book"), orders(1, 20))


async def test_two_processes_share_a_group(world: World, broker: Memory) -> None:
    second = receiving(world, broker, engine=world.another_engine())
    async with receiving(world, broker) as first, publishing(world, broker) as publisher:
        await world.publish(publisher, *orders(1, 50))
        await until_equal(lambda: len(world.effects()), 50)
        async with second:
            await first.stop()
            await world.publish(publisher, *orders(51, 100))
            await until_equal(lambda: len(world.effects()), 100)
    assert in_order(world.effects(), orders(1, 100))


async def test_a_process_without_the_role_receives_nothing(world: World, broker: Memory) -> None:
    service = receiving(world, broker)
    await service.start(["relay", "schedule"])
    assert service._runtime is not None
    assert not service._runtime.subscribers
    await service.stop()


async def test_names_that_are_taken_are_refused(world: World, broker: Memory) -> None:
    with pytest.raises(ConfigurationError, match="inbound:"):
        await receiving(world, broker, charging(name="inbound:memory")).start()


async def test_order_across_topics_that_the_broker_does_not_keep_is_refused(world: World, broker: Memory) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, OrderCancelled)
    async def view(event: OrderPlaced | OrderCancelled) -> None: ...

    with pytest.raises(ConfigurationError, match=r"order\.cancelled, order\.placed in order.*ordered=False"):
        await receiving(world, broker, handlers).start()


async def test_what_is_withdrawn_from_several_subscriptions_leaves_the_memory_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when Kafka gives partitions to another process: what waits here is no longer counted, neither never nor twice."""
    withdrawn: frozenset[str] = frozenset()
    monkeypatch.setattr("tidings.testing.memory._Receiver.withdrawn", lambda self: withdrawn)
    broker, handlers = Memory(), Subscriptions()
    gate = asyncio.Event()
    calls: list[int] = []
    for name in ("charge", "mail"):

        @handlers.subscribe(OrderPlaced, name=name, concurrency=1)
        async def handle(event: OrderPlaced) -> None:
            calls.append(event.number)
            await gate.wait()

    async with publishing(world, broker) as publisher, receiving(world, broker, handlers) as service:
        await world.publish(publisher, *orders(1, 20, keys=20))
        assert service._runtime is not None
        subscriber = service._runtime.subscribers[0]
        await until(lambda: len(calls) == 2 and subscriber.session is not None and subscriber.session.received == 20)
        withdrawn = frozenset({"order.placed"})
        assert subscriber.session is not None
        await until(lambda: not any(pool.lanes.waiting for pool in subscriber.session.pools))  # type: ignore[union-attr]
        withdrawn = frozenset()
        gate.set()
        await until(lambda: subscriber.idle)
        assert subscriber.session._bytes == 0
