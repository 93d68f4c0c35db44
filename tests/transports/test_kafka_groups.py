"""Partitions that move between the receivers of a group: what was finished is committed, what is under way may be finished, the rest moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from uuid import uuid4

import confluent_kafka

from tidings.codecs.message import Message
from tidings.transports.base import Incoming, Outgoing, Receiver
from tidings.transports.kafka import Kafka


async def _topic(transport: Kafka, count: int) -> str:
    topic = f"groups.{uuid4().hex}"
    await transport.provision([topic], {topic: [topic]})
    publisher = await transport.publisher()
    batch = [Outgoing(topic, Message({"number": str(number)}, b"{}", key=str(number))) for number in range(count)]
    assert {outcome.kind for outcome in await publisher.publish(batch)} == {"confirmed"}
    await publisher.close()
    return topic


async def _take(receiver: Receiver, count: int) -> list[Incoming]:
    found: list[Incoming] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += await receiver.receive(count - len(found), 0.5)
    return found


def _numbers(incoming: Sequence[Incoming]) -> set[int]:
    return {int(one.message.headers["number"] or b"") for one in incoming}


async def _withdrawn(receiver: Receiver) -> frozenset[str]:
    async with asyncio.timeout(30):
        while not (shards := receiver.withdrawn()):
            assert await receiver.receive(100, 0.2) == []
        return shards


async def test_a_receiver_is_told_what_it_gives_away_and_may_finish_it(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=4, session=6.0, drain=20.0)
    topic = await _topic(transport, 80)
    one = await transport.receiver(topic, [topic])
    held = await _take(one, 80)
    joining = asyncio.ensure_future(transport.receiver(topic, [topic]))
    two = await joining
    shards = await _withdrawn(one)
    assert shards < {incoming.shard for incoming in held}
    # One after the other, as handlers finish; the partition moves when the last one of it has.
    for incoming in held:
        await one.acknowledge([incoming])
    publisher = await transport.publisher()
    await publisher.publish([Outgoing(topic, Message({"number": str(number)}, b"{}", key=str(number))) for number in range(100, 140)])
    await publisher.close()
    seen: list[Incoming] = []
    async with asyncio.timeout(30):
        while len(seen) < 40:
            for receiver in (one, two):
                found = await receiver.receive(100, 0.2)
                await receiver.acknowledge(found)
                seen += found
    assert _numbers(seen) == set(range(100, 140)), "nothing that was finished comes again"
    await one.close()
    await two.close()


async def test_a_user_who_does_not_ask_what_was_withdrawn_is_not_kept_busy(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=4, session=6.0, drain=0.1)
    topic = await _topic(transport, 8)
    one = await transport.receiver(topic, [topic])
    await one.acknowledge(await _take(one, 8))
    two = await transport.receiver(topic, [topic])
    async with asyncio.timeout(30):
        while not one._withdrawn:
            await one.receive(1, 0.1)
    await one.receive(1, 0.1)
    calls, end = 0, monotonic() + 1.0
    while monotonic() < end:
        assert await one.receive(1, 0.5) == []
        calls += 1
    assert calls <= 4
    await one.close()
    await two.close()


async def test_a_late_wake_up_does_not_end_the_waiting(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=1, session=6.0)
    topic = await _topic(transport, 1)
    receiver = await transport.receiver(topic, [topic])
    await _take(receiver, 1)
    began = monotonic()
    asyncio.get_running_loop().call_later(0.05, receiver._news.set)
    assert await receiver.receive(1, 0.5) == []
    assert monotonic() - began >= 0.45
    await receiver.close()


async def test_what_is_let_go_moves_at_once(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=4, session=6.0, drain=60.0)
    topic = await _topic(transport, 80)
    one = await transport.receiver(topic, [topic])
    held = await _take(one, 80)
    two = await transport.receiver(topic, [topic])
    shards = await _withdrawn(one)
    one.let_go(shards)
    moved = {incoming.coordinates for incoming in held if incoming.shard in shards}
    found = await _take(two, len(moved))
    assert {incoming.coordinates for incoming in found} == moved
    # Late, and of no effect: they belong to somebody else.
    await one.acknowledge([incoming for incoming in held if incoming.shard in shards])
    await one.close()
    await two.close()


async def test_a_drain_is_bounded(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=4, session=6.0, drain=0.5)
    topic = await _topic(transport, 80)
    one = await transport.receiver(topic, [topic])
    held = await _take(one, 80)
    two = await transport.receiver(topic, [topic])
    shards = await _withdrawn(one)
    # It finishes some of them, with a gap, and never the others.
    first = [incoming for incoming in held if incoming.shard in shards and incoming.coordinates.endswith("/0")]
    await one.acknowledge(first)
    rest = {incoming.coordinates for incoming in held if incoming.shard in shards} - {incoming.coordinates for incoming in first}
    assert {incoming.coordinates for incoming in await _take(two, len(rest))} == rest
    await one.close()
    await two.close()


async def test_only_what_is_finished_without_a_gap_is_committed(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=1, session=6.0)
    topic = await _topic(transport, 10)
    receiver = await transport.receiver(topic, [topic])
    held = await _take(receiver, 10)
    await receiver.acknowledge([held[0], held[1], held[5], held[9]])
    await receiver.close()
    assert _committed(kafka_url, topic) == 2


async def test_a_receiver_whose_user_is_busy_stays_in_its_group(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=1, session=6.0, options={"max.poll.interval.ms": 6000})
    topic = await _topic(transport, 10)
    receiver = await transport.receiver(topic, [topic])
    held = await _take(receiver, 10)
    await asyncio.sleep(8)
    await receiver.acknowledge(held)
    assert receiver.withdrawn() == frozenset()
    await receiver.close()
    assert _committed(kafka_url, topic) == 10


async def test_it_does_not_read_ahead_without_bound(kafka_url: str) -> None:
    transport = Kafka(url=kafka_url, partitions=1, session=6.0)
    topic = await _topic(transport, 6000)
    receiver = await transport.receiver(topic, [topic])
    async with asyncio.timeout(20):
        while len(receiver._ready) < 2000:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert len(receiver._ready) < 4000
    found = await _take(receiver, 6000)
    assert [incoming.coordinates for incoming in found] == [f"{topic}/0/{number}" for number in range(6000)]
    await receiver.close()


def _committed(url: str, topic: str) -> int:
    consumer = confluent_kafka.Consumer({"bootstrap.servers": url.removeprefix("kafka://"), "group.id": topic})
    (found,) = consumer.committed([confluent_kafka.TopicPartition(topic, 0)], timeout=10)
    consumer.close()
    return int(found.offset)
