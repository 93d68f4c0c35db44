"""What we publish is read by each broker's plain client, and by the official SDK of CloudEvents; what they publish is read by us."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from datetime import timedelta, timezone
from typing import Any
from uuid import uuid4

import aiormq
import confluent_kafka
import nats
import pytest
import redis.asyncio as plain_redis
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.bindings import rabbitmq as sdk_rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from private_services import debian
from private_services.base import FailedError

from tests.wire.events import PLACED
from tests.wire.test_cap import BODY, CREATED, SENT_BY_DOTNET
from tidings.codecs import cap
from tidings.codecs.cloudevents import encode_binary, encode_structured
from tidings.codecs.message import CloudEvent, Message
from tidings.codecs.wire import decode
from tidings.transports.base import Outgoing, Transport
from tidings.transports.kafka import Kafka
from tidings.transports.nats import NATS
from tidings.transports.rabbitmq import RabbitMQ
from tidings.transports.redis import Redis

BERLIN = timezone(timedelta(hours=2))
CAP_HEADERS = {name: value for name, value in SENT_BY_DOTNET.items() if value is not None}
FORMAT = JSONFormat()
SDK = SDKEvent(
    {"id": "sdk-1", "source": "/sdk", "type": "com.example.made.v1", "datacontenttype": "application/json", "partitionkey": "7"}, {"a": "ü"}
)


async def _published(transport: Transport, topic: str, *messages: Message) -> None:
    await transport.provision([topic], {topic: [topic]})
    publisher = await transport.publisher()
    outcomes = await publisher.publish([Outgoing(topic, message) for message in messages])
    await publisher.close()
    assert {outcome.kind for outcome in outcomes} == {"confirmed"}


async def _received(transport: Transport, topic: str) -> CloudEvent:
    return (await _all_received(transport, topic, 1))[0]


async def _all_received(transport: Transport, topic: str, count: int) -> list[CloudEvent]:
    receiver = await transport.receiver(topic, [topic])
    found: list[CloudEvent] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            incoming = await receiver.receive(count, 1)
            await receiver.acknowledge(incoming)
            found += [decode(one.message, transport.binding, ("cloudevents", "cap"), zone=BERLIN) for one in incoming]
    await receiver.close()
    return found


def _agrees(event: Any) -> None:
    attributes = event.get_attributes()
    assert (attributes["id"], attributes["source"], attributes["type"]) == (PLACED.id, PLACED.source, PLACED.type)
    assert (attributes["time"], attributes["subject"], attributes["partitionkey"]) == (PLACED.time, PLACED.subject, PLACED.key)
    assert (attributes["correlationid"], attributes["tenantid"]) == ("flow-1", "Zürich 100%")
    data = event.get_data()
    assert (data if isinstance(data, dict) else json.loads(data)) == json.loads(PLACED.data or b"")


def _is_theirs(event: CloudEvent) -> None:
    assert (event.id, event.source, event.type, event.key) == ("sdk-1", "/sdk", "com.example.made.v1", "7")
    assert json.loads(event.data or b"") == {"a": "ü"}


# RabbitMQ


async def test_rabbitmq_cloudevents(rabbitmq_url: str) -> None:
    topic = f"plain.{uuid4().hex}"
    # The plain client fetches one message at a time, which queues with a single active consumer do not allow.
    transport = RabbitMQ(url=rabbitmq_url, ordered=False)
    await _published(transport, topic, encode_binary(PLACED, transport.binding), encode_structured(PLACED, transport.binding))
    connection = await aiormq.connect(rabbitmq_url)
    channel = await connection.channel()
    for mode in ("binary", "structured"):
        found = await channel.basic_get(topic)
        properties = found.header.properties
        assert (properties.delivery_mode, properties.message_id, properties.message_type) == (2, PLACED.id, PLACED.type)
        assert (properties.headers or {})["x-colour"] == "dark blue"
        if mode == "binary":
            # What AMQP's binding calls `cloudEvents_` the SDK calls `ce-` on RabbitMQ.
            headers = {name.replace("cloudEvents_", "ce-"): value for name, value in (properties.headers or {}).items()}
        else:
            headers = dict(properties.headers or {})
        message = sdk_rabbitmq.RabbitMQMessage(headers, properties.content_type, found.body)
        _agrees(sdk_rabbitmq.from_rabbitmq(message, FORMAT))
    other = f"{topic}.theirs"
    await transport.provision([other], {other: [other]})
    for theirs in (sdk_rabbitmq.to_binary(SDK, FORMAT), sdk_rabbitmq.to_structured(SDK, FORMAT)):
        properties = aiormq.spec.Basic.Properties(headers=dict(theirs.headers), content_type=theirs.content_type, delivery_mode=2)
        await channel.basic_publish(theirs.body, exchange="tidings", routing_key=other, properties=properties)
    await connection.close()
    for event in await _all_received(transport, other, 2):
        _is_theirs(event)


async def test_rabbitmq_cap(rabbitmq_url: str) -> None:
    topic = f"order.created.{uuid4().hex}"
    transport = RabbitMQ(url=rabbitmq_url, exchange="cap.default.router", wire="cap", ordered=False)
    await _published(transport, topic, cap.encode(CREATED, topic, transport.binding, zone=BERLIN))
    connection = await aiormq.connect(rabbitmq_url)
    channel = await connection.channel()
    # As a .NET service declares it: another type, or a transient one, would be refused.
    await channel.exchange_declare("cap.default.router", exchange_type="topic", durable=True)
    found = await channel.basic_get(topic)
    properties = found.header.properties
    assert (found.delivery.exchange, found.delivery.routing_key) == ("cap.default.router", topic)
    # Quorum queues count deliveries there.
    headers = {name: value for name, value in (properties.headers or {}).items() if name != "x-delivery-count"}
    assert headers == {**CAP_HEADERS, "cap-msg-name": topic}
    assert (properties.message_id, properties.delivery_mode, properties.content_type) == (CREATED.id, 2, None)
    assert found.body == BODY
    theirs = aiormq.spec.Basic.Properties(headers=dict(SENT_BY_DOTNET), message_id=CREATED.id, delivery_mode=2)
    await channel.basic_publish(BODY, exchange="cap.default.router", routing_key=topic, properties=theirs)
    await channel.basic_ack(found.delivery.delivery_tag or 0)
    await connection.close()
    assert await _received(transport, topic) == CREATED


# Kafka


@pytest.fixture(scope="module")
def kcat() -> str:
    """The plain client in C; where it is not installed and may be, it is installed."""
    if shutil.which("kcat") is None:
        if reason := debian.why_not():
            pytest.skip(f"no kcat: {reason}")
        try:
            debian.install("kcat", [])
        except FailedError as error:
            pytest.skip(f"no kcat: {error}")
    return shutil.which("kcat") or "kcat"


async def _kcat(kcat: str, *arguments: str, stdin: bytes = b"") -> bytes:
    done = await asyncio.to_thread(subprocess.run, [kcat, *arguments], input=stdin, capture_output=True, timeout=60, check=True)
    return done.stdout


async def test_kafka_cloudevents(kafka_url: str, kcat: str) -> None:
    topic, servers = f"plain.{uuid4().hex}", kafka_url.removeprefix("kafka://")
    transport = Kafka(url=kafka_url, partitions=1)
    await _published(transport, topic, encode_binary(PLACED, transport.binding), encode_structured(PLACED, transport.binding))
    listed = await _kcat(kcat, "-C", "-b", servers, "-t", topic, "-e", "-q", "-J")
    records = [json.loads(line) for line in listed.splitlines()]
    assert [record["key"] for record in records] == [PLACED.key, PLACED.key]
    for record in records:
        pairs = record["headers"]
        headers = {name: value.encode() for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
        assert headers["x-colour"] == b"dark blue"
        _agrees(sdk_kafka.from_kafka(sdk_kafka.KafkaMessage(headers, record["key"], record["payload"].encode()), FORMAT))
    other = f"{topic}.theirs"
    await transport.provision([other], {other: [other]})
    for theirs in (sdk_kafka.to_binary(SDK, FORMAT), sdk_kafka.to_structured(SDK, FORMAT)):
        given = [part for name, value in theirs.headers.items() for part in ("-H", f"{name}={value.decode()}")]
        await _kcat(kcat, "-P", "-b", servers, "-t", other, "-k", "7", *given, stdin=theirs.value)
    for event in await _all_received(transport, other, 2):
        _is_theirs(event)


async def test_kafka_cap(kafka_url: str) -> None:
    topic, servers = f"order.created.{uuid4().hex}", kafka_url.removeprefix("kafka://")
    transport = Kafka(url=kafka_url, partitions=1)
    await _published(transport, topic, cap.encode(CREATED, topic, transport.binding, zone=BERLIN))
    consumer = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": uuid4().hex, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found = await asyncio.to_thread(consumer.poll, 30)
    consumer.close()
    assert found is not None
    assert dict(found.headers() or ()) == {name: value.encode() for name, value in {**CAP_HEADERS, "cap-msg-name": topic}.items()}
    assert (found.key(), found.value()) == (CREATED.id.encode(), BODY)
    other = f"{topic}.theirs"
    await transport.provision([other], {other: [other]})
    producer = confluent_kafka.Producer({"bootstrap.servers": servers})
    theirs = [(name, None if value is None else value.encode()) for name, value in SENT_BY_DOTNET.items()]
    producer.produce(other, BODY, CREATED.id, headers=theirs)
    await asyncio.to_thread(producer.flush, 30)
    assert await _received(transport, other) == CREATED


async def test_a_key_has_the_partition_that_clients_in_java_choose(kafka_url: str) -> None:
    # Two of the vectors of Kafka's own tests (UtilsTest.testMurmur2), as unsigned numbers.
    assert _murmur2(b"21") == -973932308 & 0xFFFFFFFF
    assert _murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    topic = f"plain.{uuid4().hex}"
    transport = Kafka(url=kafka_url, partitions=7)
    await _published(transport, topic, *[Message({}, b"{}", key=f"key {number}") for number in range(50)])
    receiver = await transport.receiver(topic, [topic])
    seen: dict[str, str] = {}
    async with asyncio.timeout(30):
        while len(seen) < 50:
            seen.update({str(one.message.key): one.shard for one in await receiver.receive(50, 1)})
    await receiver.close()
    assert seen == {key: f"{topic}/{(_murmur2(key.encode()) & 0x7FFFFFFF) % 7}" for key in seen}


def _murmur2(data: bytes) -> int:
    # https://github.com/apache/kafka/blob/4.1.0/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        k = int.from_bytes(data[start : start + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if tail := data[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


# NATS


async def test_nats_cloudevents(nats_url: str) -> None:
    topic = f"plain.{uuid4().hex}"
    transport = NATS(url=nats_url)
    second = encode_structured(CloudEvent(**{**_fields(PLACED), "id": "second"}), transport.binding)
    await _published(transport, topic, encode_binary(PLACED, transport.binding), second)
    client = await nats.connect(nats_url)
    subscription = await client.jetstream().subscribe(topic, ordered_consumer=True)
    binary, structured = [await subscription.next_msg(timeout=10) for _ in range(2)]
    assert (binary.headers or {})["Nats-Msg-Id"] == PLACED.id
    # The SDK has no binding for NATS, whose headers are those of HTTP.
    from cloudevents.core.bindings import http as sdk_http

    _agrees(sdk_http.from_http(sdk_http.HTTPMessage(dict(binary.headers or {}), binary.data), FORMAT))
    whole = FORMAT.read(None, structured.data)
    assert (whole.get_id(), (structured.headers or {})["content-type"]) == ("second", "application/cloudevents+json")
    other = f"{topic}.theirs"
    await transport.provision([other], {other: [other]})
    for theirs in (sdk_http.to_binary(SDK, FORMAT), sdk_http.to_structured(SDK, FORMAT)):
        await client.jetstream().publish(other, bytes(theirs.body), headers=dict(theirs.headers))
    # As HTTP writes the name, and as version 1.0.2 of the binding for NATS has it: without headers.
    await client.jetstream().publish(other, FORMAT.write(SDK), headers={"Content-Type": "application/cloudevents+json"})
    await client.jetstream().publish(other, FORMAT.write(SDK))
    await client.close()
    for event in await _all_received(transport, other, 4):
        _is_theirs(event)


async def test_nats_cap(nats_url: str) -> None:
    first = f"order{uuid4().hex}"
    topic, other = f"{first}.created", f"{first}.cancelled"
    transport = NATS(url=nats_url, wire="cap")
    await transport.provision([other], {})
    await _published(transport, topic, cap.encode(CREATED, topic, transport.binding, zone=BERLIN))
    client = await nats.connect(nats_url)
    context = client.jetstream()
    # One stream for both, as a .NET service makes it.
    assert set((await context.stream_info(first)).config.subjects or ()) == {topic, other}
    subscription = await context.subscribe(topic, ordered_consumer=True)
    found = await subscription.next_msg(timeout=10)
    assert found.headers == {**CAP_HEADERS, "cap-msg-name": topic, "Nats-Msg-Id": CREATED.id}
    assert found.data == BODY
    theirs = {name: value or "" for name, value in SENT_BY_DOTNET.items()}
    await context.publish(topic, BODY, headers={**theirs, "Nats-Msg-Id": "another"})
    await context.publish(other, b"null", headers={**theirs, "Nats-Msg-Id": "a third"})
    await client.close()
    receiver = await transport.receiver(topic, [topic])
    async with asyncio.timeout(20):
        got = [await receiver.receive(1, 5) for _ in range(2)]
    assert [decode(one.message, transport.binding, ("cap",), zone=BERLIN).data for (one,) in got] == [BODY, BODY]
    assert list(await receiver.receive(5, 0.3)) == [], "the other topics of its stream are not this group's"
    await receiver.close()


def _fields(event: CloudEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__struct_fields__}


# Redis


async def test_redis_cloudevents(redis_url: str) -> None:
    topic = f"plain.{uuid4().hex}"
    transport = Redis(url=redis_url)
    await _published(transport, topic, encode_binary(PLACED, transport.binding), encode_structured(PLACED, transport.binding))
    async with plain_redis.Redis.from_url(redis_url) as client:
        entries = [fields for _, fields in await client.xrange(topic)]
        binary = {name.decode(): value for name, value in entries[0].items()}
        # There is no binding for Redis: the fields are named as HTTP's headers, their values are plain text.
        assert (binary["ce-id"].decode(), binary["ce-tenantid"].decode()) == (PLACED.id, "Zürich 100%")
        assert (binary["data"], binary["content-type"], binary["x-colour"]) == (PLACED.data, b"application/json", b"dark blue")
        assert entries[1][b"content-type"] == b"application/cloudevents+json"
        _agrees(FORMAT.read(None, entries[1][b"data"]))
        other = f"{topic}.theirs"
        await transport.provision([other], {other: [other]})
        await client.xadd(other, {"content-type": "application/cloudevents+json", "data": FORMAT.write(SDK)})
    _is_theirs(await _received(transport, other))


async def test_redis_cap(redis_url: str) -> None:
    topic = f"order.created.{uuid4().hex}"
    transport = Redis(url=redis_url, wire="cap")
    await _published(transport, topic, cap.encode(CREATED, topic, transport.binding, zone=BERLIN))
    async with plain_redis.Redis.from_url(redis_url) as client:
        ((_, fields),) = await client.xrange(topic)
        assert set(fields) == {b"headers", b"body"}
        assert json.loads(fields[b"headers"]) == {**CAP_HEADERS, "cap-msg-name": topic}
        assert fields[b"body"] == b'"' + base64.b64encode(BODY) + b'"'
        other = f"{topic}.theirs"
        await transport.provision([other], {other: [other]})
        await client.xadd(other, {"headers": json.dumps(SENT_BY_DOTNET), "body": f'"{base64.b64encode(BODY).decode()}"'})
    assert await _received(transport, other) == CREATED
