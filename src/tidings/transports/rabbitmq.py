"""RabbitMQ: one durable topic exchange, the topic as the routing key, and a quorum queue for each group, or several by key.

What is published says in a header which of 64 slots its key has, and a group with several queues has a headers exchange that knows whose they are.

Confirms are pipelined and every message is `mandatory`, so one that no queue takes is refused. Each confirm stands for itself, in any order.
A group's queue has a single active consumer, which keeps it ordered; its delivery limit is as high as it goes and its dead letters have an
exchange of their own, because a broker that counts deliveries would drop good messages of consumers that crash. Nothing is ever put back by
`nack`, which changes the order: closing the channel returns what was not acknowledged to the head.

The connection, its handshake, heartbeats and everything that is declared are the client's; messages and their confirmations are written and read
here, a batch at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.codecs.bindings import AMQP, Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, MissingExtra, ProvisionError, TransportDown
from tidings.transports.amqp_frames import SLOT, SLOTS, acknowledgement, frames
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, size_of, unconfirmed
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

    from tidings.transports.amqp_stream import Content, Listener, Tapped

__all__ = ["RabbitMQ"]

_CHANNEL = 1
# A quorum queue counts deliveries up to this and no further.
_DELIVERY_LIMIT = 1_000_000
# Bytes that may wait for whoever receives before the broker has to wait, too.
_MOST_WAITING = 64 << 20


@dataclass(frozen=True)
class RabbitMQ:
    """A broker, or a cluster behind one address, that speaks AMQP 0.9.1.

    Attributes:
        url: `amqp://user:password@host:port/vhost`, or `amqps://`; TLS and heartbeat as parameters, as aiormq knows them.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body; `cap` writes messages as DotNetCore.CAP does.
        exchange: the topic exchange that everything is published to; CAP's is `cap.default.router`.
        ordered: whether one consumer of a queue at a time is active, which keeps the order; else all of them share its messages.
        partitions: queues that a group's messages are spread over by key, 1 to 64; None is one queue. What comes without our header
            `tidings-slot` (from others, and with `wire="cap"`) is all in the first. It cannot be changed while there are messages.
        prefetch: messages that a receiver may have without having acknowledged them, 1 to 65535.
        most: bytes that a message may have; the broker closes the channel over a larger one than it takes. Of a larger one that is received
            only the beginning is kept.
        timeout: seconds without a confirmation after which a publisher is over.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "rabbitmq"
    wire: Wire = "cloudevents"
    exchange: str = "tidings"
    ordered: bool = True
    partitions: int | None = None
    prefetch: int = 1000
    most: int = 16 << 20
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.partitions is not None and not 1 <= self.partitions <= SLOTS:
            raise ConfigurationError(f"partitions={self.partitions} is not 1 to {SLOTS}, nor None for one queue without partitions")

    @property
    def failure(self) -> Failure:
        """Each confirm stands for itself."""
        return "independent"

    @property
    def across_topics(self) -> bool:
        """A group has the same queue, or for each key the same one, for all of its topics."""
        return True

    @property
    def binding(self) -> Binding:
        """AMQP's."""
        return AMQP

    def shards(self, group: str) -> list[str]:
        """Return the names of a group's queues."""
        return [group] if self.partitions is None else [f"{group}.{number}" for number in range(self.partitions)]

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Declare the exchanges, and for each group its queues, bound to its topics."""
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
                await self._same_partitions(connection, group)
                for queue in self.shards(group):
                    await channel.queue_declare(queue, durable=True, passive=passive, arguments=self._arguments(dead))
                if self.partitions is not None:
                    await self._spread(channel, group, needed, passive=passive)
                else:
                    for topic in needed if not passive else ():
                        await channel.queue_bind(group, self.exchange, routing_key=topic)
        except aiormq.exceptions.ChannelClosed as error:
            raise ProvisionError(f"{described(self.url)}: {_reason(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (_cancelling() or not connection.is_closed):
                raise
            raise self._down(error) from error
        finally:
            await _closed(connection)

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        publisher = _Publisher(self)
        await publisher.start()
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive what the group's queues have; they are bound to the topics already."""
        aiormq = _aiormq()
        receiver = _Receiver(self, group)
        try:
            await receiver.start()
        except aiormq.exceptions.ChannelClosed as error:
            await receiver.close()
            raise ProvisionError(f"{described(self.url)}: {_reason(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            await receiver.close()
            raise self._down(error) from error
        return receiver

    def _arguments(self, dead: str) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-dead-letter-exchange": dead,
            "x-single-active-consumer": self.ordered,
        }

    async def _same_partitions(self, connection: AbstractConnection, group: str) -> None:
        """Refuse another number of partitions than the group has: a key's messages would be in two queues.

        Raises:
            ProvisionError: it has another one.
        """
        ring = await _exists(connection, exchange=_ring(group))
        if self.partitions is None:
            if not ring:
                return
            found = "several"
        elif not ring:
            if not await _exists(connection, queue=group):
                return
            found = "None"
        else:
            # The ring is made after its queues, so all of them are there.
            last = [await _exists(connection, queue=f"{group}.{number}") for number in (self.partitions - 1, self.partitions)]
            if last == [True, False]:
                return
            found = "more" if last[1] else "fewer"
        raise ProvisionError(
            f"{described(self.url)}: group {group!r} is made with {found} partitions, not with {self.partitions}: let it handle what it has, "
            f"delete its queues and the exchanges {_ring(group)!r} and {_others(group)!r}, then start with the new number"
        )

    async def _spread(self, channel: AbstractChannel, group: str, topics: Sequence[str], *, passive: bool) -> None:
        """Make what a group's messages are spread over its queues by, the exchange of the slots last.

        A consistent-hash exchange would not need our header, but deals its queues anew in any order when the broker has crashed (seen with 3.10): the
        events of a key would be in two queues.
        """
        ring, rest = _ring(group), _others(group)
        queues = self.shards(group)
        await channel.exchange_declare(rest, exchange_type="fanout", durable=True, passive=passive)
        if not passive:
            await channel.queue_bind(queues[0], rest)
        arguments: dict[str, Any] = {"alternate-exchange": rest}
        await channel.exchange_declare(ring, exchange_type="headers", durable=True, passive=passive, arguments=arguments)
        if passive:
            return
        for slot in range(SLOTS):
            which: dict[str, Any] = {"x-match": "all", SLOT: str(slot)}
            await channel.queue_bind(queues[slot % len(queues)], ring, arguments=which)
        for topic in topics:
            await channel.exchange_bind(ring, self.exchange, routing_key=topic)

    async def _connect(self, **options: Any) -> AbstractConnection:
        aiormq = _aiormq()
        try:
            async with asyncio.timeout(self.timeout):
                connection: AbstractConnection = await aiormq.connect(self.url, **options)
                return connection
        except (aiormq.exceptions.AMQPError, OSError, TimeoutError) as error:
            raise self._down(error) from error
        except (ValueError, KeyError, TypeError):
            raise unreadable(self.url) from None

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {_reason(error) if isinstance(error, BaseException) else error}")


