"""Who reads what from where: pure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.consume.shop import OrderCancelled, OrderPlaced, shop
from tidings import Subscriptions
from tidings.consume.lanes import Lanes
from tidings.consume.providers import Providers
from tidings.consume.retry import Retry
from tidings.consume.routing import compile_subscription, event_types
from tidings.consume.sources import Sources, sources_of
from tidings.errors import ConfigurationError
from tidings.relay.routing import Routing
from tidings.testing.memory import Memory, MemoryLog
from tidings.transports import Local, RabbitMQ


def sources(transport: Any, routes: Any = (), *, ordered: bool = True, group: str = "g", both: bool = False) -> Sources:
    types = event_types([shop])
    handlers = Subscriptions()
    orders = handlers.subscription("orders", group=group, ordered=ordered)

    @orders.on(OrderPlaced)
    async def placed(event: OrderPlaced) -> None: ...

    if both:

        @orders.on(OrderCancelled)
        async def cancelled(event: OrderCancelled) -> None: ...

    compiled = [
        compile_subscription(each, types, each.group or "s", Retry(), Providers(), async_engine=True) for each in handlers.subscriptions
    ]
    return sources_of(compiled, Routing(transport, dict(routes), [shop], list(types.values()), None))


def test_without_a_broker_everything_comes_from_the_log() -> None:
    found = sources(Local())
    assert list(found.log) == ["g"]
    assert not found.feeds


def test_with_a_broker_everything_comes_from_it() -> None:
    found = sources(Memory())
    (feed,) = found.feeds
    assert not found.log
    assert (feed.group, feed.topics, feed.by_position, feed.unordered) == ("g", ("order.placed",), False, ())
    assert found.groups(feed.transport) == {"g": ["order.placed"]}


def test_local_beside_a_broker_keeps_the_log() -> None:
    found = sources([Memory(), Local()])
    assert list(found.log) == ["g"]
    assert not found.feeds


def test_the_first_of_several_brokers_is_read() -> None:
    (feed,) = sources([Memory(name="one"), Memory(name="two")]).feeds
    assert feed.transport.name == "one"


def test_a_route_by_topic_comes_before_the_default() -> None:
    found = sources(Memory(name="one"), {"order.placed": Local()}, both=True)
    assert list(found.log) == ["g"]
    (feed,) = found.feeds
    assert feed.topics == ("order.cancelled",)


def test_logs_are_read_by_position_where_order_is_wanted() -> None:
    (ordered,) = sources(MemoryLog()).feeds
    (free,) = sources(MemoryLog(), ordered=False).feeds
    assert (ordered.by_position, free.by_position) == (True, False)
    assert sources(MemoryLog()).groups(ordered.transport) == {}


def test_a_broker_without_order_says_for_whom() -> None:
    (feed,) = sources(RabbitMQ("amqp://x", ordered=False)).feeds
    assert feed.unordered == ("g/orders",)


def test_order_across_topics_is_refused_where_there_is_none() -> None:
    with pytest.raises(ConfigurationError, match="keeps no order between topics"):
        sources(Memory(), both=True)
    (feed,) = sources(RabbitMQ("amqp://x"), both=True).feeds
    assert feed.topics == ("order.cancelled", "order.placed")
    (free,) = sources(Memory(), both=True, ordered=False).feeds
    assert free.topics == ("order.cancelled", "order.placed")


def test_lanes_forget_what_is_gone_and_keep_the_order_of_the_rest() -> None:
    lanes: Lanes[int] = Lanes()
    for number in range(12):
        lanes.add(number % 3 or None, number)
    taken = lanes.take(1)
    (held,) = taken.items
    assert sorted(lanes.drop(lambda number: number % 2 == 0 and number != held)) == [n for n in range(0, 12, 2) if n != held]
    assert lanes.waiting == 12 - 1 - len([n for n in range(0, 12, 2) if n != held])
    lanes.give_back(taken)
    found: list[int] = []
    while lanes.ready:
        taken = lanes.take(2)
        found += taken.items
        lanes.give_back(taken)
    assert sorted(found) == [n for n in range(1, 12, 2) if n != held]
    assert [n for n in found if n % 3 == 1] == [n for n in (1, 7) if n != held]
    assert not lanes.waiting
