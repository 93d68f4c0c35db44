"""What the brokers' own clients can do for a service: send with pipelined confirmations, and hand on what has come, acknowledged afterwards.

The least that a careful person would write by hand. Nothing here keeps order by key, comes back after a lost connection, or looks at what it got.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec

from benchmarks.raw_loop import Data
from benchmarks.workload import INSERT_EFFECT, RAW_INBOX

__all__ = ["CLIENTS", "UNWRITTEN", "Calls", "Client", "Effects", "Sender", "Source", "Unit", "drain", "relay"]

SIZE = 100
TASKS = 4
#: Most calls that `Calls` has made and not written down.
UNWRITTEN = 50
PAGE = 1000
#: Seconds that one call waits for messages.
_WAIT = 0.5

_READ = "select position, id, data::text from {outbox} where position > $1 order by position limit $2"

#: What is done with the events that have come together, before they are acknowledged.
Unit = Callable[[Sequence[Data]], Awaitable[None]]

_decode = msgspec.json.Decoder(Data).decode


class Sender(Protocol):
    """One connection that sends."""

    async def send(self, events: Sequence[tuple[UUID, bytes]]) -> None:
        """Send ids with JSON, and return when all are confirmed."""
        ...

    async def close(self) -> None: ...


class Source(Protocol):
    """One connection that receives."""

    async def take(self, most: int) -> Sequence[Any]:
        """Wait a moment for messages."""
        ...

    def body(self, message: Any) -> bytes: ...

    async def acknowledge(self, messages: Sequence[Any]) -> None: ...

    async def close(self) -> None: ...


class Client(Protocol):
    """One broker's client, for a topic with a group of the same name."""

    async def sender(self, url: str, topic: str) -> Sender: ...

    async def source(self, url: str, topic: str, of: int) -> Source:
        """Connect one of so many, who share what comes."""
        ...


async def drain(client: Client, url: str, topic: str, unit: Unit | None, count: int, size: int = SIZE, consumers: int = TASKS) -> float:
    """Handle so many events, several units at a time, each from a connection of its own; return when the last was acknowledged.

    Args:
        unit: what is done with them; None for nothing at all.
        size: most events of a unit.
        consumers: how many units at a time.
    """
    sources = [await client.source(url, topic, consumers) for _ in range(consumers)]
    left = count
    ended = 0.0

    async def work(source: Source) -> None:
        nonlocal left, ended
        while left > 0:
            messages = await source.take(size)
            if messages:
                if unit is not None:
                    await unit([_decode(source.body(message)) for message in messages])
                await source.acknowledge(messages)
                left -= len(messages)
                ended = perf_counter()

    async with asyncio.TaskGroup() as tasks:
        for source in sources:
            tasks.create_task(work(source))
    for source in sources:
        await source.close()
    return ended


async def relay(client: Client, url: str, topic: str, dsn: str, outbox: str) -> None:
    """Send all of an outbox, in pages."""
    connection = await asyncpg.connect(dsn)
    sender = await client.sender(url, topic)
    position = 0
    while rows := await connection.fetch(_READ.format(outbox=outbox), position, PAGE):
        position = rows[-1][0]
        await sender.send([(row[1], row[2].encode()) for row in rows])
    await sender.close()
    await connection.close()


class Effects:
    """Transactions that insert the inbox rows of many events at once, and the effect of each by itself."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def __call__(self, events: Sequence[Data]) -> None:
        connection: Any
        async with self._pool.acquire() as connection, connection.transaction():
            fresh = {row[0] for row in await connection.fetch(RAW_INBOX, [event.order_id for event in events])}
            for event in events:
                if event.order_id in fresh:
                    await connection.execute(INSERT_EFFECT, event.order_id)


class Calls:
    """Calls of a plain function, whose inbox rows follow at once: a crash repeats as many as stand in one unit, and no more.

    Units are received, decoded and acknowledged beside one another, but called one after another.

    Attributes:
        count: how often the function was called.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()
        self.count = 0

    async def __call__(self, events: Sequence[Data]) -> None:
        async with self._turn, self._pool.acquire() as connection:
            for event in events:
                await self._effect(event)
            await connection.fetch(RAW_INBOX, [event.order_id for event in events])

    async def _effect(self, event: Data) -> None:
        self.count += 1


