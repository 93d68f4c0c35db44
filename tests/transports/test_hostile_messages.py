"""Whoever can write to a broker can make a message dead, and nothing else: not stop a receiver, not fill its memory."""

from __future__ import annotations

import asyncio
import random
import struct
from contextlib import suppress
from typing import Any
from uuid import uuid4

import aiormq
import confluent_kafka
import nats
import pytest
import redis.asyncio as plain_redis

from tests.wire.events import PLACED
from tidings.codecs.bindings import AMQP, KAFKA, NATS, REDIS
from tidings.codecs.cloudevents import encode_binary
from tidings.codecs.message import Message
from tidings.codecs.wire import decode
from tidings.errors import Undecodable
from tidings.transports.base import Incoming, Outgoing, Transport
from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS as NATSTransport  # noqa: N811 - there is a binding of that name, too
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.rabbitmq.frames import frames
from tidings.transports.redis import Redis

chance = random.Random(7)
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
BODIES = [
    b"",
    b"\x00",
    b"\xff" * 1000,
    DEEP,
    b"[" * 500_000,
    b'{"a":1e999999}',
    *(chance.randbytes(size) for size in (1, 10, 1000, 60_000)),
]
PICKLE = b"cos\nsystem\n(S'touch /tmp/owned'\ntR."


async def _survives(transport: Transport, topic: str, count: int) -> list[Incoming]:
    """Receive that many hostile messages and a good one behind them; each is an event or undecodable."""
    publisher = await transport.publisher()
    (outcome,) = await publisher.publish([Outgoing(topic, encode_binary(PLACED, transport.binding))])
    assert outcome.kind == "confirmed"
    await publisher.close()
    receiver = await transport.receiver(topic, [topic])
    found: list[Incoming] = []
    async with asyncio.timeout(60):
        while len(found) < count + 1:
            some = await receiver.receive(5, 1)
            await receiver.acknowledge(some)
            found += some
    await receiver.close()
    for one in found[:-1]:
        with suppress(Undecodable):
            decode(one.message, transport.binding, ("cloudevents", "cap"))
    assert decode(found[-1].message, transport.binding) == PLACED
    assert found[-1].fault == ""
    return found


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


async def test_rabbitmq(rabbitmq_url: str) -> None:
    topic = f"hostile.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, most=1 << 20)
    await transport.provision([topic], {topic: [topic]})
    ordinary = [
        Message({"ce-x": "y", "a": None, "b" * 200: "v" * 20_000}, body, "application/json", None, "1") for body in [*BODIES, PICKLE]
    ]
    payloads = [frames(message, "tidings", topic, 1, 131_072) for message in ordinary]
    template = frames(Message({"MARK": "MARK"}, b"{}", "MARK", None, "MARK", "MARK"), "tidings", topic, 1, 131_072)
    # Text that is none: in names, values, the id and the type, where the client would end its connection.
    payloads.append(template.replace(b"MARK", b"\xff\xfe\xc0\x80"))
    # Values that its decoder cannot stand: a time beyond all times, tables in tables, and every other type.
    tables = [
        b"\x01tT" + b"\x7f" + b"\xff" * 7,
        b"\x01nF" + _nested(2000),
        b"\x01aA\x00\x00\x00\x04t\x01t\x00",
        b"\x01dD\xff\x7f\xff\xff\xff\x01bb\x80\x01fd" + struct.pack(">d", float("nan")),
    ]
    for table in tables:
        header = struct.pack(">HHQH", 60, 0, 2, 1 << 13) + struct.pack(">I", len(table)) + table
        payloads.append(template[: 8 + struct.unpack(">I", template[3:7])[0]] + _frame(2, header) + _frame(3, b"{}"))
    # Larger than it takes.
    payloads.append(frames(Message({}, b"x" * (3 << 20)), "tidings", topic, 1, 131_072))
    # The broker itself stumbles over some, and takes nothing more on their connection.
    stored = [await _stored(rabbitmq_url, topic, payload) for payload in payloads]
    assert sum(stored) >= len(ordinary) + 3
    found = await _survives(transport, topic, sum(stored))
    assert [one.message.body for one in found[: len(ordinary)]] == [message.body for message in ordinary]
    large = found[-2]
    assert "3,145,728 bytes" in large.fault
    assert len(large.message.body or b"") <= (1 << 20) + 131_072
    assert any("cannot be read" in one.fault for one in found)


async def _stored(url: str, topic: str, payload: bytes) -> bool:
    connection = await aiormq.connect(url)
    try:
        channel: Any = await connection.channel(1, publisher_confirms=False)
        written = channel.create_future()
        await connection.write_queue.put(aiormq.abc.ChannelFrame(payload=payload, should_close=False, drain_future=written))
        await written
        # It answers in order.
        async with asyncio.timeout(10):
            await channel.queue_declare(topic, passive=True)
    except (aiormq.exceptions.AMQPError, asyncio.CancelledError):
        return False
    finally:
        await connection.close()
    return True


