"""A group with several queues: by key, in order, one active consumer each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from uuid import uuid4

import aiormq
import pytest

from tidings.codecs.cloudevents import encode_structured
from tidings.codecs.message import CloudEvent, Message
from tidings.codecs.wire import decode
from tidings.errors import ProvisionError
from tidings.transports.base import Incoming, Outgoing
from tidings.transports.rabbitmq import RabbitMQ


def _message(number: int, key: str) -> Message:
    headers: dict[str, str | bytes | None] = {"number": str(number), "cloudEvents_partitionkey": key}
    return Message(headers, b"{}", "application/json", key, str(uuid4()))


async def _sent(transport: RabbitMQ, topic: str, count: int, keys: int) -> None:
    publisher = await transport.publisher()
    outcomes = await publisher.publish([Outgoing(topic, _message(number, f"key {number % keys}")) for number in range(count)])
    assert {outcome.kind for outcome in outcomes} == {"confirmed"}
    await publisher.close()


async def _received(transport: RabbitMQ, group: str, topic: str, count: int) -> list[Incoming]:
    receiver = await transport.receiver(group, [topic])
    found: list[Incoming] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            some = await receiver.receive(100, 1)
            await receiver.acknowledge(some)
            found += some
    await receiver.close()
    return found


async def test_a_key_stays_in_one_queue_and_keeps_its_order_over_all_of_its_topics(rabbitmq_url: str) -> None:
    group, topic = f"partitions.{uuid4().hex}", f"orders.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, partitions=3)
    await transport.provision([topic], {group: [topic]})
    await transport.provision([topic], {group: [topic]})
    await transport.provision([topic], {group: [topic]}, "verify")
    await _sent(transport, topic, 300, 30)
    found = await _received(transport, group, topic, 300)
    shards, numbers = defaultdict(set), defaultdict(list)
    for one in found:
        key = one.message.headers["cloudEvents_partitionkey"]
        shards[key].add(one.shard)
        numbers[key].append(int(one.message.headers["number"] or b""))
    assert {len(places) for places in shards.values()} == {1}
    assert set.union(*shards.values()) == set(transport.shards(group)), "thirty keys leave no queue of three empty"
    assert all(seen == sorted(seen) for seen in numbers.values())


async def test_structured_mode_is_spread_by_key_too(rabbitmq_url: str) -> None:
    group, topic = f"partitions.{uuid4().hex}", f"orders.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, partitions=3, wire="structured")
    await transport.provision([topic], {group: [topic]})
    publisher = await transport.publisher()
    events = [CloudEvent(str(uuid4()), "/", "t", b"{}", key=f"key {number % 30}") for number in range(60)]
    await publisher.publish([Outgoing(topic, encode_structured(event, transport.binding)) for event in events])
    await publisher.close()
    shards = defaultdict(set)
    for one in await _received(transport, group, topic, 60):
        event = decode(one.message, transport.binding)
        shards[event.key].add(one.shard)
    assert {len(places) for places in shards.values()} == {1}
    assert set.union(*shards.values()) == set(transport.shards(group))


async def test_events_without_key_are_spread_and_what_others_publish_is_in_the_first_queue(rabbitmq_url: str) -> None:
    group, topic = f"partitions.{uuid4().hex}", f"orders.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, partitions=3)
    await transport.provision([topic], {group: [topic]})
    publisher = await transport.publisher()
    await publisher.publish([Outgoing(topic, Message({"whose": "ours"}, b"{}", None, None, str(uuid4()))) for _ in range(60)])
    await publisher.close()
    connection = await aiormq.connect(rabbitmq_url)
    channel = await connection.channel()
    for _ in range(10):
        properties = aiormq.spec.Basic.Properties(headers={"whose": "theirs"})
        await channel.basic_publish(b"{}", exchange="tidings", routing_key=topic, properties=properties, mandatory=True)
    await connection.close()
    places = defaultdict(set)
    for one in await _received(transport, group, topic, 70):
        places[one.message.headers["whose"]].add(one.shard)
        assert set(one.message.headers) == {"whose"}, "the slot is nobody's business"
    assert places == {"ours": set(transport.shards(group)), "theirs": {f"{group}.0"}}


@pytest.mark.parametrize(("first", "then", "said"), [(3, 2, "more"), (2, 3, "fewer"), (None, 2, "None"), (2, None, "several")])
async def test_another_number_of_partitions_is_refused(rabbitmq_url: str, first: int | None, then: int | None, said: str) -> None:
    group, topic = f"partitions.{uuid4().hex}", f"orders.{uuid4().hex}"
    await RabbitMQ(url=rabbitmq_url, partitions=first).provision([topic], {group: [topic]})
    with pytest.raises(ProvisionError, match=f"made with {said} partitions"):
        await RabbitMQ(url=rabbitmq_url, partitions=then).provision([topic], {group: [topic]})


async def test_its_queues_keep_what_crashing_consumers_were_given(rabbitmq_url: str) -> None:
    group, topic = f"partitions.{uuid4().hex}", f"orders.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, partitions=2)
    await transport.provision([topic], {group: [topic]})
    await _sent(transport, topic, 20, 1)
    for _ in range(25):
        receiver = await transport.receiver(group, [topic])
        assert await receiver.receive(100, 5)
        await receiver.close()
    found = await _received(transport, group, topic, 20)
    assert [int(one.message.headers["number"] or b"") for one in found] == list(range(20))
    assert {one.redelivered for one in found} == {True}


async def test_a_queue_that_is_deleted_ends_its_receiver(rabbitmq_url: str) -> None:
    from tidings.errors import TransportDown

    group, topic = f"deleted.{uuid4().hex}", f"orders.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url)
    await transport.provision([topic], {group: [topic]})
    receiver = await transport.receiver(group, [topic])
    connection = await aiormq.connect(rabbitmq_url)
    channel = await connection.channel()
    await channel.queue_delete(group)
    await connection.close()
    async with asyncio.timeout(20):
        with pytest.raises(TransportDown, match="is gone"):
            while True:
                await receiver.receive(10, 1)
    await receiver.close()
