"""RabbitMQ: one durable topic exchange, the topic as the routing key, and a quorum queue for each group.

Confirms are pipelined and every message is `mandatory`, so one that no queue takes is refused. Each confirm stands for itself, in any order.
A group's queue has a single active consumer, which keeps it ordered; its delivery limit is as high as it goes and its dead letters have an
exchange of their own, because a broker that counts deliveries would drop good messages of consumers that crash. Nothing is ever put back by
`nack`, which changes the order: closing the channel returns what was not acknowledged to the head.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from tidings.codecs.bindings import AMQP, Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import (
    CONFIRMED,
    Failure,
    Incoming,
    Outcome,
    Outgoing,
    Provision,
    as_header,
    refused,
    sifted,
    size_of,
    unconfirmed,
)
from tidings.transports.urls import described

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

__all__ = ["RabbitMQ"]

_PERSISTENT = 2
# A quorum queue counts deliveries up to this and no further.
_DELIVERY_LIMIT = 1_000_000


@dataclass(frozen=True)
class RabbitMQ:
    """A broker, or a cluster behind one address, that speaks AMQP 0.9.1.

    Attributes:
        url: `amqp://user:password@host:port/vhost`, or `amqps://`; TLS and heartbeat as parameters, as aiormq knows them.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `cap` writes messages as DotNetCore.CAP does.
        exchange: the topic exchange that everything is published to.
        ordered: whether one consumer of a group at a time is active, which keeps the order; else all of them share its messages.
        prefetch: messages that a receiver may have without having acknowledged them, 1 to 65535.
        most: bytes that a message may have; the broker closes the channel over a larger one than it takes.
        timeout: seconds without a confirmation after which a publisher is over.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "rabbitmq"
    wire: Wire = "cloudevents"
    exchange: str = "tidings"
    ordered: bool = True
    prefetch: int = 1000
    most: int = 16 << 20
    timeout: float = 30.0

    @property
    def failure(self) -> Failure:
        """Each confirm stands for itself."""
        return "independent"

    @property
    def binding(self) -> Binding:
        """AMQP's."""
        return AMQP

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Declare the exchanges, and for each group a queue that is bound to its topics."""
        if mode == "off":
            return
        aiormq = _aiormq()
        connection = await self._connect()
        try:
            channel = await connection.channel()
            dead = f"{self.exchange}.dead"
            passive = mode == "verify"
            await channel.exchange_declare(self.exchange, exchange_type="topic", durable=True, passive=passive)
            await channel.exchange_declare(dead, exchange_type="fanout", durable=True, passive=passive)
            await channel.queue_declare(dead, durable=True, passive=passive, arguments={"x-queue-type": "quorum"})
            if not passive:
                await channel.queue_bind(dead, dead)
            for group, needed in groups.items():
                await channel.queue_declare(group, durable=True, passive=passive, arguments=self._arguments(dead))
                for topic in needed if not passive else ():
                    await channel.queue_bind(group, self.exchange, routing_key=topic)
        except aiormq.exceptions.ChannelClosed as error:
            raise ProvisionError(f"{described(self.url)}: {_reason(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError) as error:
            raise TransportDown(f"{described(self.url)}: {_reason(error)}") from error
        finally:
            await _closed(connection)

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        connection = await self._connect()
        return _Publisher(self, connection, await self._channel(connection, confirms=True))

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive what the group's queue has; it is bound to the topics already."""
        aiormq = _aiormq()
        connection = await self._connect()
        receiver = _Receiver(self, connection, await self._channel(connection, confirms=False), group)
        try:
            await receiver.start()
        except aiormq.exceptions.ChannelClosed as error:
            await _closed(connection)
            raise ProvisionError(f"{described(self.url)}: {_reason(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError) as error:
            await _closed(connection)
            raise TransportDown(f"{described(self.url)}: {_reason(error)}") from error
        return receiver

    def _arguments(self, dead: str) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-dead-letter-exchange": dead,
            "x-single-active-consumer": self.ordered,
        }

    async def _connect(self) -> AbstractConnection:
        aiormq = _aiormq()
        try:
            async with asyncio.timeout(self.timeout):
                connection: AbstractConnection = await aiormq.connect(self.url)
                return connection
        except (aiormq.exceptions.AMQPError, OSError, TimeoutError) as error:
            raise TransportDown(f"{described(self.url)}: {_reason(error)}") from error

    async def _channel(self, connection: AbstractConnection, *, confirms: bool) -> AbstractChannel:
        aiormq = _aiormq()
        try:
            return await connection.channel(publisher_confirms=confirms, on_return_raises=False)
        except (aiormq.exceptions.AMQPError, OSError) as error:
            await _closed(connection)
            raise TransportDown(f"{described(self.url)}: {_reason(error)}") from error