def _nested(levels: int) -> bytes:
    table = b""
    for _ in range(levels):
        table = b"\x01nF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


async def test_kafka(kafka_url: str) -> None:
    topic = f"hostile.{uuid4().hex}"
    transport = Kafka(url=kafka_url, partitions=1)
    await transport.provision([topic], {topic: [topic]})
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    headers: list[list[tuple[str, bytes | None]]] = [
        [("ce_specversion", b"\xff"), ("ce_id", None), ("", b"")],
        [("ce_id", b"1"), ("ce_id", b"2")] * 50,
        [("h" * 5000, b"v" * 50_000)],
        [(f"h{number}", b"") for number in range(2000)],
        [("content-type", b"\xff\xfe"), ("cap-msg-id", b"\xff")],
    ]
    count = 0
    for body in [*BODIES, PICKLE, None]:
        for given in headers:
            producer.produce(topic, body, chance.randbytes(5), headers=given)
            count += 1
    assert await asyncio.to_thread(producer.flush, 30) == 0
    found = await _survives(transport, topic, count)
    assert len({one.coordinates for one in found}) == count + 1


async def test_nats(nats_url: str) -> None:
    topic = f"hostile.{uuid4().hex}"
    transport = NATSTransport(url=nats_url)
    await transport.provision([topic], {topic: [topic]})
    client = await nats.connect(nats_url)
    count = 0
    for body in [*BODIES, PICKLE]:
        if len(body) < client.max_payload:
            # Confirmed by the stream: `flush` may return before what was published last has left the client.
            await client.jetstream().publish(topic, body, headers={"ce-specversion": "1.0", "h" * 200: "%ff%" * 1000})
            count += 1
    await client.close()
    # What no client would send.
    blocks = [
        b"NATS/1.0\r\nce-id: \xff\xfe\r\n\r\n",
        b"NATS/1.0\r\n\xff\xfe: x\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nStatus: 409\r\n\r\n",
        b"NATS/1.0 \xff\xff\xff\r\n\r\n",
        b"NATS/1.0\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"rubbish\r\n\r\n",
    ]
    host, _, port = nats_url.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"lang":"x","version":"1"}\r\n')
    for block in blocks:
        writer.write(b"HPUB %s %d %d\r\n%s{}\r\n" % (topic.encode(), len(block), len(block) + 2, block))
    writer.write(b"PING\r\n")
    async with asyncio.timeout(10):
        while (line := await reader.readline()) != b"PONG\r\n":
            assert not line.startswith(b"-ERR"), line
    writer.close()
    found = await _survives(transport, topic, count + len(blocks))
    assert len({one.coordinates for one in found}) == count + len(blocks) + 1


@pytest.mark.parametrize("way", ["group", "log"])
async def test_redis(redis_url: str, way: str) -> None:
    topic = f"hostile.{uuid4().hex}"
    transport = Redis(url=redis_url)
    await transport.provision([topic], {topic: [topic]})
    entries: list[dict[bytes, bytes]] = [
        {b"\xff\xfe": b"\xff"},
        {b"data": b"\xff", b"content-type": b"\xff"},
        {b"headers": b"\xff", b"body": b"\xff"},
        {b"headers": b"[" * 100_000, b"body": b'"'},
        {b"headers": b'{"a":' * 50_000, b"body": b'"AAAA"'},
        {b"headers": b'{"cap-msg-id":"1","cap-msg-name":"\\ud800"}', b"body": b'"!!"'},
        {b"h%d" % number: b"" for number in range(3000)},
        {b"ce-specversion": b"1.0", b"ce-id": b"\x00" * 100_000, b"data": DEEP},
        *({b"ce-specversion": b"1.0", b"data": body} for body in [*BODIES, PICKLE]),
    ]
    async with plain_redis.Redis.from_url(redis_url) as client:
        for fields in entries:
            await client.xadd(topic, fields)  # type: ignore[arg-type]
    found = await _survives(transport, topic, len(entries))
    if way == "log":
        reader = await transport.reader({topic: ""})
        read: list[Incoming] = []
        async with asyncio.timeout(20):
            while len(read) < len(found):
                read += await reader.receive(7, 1)
        await reader.close()
        assert [one.message for one in read] == [one.message for one in found]


@pytest.mark.parametrize("binding", [AMQP, KAFKA, NATS, REDIS], ids=lambda binding: binding.name)
def test_json_that_is_nested_too_deeply_is_undecodable(binding: Any) -> None:
    message = encode_binary(PLACED, binding)
    with pytest.raises(Undecodable):
        decode(Message(message.headers, DEEP, "application/json"), binding)