def _ring(group: str) -> str:
    return f"{group}.partitions"


def _others(group: str) -> str:
    return f"{group}.others"


async def _exists(connection: AbstractConnection, *, queue: str = "", exchange: str = "") -> bool:
    """Tell whether it is there; asking for what is not closes the channel."""
    aiormq = _aiormq()
    channel = await connection.channel()
    try:
        if queue:
            await channel.queue_declare(queue, passive=True)
        else:
            await channel.exchange_declare(exchange, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


class _Call:
    """The messages of one `publish` that are under way, with tags that follow one another."""

    __slots__ = ("_below", "_places", "_returned", "done", "first", "last", "left", "outcomes", "sent")

    def __init__(self, sent: Sequence[Outgoing], first: int) -> None:
        self.sent = sent
        self.first = first
        self.last = first + len(sent) - 1
        self.left = len(sent)
        self.outcomes: list[Outcome | None] = [None] * len(sent)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Those before it have an outcome.
        self._below = 0
        self._returned: set[int] = set()
        self._places: dict[object, deque[int]] | None = None

    def confirm(self, tag: int, multiple: bool) -> None:
        """Note that the broker has this one, or all up to it."""
        end = min(tag, self.last) - self.first + 1
        for number in range(self._below if multiple else end - 1, end):
            if self.outcomes[number] is None:
                self.outcomes[number] = _UNROUTABLE if number in self._returned else CONFIRMED
                self.left -= 1
        if multiple:
            self._below = end
        if not self.left and not self.done.done():
            self.done.set_result(None)

    def give_back(self, topic: str, message: Message) -> bool:
        """Note that no queue takes a message; its confirmation is still to come. Return whether it is one of these."""
        if self._places is None:
            self._places = {}
            for number, outgoing in enumerate(self.sent):
                if self.outcomes[number] is None:
                    self._places.setdefault(_identity(outgoing.topic, outgoing.message), deque()).append(number)
        if places := self._places.get(_identity(topic, message)):
            self._returned.add(places.popleft())
            return True
        return False


_UNROUTABLE = refused("no queue is bound to the exchange for its topic")


def _identity(topic: str, message: Message) -> object:
    return (topic, message.id) if message.id is not None else (topic, None, message.body or b"")


class _Publisher:
    def __init__(self, transport: RabbitMQ) -> None:
        self._transport = transport
        self._link = _Link(transport, self, self._broke)
        self._over: str | None = None
        self._broken = False
        self._turn = asyncio.Lock()
        self._calls: deque[_Call] = deque()
        self._tag = 0

    async def start(self) -> None:
        await self._link.open(confirms=True)

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        written: list[bytes] = []
        outcomes = sifted(batch, lambda outgoing: self._write(outgoing, written))
        numbers = [number for number, outcome in enumerate(outcomes) if outcome is None]
        if numbers:
            found = await self._send([batch[number] for number in numbers], b"".join(written))
            for number, outcome in zip(numbers, found, strict=True):
                outcomes[number] = outcome or unconfirmed(self._over or "the connection is lost", broken=self._broken)
        if self._over is not None:
            # What is still under way there must not arrive after what follows on another connection.
            await self._link.close()
        return [outcome for outcome in outcomes if outcome is not None]

    async def close(self) -> None:
        self._lost("the publisher is closed")
        await self._link.close()

    def _write(self, outgoing: Outgoing, written: list[bytes]) -> str | None:
        """Add the message's frames, or return why it cannot be sent."""
        if (size := size_of(outgoing.message)) > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        try:
            # What CAP writes has CAP's headers only.
            slotted = self._transport.wire != "cap"
            written.append(frames(outgoing.message, self._transport.exchange, outgoing.topic, _CHANNEL, self._link.most, slotted=slotted))
        except ValueError as error:
            return str(error)
        return None

    async def _send(self, sent: Sequence[Outgoing], payload: bytes) -> Sequence[Outcome | None]:
        call: _Call | None = None
        try:
            async with asyncio.timeout(self._transport.timeout):
                async with self._turn:
                    if self._over is not None:
                        return [None] * len(sent)
                    call = _Call(sent, self._tag + 1)
                    self._tag = call.last
                    self._calls.append(call)
                    try:
                        await self._link.write(payload)
                    except BaseException:
                        # Whether the broker has counted these is not known.
                        self._lost("sending was interrupted")
                        raise
                await call.done
        except TimeoutError:
            self._lost(f"no confirmation within {self._transport.timeout:g} seconds")
        except TransportDown as error:
            self._broke(str(error))
        return [None] * len(sent) if call is None else call.outcomes

    def _broke(self, reason: str) -> None:
        self._broken = self._broken or self._over is None
        self._lost(reason)

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call in self._calls:
            if not call.done.done():
                call.done.set_result(None)
        self._calls.clear()

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        if not stored:
            self._lost("the broker could not store a message")
        for call in self._calls:
            if call.first > tag:
                break
            if multiple or tag <= call.last:
                call.confirm(tag, multiple)
        while self._calls and not self._calls[0].left:
            self._calls.popleft()

    def returned(self, content: Content) -> None:
        any(call.give_back(content.topic, content.message) for call in self._calls)

    def delivered(self, content: Content) -> None:
        """Nobody is subscribed."""


class _Receiver:
    def __init__(self, transport: RabbitMQ, group: str) -> None:
        self._transport = transport
        self._group = group
        self._link = _Link(transport, self, self._lost)
        self._waiting: deque[Content] = deque()
        self._bytes = 0
        # What has been delivered and not been acknowledged, in the order in which it was.
        self._open: dict[int, None] = {}
        self._queues: dict[str, str] = {}
        self._news = asyncio.Event()
        self._over: str | None = None

    async def start(self) -> None:
        channel = await self._link.open(confirms=False)
        await channel.basic_qos(prefetch_count=self._transport.prefetch)
        channel.on_consumer_cancel_callbacks.add(self._cancelled)
        for queue in self._transport.shards(self._group):
            self._queues[queue] = queue
            await channel.basic_consume(queue, _nobody, consumer_tag=queue)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        if not self._waiting and self._over is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if self._over is not None:
            raise self._transport._down(self._over)
        found = [self._incoming(self._waiting.popleft()) for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._news.clear()
            self._bytes = 0
            self._link.resume()
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        if self._over is not None:
            raise self._transport._down(self._over)
        tags = sorted(tag for owner, tag in (one.receipt for one in incoming) if owner is self and tag in self._open)
        for tag in tags:
            self._open.pop(tag, None)
        # Up to the first that is still being handled one frame says it for all; the others are acknowledged one by one.
        first = next(iter(self._open), None)
        several = [tag for tag in tags if first is None or tag < first]
        payload = [acknowledgement(several[-1], True, _CHANNEL)] if several else []
        payload += [acknowledgement(tag, False, _CHANNEL) for tag in tags[len(several) :]]
        if payload:
            try:
                async with asyncio.timeout(self._transport.timeout):
                    await self._link.write(b"".join(payload))
            except (TransportDown, TimeoutError) as error:
                self._lost(_reason(error))
        if self._over is not None:
            raise self._transport._down(self._over)

    def withdrawn(self) -> frozenset[str]:
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        self._lost("the receiver is closed")
        await self._link.close()

    def delivered(self, content: Content) -> None:
        self._open[content.tag] = None
        self._waiting.append(content)
        self._bytes += len(content.message.body or b"")
        if self._bytes > _MOST_WAITING:
            self._link.pause()
        self._news.set()

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """Nothing is published here."""

    def returned(self, content: Content) -> None:
        """Nothing is published here."""

    def _cancelled(self, _frame: object) -> None:
        self._lost(f"a queue of group {self._group!r} is gone")

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._news.set()

    def _incoming(self, content: Content) -> Incoming:
        message = content.message
        count = None
        if "x-delivery-count" in message.headers or SLOT in message.headers:
            headers = dict(message.headers)
            headers.pop(SLOT, None)
            count = headers.pop("x-delivery-count", None)
            message = msgspec.structs.replace(message, headers=headers)
        queue = self._queues.get(content.consumer, self._group)
        # A queue has no numbers to tell its messages by; their own ids have to do.
        coordinates = f"{queue}/{message.id or content.tag}"
        again = content.redelivered or count not in (None, "0")
        return Incoming(content.topic, message, coordinates, (self, content.tag), queue, again, content.fault)


class _Link:
    """A connection with one channel, for a publisher or a receiver, which listens to what the broker sends there."""

    def __init__(self, transport: RabbitMQ, listener: Listener, lost: Callable[[str], None]) -> None:
        self._transport = transport
        self._listener = listener
        self._lost = lost
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._tapped: Tapped | None = None
        self.most = 4096

    async def open(self, *, confirms: bool) -> AbstractChannel:
        """Connect; what is listened to begins at once."""
        aiormq = _aiormq()
        from tidings.transports.amqp_stream import Tapped

        self._tapped = Tapped(self._listener, _CHANNEL, self._transport.most)
        self._connection = connection = await self._transport._connect(transport_factory=self._tapped)
        try:
            self._channel = channel = await connection.channel(_CHANNEL, publisher_confirms=confirms)
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            await self.close()
            raise self._transport._down(error) from error
        self.most = connection.connection_tune.frame_max
        channel.closing.add_done_callback(self._ended)
        return channel

    async def write(self, payload: bytes) -> None:
        """Hand bytes to the connection, in the order of the calls; return when they are on their way.

        Raises:
            TransportDown: the connection is lost.
        """
        aiormq = _aiormq()
        assert self._connection is not None
        assert self._channel is not None
        try:
            written = self._channel.create_future()
            frame = aiormq.abc.ChannelFrame(payload=payload, should_close=False, drain_future=written)
            await self._connection.write_queue.put(frame)
            await written
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            raise TransportDown(_reason(error)) from error
        except asyncio.CancelledError as error:
            # Closing a channel of this client cancels whoever waits for it.
            if self._channel.is_closed and not _cancelling():
                raise TransportDown("the connection is lost") from error
            raise

    def pause(self) -> None:
        """Let the broker wait."""
        if self._tapped is not None:
            self._tapped.pause()

    def resume(self) -> None:
        """Go on."""
        if self._tapped is not None:
            self._tapped.resume()

    async def close(self) -> None:
        """Close it, in seconds at most, whatever state it is in."""
        if self._connection is not None:
            await _closed(self._connection)

    def _ended(self, closing: asyncio.Future[Any]) -> None:
        reason = None if closing.cancelled() else closing.exception()
        self._lost(_reason(reason) if isinstance(reason, Exception) else "the connection is lost")


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _nobody(_delivered: DeliveredMessage) -> None:
    """Whoever is subscribed listens to the stream itself."""


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