class _RabbitMQ:
    async def sender(self, url: str, topic: str) -> Sender:
        import aiormq

        connection = await aiormq.connect(url)
        channel = await connection.channel(publisher_confirms=True)
        return _RabbitMQSender(connection, channel, topic)

    async def source(self, url: str, topic: str, of: int) -> Source:
        import aiormq

        connection = await aiormq.connect(url)
        channel = await connection.channel(publisher_confirms=False)
        await channel.basic_qos(prefetch_count=3 * SIZE)
        source = _RabbitMQSource(connection, channel)
        await channel.basic_consume(topic, source.put)
        return source


class _RabbitMQSender:
    def __init__(self, connection: Any, channel: Any, topic: str) -> None:
        self._connection = connection
        self._channel = channel
        self._topic = topic

    async def send(self, events: Sequence[tuple[UUID, bytes]]) -> None:
        import aiormq

        await asyncio.gather(
            *[
                self._channel.basic_publish(
                    data, exchange="tidings", routing_key=self._topic, wait=False,
                    properties=aiormq.spec.Basic.Properties(content_type="application/json", delivery_mode=2, message_id=str(event_id)),
                )
                for event_id, data in events
            ]
        )  # fmt: skip

    async def close(self) -> None:
        await self._connection.close()


class _RabbitMQSource:
    def __init__(self, connection: Any, channel: Any) -> None:
        self._connection = connection
        self._channel = channel
        self._waiting: asyncio.Queue[Any] = asyncio.Queue()

    async def put(self, message: Any) -> None:
        self._waiting.put_nowait(message)

    async def take(self, most: int) -> Sequence[Any]:
        messages = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_WAIT):
                messages.append(await self._waiting.get())
        while len(messages) < most and not self._waiting.empty():
            messages.append(self._waiting.get_nowait())
        return messages

    def body(self, message: Any) -> bytes:
        body: bytes = message.body
        return body

    async def acknowledge(self, messages: Sequence[Any]) -> None:
        await self._channel.basic_ack(messages[-1].delivery_tag, multiple=True)

    async def close(self) -> None:
        await self._connection.close()


class _NATS:
    async def sender(self, url: str, topic: str) -> Sender:
        import nats

        client = await nats.connect(url)
        return _NATSSender(client, topic)

    async def source(self, url: str, topic: str, of: int) -> Source:
        import nats

        client = await nats.connect(url)
        name = topic.replace(".", "_")
        subscription = await client.jetstream().pull_subscribe_bind(consumer=f"{name}-{name}", stream=name)
        return _NATSSource(client, subscription)


class _NATSSender:
    def __init__(self, client: Any, topic: str) -> None:
        self._client = client
        self._context = client.jetstream(publish_async_max_pending=4000)
        self._topic = topic

    async def send(self, events: Sequence[tuple[UUID, bytes]]) -> None:
        sent = [await self._context.publish_async(self._topic, data, headers={"Nats-Msg-Id": str(event_id)}) for event_id, data in events]
        await asyncio.gather(*sent)

    async def close(self) -> None:
        await self._client.close()


class _NATSSource:
    def __init__(self, client: Any, subscription: Any) -> None:
        self._client = client
        self._subscription = subscription

    async def take(self, most: int) -> Sequence[Any]:
        messages: Sequence[Any] = []
        with suppress(TimeoutError):
            messages = await self._subscription.fetch(most, timeout=_WAIT)
        return messages

    def body(self, message: Any) -> bytes:
        body: bytes = message.data
        return body

    async def acknowledge(self, messages: Sequence[Any]) -> None:
        for message in messages:
            await message.ack()

    async def close(self) -> None:
        await self._client.flush()
        await self._client.close()