class _Publisher:
    def __init__(self, transport: RabbitMQ, connection: AbstractConnection, channel: AbstractChannel) -> None:
        self._transport = transport
        self._connection = connection
        self._channel = channel
        self._over: str | None = None

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        outcomes = sifted(batch, self._why_not)
        tasks = {number: asyncio.ensure_future(self._send(batch[number])) for number, outcome in enumerate(outcomes) if outcome is None}
        if tasks:
            try:
                await self._wait(list(tasks.values()))
            finally:
                for task in tasks.values():
                    task.cancel()
        for number, task in tasks.items():
            outcomes[number] = self._outcome(task)
        if self._over is not None:
            # What is still under way there must not arrive after what follows on another connection.
            await _closed(self._connection)
        return [outcome for outcome in outcomes if outcome is not None]

    async def _wait(self, tasks: Sequence[asyncio.Future[object]]) -> None:
        """Wait until all are confirmed, the channel is closed, or the time is over.

        The client lets some wait for ever when its connection ends at the wrong moment.
        """
        sending = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait({sending, self._channel.closing}, timeout=self._transport.timeout, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            return
        if not self._channel.closing.done():
            self._over = f"no confirmation within {self._transport.timeout:g} seconds"
        self._over = self._over or "the connection is lost"
        for task in tasks:
            task.cancel()
        await asyncio.wait({sending}, timeout=1)

    async def close(self) -> None:
        self._over = self._over or "the publisher is closed"
        await _closed(self._connection)

    def _why_not(self, outgoing: Outgoing) -> str | None:
        if (size := size_of(outgoing.message)) > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        if len(outgoing.topic.encode()) > 255:
            return "the topic has more than the 255 bytes of a routing key"
        return None

    async def _send(self, outgoing: Outgoing) -> object:
        if self._over is not None:
            raise TransportDown(self._over)
        message = outgoing.message
        channel: Any = self._channel  # its abstract class lacks `wait`
        return await channel.basic_publish(
            message.body or b"",
            exchange=self._transport.exchange,
            routing_key=outgoing.topic,
            properties=_properties(message),
            mandatory=True,
            wait=False,
        )

    def _outcome(self, task: asyncio.Future[object]) -> Outcome:
        aiormq = _aiormq()
        error = None if not task.done() or task.cancelled() else task.exception()
        if isinstance(error, aiormq.exceptions.DeliveryError):
            self._over = "the broker could not store a message"
        elif error is not None:
            self._over = self._over or _reason(error)
        elif task.done() and not task.cancelled():
            if isinstance(task.result(), aiormq.spec.Basic.Ack):
                return CONFIRMED
            return refused("no queue is bound to the exchange for its topic")
        self._over = self._over or "the connection is lost"
        return unconfirmed(self._over)


class _Receiver:
    def __init__(self, transport: RabbitMQ, connection: AbstractConnection, channel: AbstractChannel, group: str) -> None:
        self._transport = transport
        self._connection = connection
        self._channel = channel
        self._group = group
        self._waiting: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        self._over: str | None = None

    async def start(self) -> None:
        self._channel.closing.add_done_callback(self._ended)
        await self._channel.basic_qos(prefetch_count=self._transport.prefetch)
        await self._channel.basic_consume(self._group, self._take)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        found: list[Incoming] = []
        waiting = self._waiting
        if waiting.empty() and self._over is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    first = await waiting.get()
                    if first is not None:
                        found.append(self._incoming(first))
        while self._over is None and len(found) < most and not waiting.empty():
            if (delivered := waiting.get_nowait()) is not None:
                found.append(self._incoming(delivered))
        if self._over is not None:
            raise TransportDown(f"{described(self._transport.url)}: {self._over}")
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        aiormq = _aiormq()
        try:
            mine = [tag for owner, tag in (one.receipt for one in incoming) if owner is self]
            for number, tag in enumerate(mine, 1):
                # One by one: `multiple` would acknowledge what is still being handled, too. The last one waits until all are written.
                await self._channel.basic_ack(tag, wait=number == len(mine))
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            self._over = self._over or _reason(error)
        if self._over is not None:
            raise TransportDown(f"{described(self._transport.url)}: {self._over}")

    async def close(self) -> None:
        self._over = self._over or "the receiver is closed"
        self._waiting.put_nowait(None)
        await _closed(self._connection)

    async def _take(self, delivered: DeliveredMessage) -> None:
        self._waiting.put_nowait(delivered)

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        reason = None if closing.cancelled() else closing.exception()
        self._over = self._over or (_reason(reason) if reason is not None else "the connection is lost")
        self._waiting.put_nowait(None)

    def _incoming(self, delivered: DeliveredMessage) -> Incoming:
        properties = delivered.header.properties
        headers = {name: as_header(value) for name, value in (properties.headers or {}).items()}
        count = headers.pop("x-delivery-count", None)
        message = Message(
            headers, bytes(delivered.body), properties.content_type, None, properties.message_id, properties.message_type, properties.correlation_id
        )  # fmt: skip
        topic = delivered.routing_key or ""
        # A queue has no numbers to tell its messages by; their own ids have to do.
        coordinates = f"{self._group}/{properties.message_id or delivered.delivery_tag}"
        return Incoming(topic, message, coordinates, (self, delivered.delivery_tag), self._group, bool(delivered.redelivered or count))


def _properties(message: Message) -> Any:
    return _aiormq().spec.Basic.Properties(
        headers={name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in message.headers.items()},
        content_type=message.content_type,
        delivery_mode=_PERSISTENT,
        message_id=message.id,
        message_type=message.type,
        correlation_id=message.correlation_id,
    )


async def _closed(connection: AbstractConnection) -> None:
    """Close it, in seconds at most, whatever state it is in."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await connection.close()


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _aiormq() -> Any:
    try:
        import aiormq
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.rabbitmq", "rabbitmq") from error
    return aiormq
