"""Transports: publish with confirmations, receive and acknowledge, events of 300 bytes, beside the best loops of the brokers' own clients."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any
from uuid import uuid4

import msgspec

from benchmarks.measuring import Run, interleave
from benchmarks.raw_brokers import BATCH, RAW, WINDOW
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.wire import EVENT
from benchmarks.workload import check
from tidings.codecs import wire
from tidings.codecs.bindings import Binding
from tidings.codecs.cloudevents import encode_binary
from tidings.codecs.message import CloudEvent, Message
from tidings.transports.base import Outgoing, Publisher, Transport

KEYS = 100
# Redis gives no rate for a whole transaction: the clients' own loops set the goals.
_COUNTS = {"rabbitmq": 10_000, "nats": 20_000, "redis": 20_000, "kafka": 60_000}


async def run(settings: Settings) -> list[Section]:
    """Every broker whose URL is known."""
    sections: list[Section] = []
    missing = []
    for name, count in _COUNTS.items():
        if not settings.wants(name):
            continue
        if url := os.environ.get(f"TIDINGS_TEST_{name.upper()}", ""):
            sections.append(await _broker(name, url, settings.count(count, 500), settings.rounds))
        else:
            missing.append(name)
    if missing:
        remark = f"Left out, because `scripts/services run all --` did not start them: {', '.join(missing)}."
        sections.append(Section("transports", "", "", (), (remark,)))
    return sections


async def _broker(name: str, url: str, count: int, rounds: int) -> Section:
    transport = _transport(name, url)
    raw, binding = RAW[name], transport.binding
    events = [_event(number) for number in range(count)]
    messages = [encode_binary(event, binding) for event in events]

    def publishing(send: Callable[[str], Any]) -> Run:
        async def measured() -> float:
            topic = await _topic(transport)
            began = perf_counter()
            await send(topic)
            took = perf_counter() - began
            check(f"{name}, publish", messages=(await _count(transport, topic, count), count))
            return count / took

        return measured

    def receiving(receive: Callable[[str], Any]) -> Run:
        async def measured() -> float:
            topic = await _topic(transport)
            await raw.publish(url, topic, messages)
            began = perf_counter()
            await receive(topic)
            return count / (perf_counter() - began)

        return measured

    contenders = {
        "raw publish": publishing(lambda topic: raw.publish(url, topic, messages)),
        "publish": publishing(lambda topic: _publish(transport, topic, messages)),
        "encode and publish": publishing(lambda topic: _encode_and_publish(transport, topic, events, binding)),
        "raw receive": receiving(lambda topic: raw.receive(url, topic, count)),
        "receive": receiving(lambda topic: _receive(transport, topic, count, None)),
        "receive and decode": receiving(lambda topic: _receive(transport, topic, count, binding)),
    }
    figures = await interleave(name, contenders, rounds)
    fast = (Goal("ours", ">=", 40_000),) if name == "kafka" else (Goal("ratio", ">=", 0.8),)
    rows = [
        Row("publish", figures["publish"], figures["raw publish"], fast),
        Row("encode and publish", figures["encode and publish"], figures["raw publish"], fast),
        Row("receive", figures["receive"], figures["raw receive"], (Goal("ratio", ">=", 0.6),)),
        Row("receive and decode", figures["receive and decode"], figures["raw receive"]),
    ]
    return Section(f"{name}, events of 300 bytes, {count:,} each", "events/s", "its client's own loop, the same messages", rows)


async def _publish(transport: Transport, topic: str, messages: Sequence[Message]) -> None:
    publisher = await transport.publisher()
    batches = [[Outgoing(topic, message) for message in messages[first : first + BATCH]] for first in range(0, len(messages), BATCH)]
    await _pipelined(publisher, iter(batches).__next__, len(batches))
    await publisher.close()


async def _encode_and_publish(transport: Transport, topic: str, events: Sequence[CloudEvent], binding: Binding) -> None:
    publisher = await transport.publisher()
    first = 0

    def batch() -> list[Outgoing]:
        nonlocal first
        first += BATCH
        return [Outgoing(topic, encode_binary(event, binding)) for event in events[first - BATCH : first]]

    await _pipelined(publisher, batch, -(-len(events) // BATCH))
    await publisher.close()


async def _pipelined(publisher: Publisher, batch: Callable[[], list[Outgoing]], batches: int) -> None:
    """Keep several calls under way."""
    left = batches

    async def work() -> None:
        nonlocal left
        while left:
            left -= 1
            outcomes = await publisher.publish(batch())
            check("publish", outcomes=({outcome.kind for outcome in outcomes}, {"confirmed"}))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WINDOW // BATCH):
            tasks.create_task(work())


async def _receive(transport: Transport, topic: str, count: int, binding: Binding | None) -> None:
    receiver = await transport.receiver(topic, [topic])
    done = 0
    while done < count:
        found = await receiver.receive(BATCH, 5)
        if binding is not None:
            for one in found:
                wire.decode(one.message, binding)
        await receiver.acknowledge(found)
        done += len(found)
    check("receive", messages=(done, count))
    await receiver.close()


async def _count(transport: Transport, topic: str, count: int) -> int:
    """Receive what is there, without acknowledging it."""
    receiver = await transport.receiver(topic, [topic])
    ids: set[str] = set()
    acknowledging = 0
    while len(ids) < count and (found := await receiver.receive(count, 5)):
        await receiver.acknowledge(found)
        acknowledging += len(found)
        ids.update(wire.decode(one.message, transport.binding).id for one in found)
    await receiver.close()
    return min(len(ids), acknowledging)


async def _topic(transport: Transport) -> str:
    topic = f"bench.{uuid4().hex}"
    await transport.provision([topic], {topic: [topic]})
    return topic


def _event(number: int) -> CloudEvent:
    return msgspec.structs.replace(EVENT, id=str(uuid4()), key=str(number % KEYS), extensions={**EVENT.extensions, "sequence": str(number)})


def _transport(name: str, url: str) -> Transport:
    from tidings.transports.kafka import Kafka
    from tidings.transports.nats import NATS
    from tidings.transports.rabbitmq import RabbitMQ
    from tidings.transports.redis import Redis

    kinds: dict[str, Callable[[], Transport]] = {
        "rabbitmq": lambda: RabbitMQ(url=url),
        "nats": lambda: replace(NATS(url=url), prefetch=2 * WINDOW),
        "redis": lambda: Redis(url=url),
        "kafka": lambda: Kafka(url=url, partitions=4),
    }
    return kinds[name]()