class _Redis:
    async def sender(self, url: str, topic: str) -> Sender:
        return _RedisClient(url, topic)

    async def source(self, url: str, topic: str, of: int) -> Source:
        return _RedisClient(url, topic)


class _RedisClient:
    def __init__(self, url: str, topic: str) -> None:
        import redis.asyncio

        self._client: Any = redis.asyncio.Redis.from_url(url, protocol=2)
        self._topic = topic
        self._me = str(id(self))

    async def send(self, events: Sequence[tuple[UUID, bytes]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for event_id, data in events:
            pipeline.xadd(self._topic, {"id": event_id.bytes, "data": data})
        await pipeline.execute()

    async def take(self, most: int) -> Sequence[Any]:
        found: Any = await self._client.xreadgroup(self._topic, self._me, {self._topic: ">"}, count=most, block=int(_WAIT * 1000))
        messages: Sequence[Any] = found[0][1] if found else ()
        return messages

    def body(self, message: Any) -> bytes:
        body: bytes = message[1][b"data"]
        return body

    async def acknowledge(self, messages: Sequence[Any]) -> None:
        await self._client.xack(self._topic, self._topic, *[entry for entry, _ in messages])

    async def close(self) -> None:
        await self._client.aclose()


class _Kafka:
    """Each source has a partition of its own, and there is one for each task: no group has to agree about who reads what."""

    def __init__(self) -> None:
        self._sources: Counter[str] = Counter()

    async def sender(self, url: str, topic: str) -> Sender:
        return _KafkaSender(url, topic)

    async def source(self, url: str, topic: str, of: int) -> Source:
        self._sources[topic] += 1
        return _KafkaSource(url, topic, range(self._sources[topic] - 1, TASKS, of))


class _KafkaSender:
    def __init__(self, url: str, topic: str) -> None:
        import confluent_kafka

        settings: Any = {"bootstrap.servers": url.removeprefix("kafka://"), "enable.idempotence": True, "acks": "all", "linger.ms": 0}
        self._producer = confluent_kafka.Producer(settings)
        self._topic = topic

    async def send(self, events: Sequence[tuple[UUID, bytes]]) -> None:
        for event_id, data in events:
            self._producer.produce(self._topic, data, str(event_id.int % 100))
        await asyncio.to_thread(self._producer.flush)

    async def close(self) -> None:
        await asyncio.to_thread(self._producer.flush)


class _KafkaSource:
    def __init__(self, url: str, topic: str, partitions: Sequence[int]) -> None:
        import confluent_kafka

        settings: Any = {"bootstrap.servers": url.removeprefix("kafka://"), "group.id": f"{topic}-raw", "enable.auto.commit": False}
        self._consumer = confluent_kafka.Consumer(settings)
        self._idle = not partitions
        if partitions:
            self._consumer.assign(
                [confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING) for partition in partitions]
            )

    async def take(self, most: int) -> Sequence[Any]:
        if self._idle:
            await asyncio.sleep(_WAIT)
            return []
        return await asyncio.to_thread(self._take, most)

    def _take(self, most: int) -> Sequence[Any]:
        first = self._consumer.poll(_WAIT)
        if first is None:
            return []
        return [first, *self._consumer.consume(most - 1, 0)] if most > 1 else [first]

    def body(self, message: Any) -> bytes:
        body: bytes = message.value()
        return body

    async def acknowledge(self, messages: Sequence[Any]) -> None:
        self._consumer.commit(asynchronous=True)

    async def close(self) -> None:
        await asyncio.to_thread(self._consumer.close)


CLIENTS: dict[str, Client] = {"rabbitmq": _RabbitMQ(), "nats": _NATS(), "redis": _Redis(), "kafka": _Kafka()}
