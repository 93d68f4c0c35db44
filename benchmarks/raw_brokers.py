"""The best loops of the brokers' own clients: publish with confirmations, receive and acknowledge. The messages are those that Tidings sends.

Nothing here keeps order through a failure, says what became of a single message, or finds out that a topic is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from tidings.codecs.message import Message

__all__ = ["RAW", "Raw"]

#: Messages that are under way at a time.
WINDOW = 2000
BATCH = 500


class Raw(Protocol):
    """One client's loops."""

    async def publish(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        """Send all, and return when all are confirmed."""
        ...

    async def receive(self, url: str, topic: str, count: int) -> None:
        """Receive and acknowledge that many, as the group that is called as the topic."""
        ...


class _RabbitMQ:
    async def publish(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        import aiormq

        connection = await aiormq.connect(url)
        channel: Any = await connection.channel(publisher_confirms=True)
        for first in range(0, len(messages), WINDOW):
            sending = [
                channel.basic_publish(
                    message.body or b"",
                    exchange="tidings",
                    routing_key=topic,
                    properties=aiormq.spec.Basic.Properties(
                        headers=dict(message.headers),
                        content_type=message.content_type,
                        delivery_mode=2,
                        message_id=message.id,
                        message_type=message.type,
                    ),
                    mandatory=True,
                    wait=False,
                )
                for message in messages[first : first + WINDOW]
            ]
            await asyncio.gather(*sending)
        await connection.close()

    async def receive(self, url: str, topic: str, count: int) -> None:
        import aiormq

        connection = await aiormq.connect(url)
        channel = await connection.channel(publisher_confirms=False)
        await channel.basic_qos(prefetch_count=1000)
        waiting: asyncio.Queue[Any] = asyncio.Queue()

        async def take(delivered: Any) -> None:
            waiting.put_nowait(delivered)

        await channel.basic_consume(topic, take)
        done = unacknowledged = 0
        while done < count:
            delivered = await waiting.get()
            done += 1
            unacknowledged += 1
            if unacknowledged == 100 or done == count:
                await channel.basic_ack(delivered.delivery_tag, multiple=True)
                unacknowledged = 0
        await connection.close()


class _NATS:
    async def publish(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        import nats

        client = await nats.connect(url)
        context = client.jetstream(publish_async_max_pending=2 * WINDOW)
        for first in range(0, len(messages), WINDOW):
            sent = [
                await context.publish_async(topic, message.body or b"", headers={**message.headers, "Nats-Msg-Id": message.id})
                for message in messages[first : first + WINDOW]
            ]
            await asyncio.gather(*sent)
        await client.close()

    async def receive(self, url: str, topic: str, count: int) -> None:
        import nats

        client = await nats.connect(url)
        name = topic.replace(".", "_")
        subscription = await client.jetstream().pull_subscribe_bind(consumer=f"{name}-{name}", stream=name)
        done = 0
        while done < count:
            found = await subscription.fetch(min(BATCH, count - done), timeout=5)
            for message in found:
                await message.ack()
            done += len(found)
        await client.flush()
        await client.close()


class _Redis:
    async def publish(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(url, protocol=2)
        for first in range(0, len(messages), BATCH):
            pipeline = client.pipeline(transaction=False)
            for message in messages[first : first + BATCH]:
                fields: Any = {**message.headers, "content-type": message.content_type, "data": message.body}
                pipeline.xadd(topic, fields)
            await pipeline.execute()
        await client.aclose()

    async def receive(self, url: str, topic: str, count: int) -> None:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(url, protocol=2)
        done = 0
        while done < count:
            found: Any = await client.xreadgroup(topic, "raw", {topic: ">"}, count=BATCH, block=5000)
            entries = found[0][1]
            await client.xack(topic, topic, *[entry for entry, _ in entries])
            done += len(entries)
        await client.aclose()


class _Kafka:
    async def publish(self, url: str, topic: str, messages: Sequence[Message]) -> None:
        await asyncio.to_thread(self._publish, url.removeprefix("kafka://"), topic, messages)

    def _publish(self, servers: str, topic: str, messages: Sequence[Message]) -> None:
        import confluent_kafka

        confirmed = 0

        def delivered(error: Any, _message: Any) -> None:
            nonlocal confirmed
            confirmed += error is None

        producer = confluent_kafka.Producer({"bootstrap.servers": servers, "enable.idempotence": True, "acks": "all", "linger.ms": 5})
        for message in messages:
            headers: Any = [*message.headers.items(), ("content-type", message.content_type)]
            producer.produce(topic, message.body, message.key, headers=headers, on_delivery=delivered)
            producer.poll(0)
        producer.flush()
        assert confirmed == len(messages)

    async def receive(self, url: str, topic: str, count: int) -> None:
        await asyncio.to_thread(self._receive, url.removeprefix("kafka://"), topic, count)

    def _receive(self, servers: str, topic: str, count: int) -> None:
        import confluent_kafka

        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": servers, "group.id": f"{topic}-raw", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        )
        consumer.subscribe([topic])
        done = 0
        while done < count:
            found = consumer.consume(BATCH, 0.1)
            for message in found:
                message.headers()
                message.value()
            done += len(found)
            if found:
                consumer.commit(asynchronous=True)
        consumer.close()


RAW: dict[str, Raw] = {"rabbitmq": _RabbitMQ(), "nats": _NATS(), "redis": _Redis(), "kafka": _Kafka()}
