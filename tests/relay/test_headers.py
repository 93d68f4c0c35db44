"""A publisher's header that some format or broker writes itself is refused where it is given, not when nobody looks any more."""

from __future__ import annotations

import pytest

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World
from tests.relay.sent import event_of, relaying, sent
from tidings.errors import InvalidEvent
from tidings.testing.memory import Memory
from tidings.transports import NATS, RabbitMQ


@pytest.mark.parametrize(
    "name", ["ce-id", "CE-Source", "ce_type", "cloudEvents:subject", "cloudEvents_x", "cap-msg-id", "Cap-Corr-Seq", "content-type"]
)
async def test_what_the_formats_write_is_refused_whatever_the_transport_is(world: World, name: str) -> None:
    with pytest.raises(InvalidEvent, match=rf"order.placed v1: header '{name}' .*choose another name"):
        await world.publish(world.service(), OrderPlaced("a", 1), headers={name: "x"})


async def test_what_a_broker_writes_is_refused_by_a_service_that_relays_to_it(world: World) -> None:
    await world.publish(world.service(), OrderPlaced("a", 1), headers={"x-death": "x", "nats-x": "y", "a/b": "z"})
    with pytest.raises(InvalidEvent, match="'x-death' means something else on AMQP: choose another name"):
        await world.publish(world.service(transport=RabbitMQ("amqp://localhost")), OrderPlaced("a", 1), headers={"x-death": "x"})
    for name in ("Nats-Msg-Id", "a/b"):
        with pytest.raises(InvalidEvent, match=f"'{name}' .* on NATS"):
            await world.publish(world.service(transport=NATS("nats://localhost")), OrderPlaced("a", 1), headers={name: "x"})


async def test_what_cap_lets_publishers_set_needs_a_transport_that_writes_cap(world: World) -> None:
    with pytest.raises(InvalidEvent, match="'cap-callback-name'.*wire='cap'"):
        await world.publish(world.service(transport=Memory()), OrderPlaced("a", 1), headers={"cap-callback-name": "replies"})
    broker = Memory(wire="cap")
    async with relaying(world, broker) as service:
        await world.publish(service, OrderPlaced("a", 1), headers={"cap-callback-name": "replies", "mine": "x"})
        await until_equal(lambda: len(sent(broker)), 1)
    message = broker.topics["order.placed"][0].message
    assert message.headers["cap-msg-name"] == "order.placed"
    assert message.headers["cap-callback-name"] == "replies"


async def test_what_is_sent_says_what_the_event_is(world: World) -> None:
    broker = Memory()
    async with relaying(world, broker) as service:
        await world.publish(service, OrderPlaced("a", 1), headers={"mine": "Grüße"})
        await until_equal(lambda: len(sent(broker)), 1)
    found = event_of(broker, 0)
    (row,) = world.published("order.placed")
    assert (found.id, found.source, found.type) == (str(row["id"]), "/shop", "order.placed.v1")
    assert (found.key, found.data, found.headers) == ("a", b'{"order_id":"a","number":1}', {"mine": "Grüße"})
    # By it, a late duplicate can be told.
    assert found.extensions["sequence"] == str(row["position"])
    assert found.time is not None
