"""Apache Kafka: topics with partitions, the message's key chooses the partition as Java's clients choose it, consumer groups.

The client is librdkafka's own, which is synchronous: it runs on one thread of its own for each publisher and receiver.

Publishing is idempotent and without gaps, and no message ever times out by itself: so a message that was not confirmed says that no later one
of its partition was sent either (https://github.com/confluentinc/librdkafka/blob/master/INTRODUCTION.md, "Gapless guarantee"). A publisher that
gives up throws away what it has not sent.

Receiving commits, for each partition, the longest run of messages that are finished without a gap. What is taken away from a receiver in good
order is committed so far; what it has lost is not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from importlib import import_module
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from tidings.codecs.bindings import KAFKA as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, unconfirmed

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

__all__ = ["Kafka"]

T = TypeVar("T")

_CONTENT_TYPE = "content-type"
# How long one call of the client may keep its thread.
_SLICE = 0.1
# Seconds that a receiver has for leaving its group.
_LEAVING = 5.0


@dataclass(frozen=True)
class Kafka:
    """A cluster.

    Attributes:
        url: `host:port`, or several with commas between them; a scheme `kafka://` before them is left out.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `cap` writes messages as DotNetCore.CAP does.
        partitions, replicas: of a topic that is made here.
        most: bytes that a message may have; the cluster has a limit of its own.
        options: more of librdkafka's, for TLS and SASL; they hold passwords, and are never shown.
        timeout: seconds without a confirmation after which a publisher is over.
        session: seconds after which the group takes over what a receiver held that is gone.
    """

    url: str
    _: KW_ONLY
    name: str = "kafka"
    wire: Wire = "cloudevents"
    partitions: int = 12
    replicas: int = 1
    most: int = 1_000_000
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict, repr=False)
    timeout: float = 30.0
    session: float = 45.0

    @property
    def failure(self) -> Failure:
        """A message that was not confirmed says that no later one of its partition was sent."""
        return "prefix"

    @property
    def ordered(self) -> bool:
        """By partition."""
        return True

    @property
    def binding(self) -> Binding:
        """Kafka's own."""
        return BINDING

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make topics. Groups are made by whoever receives for them."""
        if mode != "off":
            wanted = sorted({*topics, *(topic for needed in groups.values() for topic in needed)})
            await asyncio.to_thread(self._provision, wanted, mode)

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        publisher = _Publisher(self)
        try:
            await publisher.start()
        except BaseException:
            await publisher.close()
            raise
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive."""
        receiver = _Receiver(self, group, topics)
        try:
            await receiver.start()
        except BaseException:
            await receiver.close()
            raise
        return receiver

    def _provision(self, topics: Sequence[str], mode: Provision) -> None:
        kafka = _kafka()
        client = kafka.admin.AdminClient(self._settings())
        try:
            known = client.list_topics(timeout=self.timeout).topics
            missing = [topic for topic in topics if topic not in known]
            if missing and mode == "verify":
                raise ProvisionError(f"{self.url}: there is no topic {missing[0]!r}")
            made = (
                client.create_topics([kafka.admin.NewTopic(topic, self.partitions, self.replicas) for topic in missing]) if missing else {}
            )
            for topic, future in made.items():
                try:
                    future.result(self.timeout)
                except kafka.KafkaException as error:
                    if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                        raise ProvisionError(f"{self.url}: topic {topic!r} cannot be made: {error.args[0].str()}") from error
            deadline = monotonic() + self.timeout
            while missing and monotonic() < deadline:
                # A topic is made before every broker knows it.
                known = client.list_topics(timeout=self.timeout).topics
                missing = [topic for topic in missing if topic not in known or not known[topic].partitions]
        except kafka.KafkaException as error:
            raise TransportDown(f"{self.url}: {error.args[0].str()}") from error

    def _settings(self, **more: object) -> dict[str, Any]:
        # What it has to say comes in errors, not on the standard error stream.
        return {"bootstrap.servers": self.url.removeprefix("kafka://"), "log_level": 0, **self.options, **more}


class _Threaded:
    """Runs what blocks on a thread of its own, one call after the other."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"tidings-{name}")

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


class _Publisher(_Threaded):
    def __init__(self, transport: Kafka) -> None:
        super().__init__("kafka-publisher")
        self._transport = transport
        self._over: str | None = None
        self._topics: set[str] = set()
        self._producer: Producer | None = None

    async def start(self) -> None:
        await self._call(self._connect)

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        if self._over is not None:
            return [unconfirmed(self._over)] * len(batch)
        try:
            return await self._call(self._publish, batch)
        except RuntimeError:
            return [unconfirmed(self._over or "the publisher is closed")] * len(batch)

    async def close(self) -> None:
        self._over = self._over or "the publisher is closed"
        with contextlib.suppress(RuntimeError):
            await self._call(self._purge)
        self._thread.shutdown(wait=False)

    def _connect(self) -> None:
        kafka = _kafka()
        transport = self._transport
        settings = transport._settings(
            **{
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "acks": "all",
                # A message that times out by itself would leave a gap that the guarantee does not cover.
                "message.timeout.ms": 0,
                # The partition of a key is the same as for clients in Java.
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                "message.max.bytes": transport.most + 4096,
                "queue.buffering.max.messages": 0,
                "queue.buffering.max.kbytes": 1 << 20,
                "error_cb": self._noticed,
            }
        )
        producer: Producer = kafka.Producer(settings)
        self._producer = producer
        try:
            producer.list_topics(timeout=min(transport.timeout, 10.0))
        except kafka.KafkaException as error:
            raise TransportDown(f"{transport.url}: {error.args[0].str()}") from error

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() == _kafka().KafkaError._ALL_BROKERS_DOWN:
            self._over = self._over or error.str()

    def _publish(self, batch: Sequence[Outgoing]) -> list[Outcome]:
        kafka = _kafka()
        producer = self._producer
        assert producer is not None
        producer.poll(0)
        outcomes = sifted(batch, self._why_not)
        left = 0

        def delivered(number: int) -> Callable[[Any, Any], None]:
            def note(error: Any, _message: Any) -> None:
                nonlocal left
                left -= 1
                outcomes[number] = CONFIRMED if error is None else self._failed(error)

            return note

        for number, outgoing in enumerate(batch):
            if outcomes[number] is None and self._over is None:
                message = outgoing.message
                try:
                    producer.produce(outgoing.topic, message.body, message.key, headers=_headers(message), on_delivery=delivered(number))
                    left += 1
                except (kafka.KafkaException, BufferError) as error:
                    self._over = self._over or str(error)
        deadline = monotonic() + self._transport.timeout
        while left and self._over is None:
            producer.poll(_SLICE)
            if left and monotonic() > deadline:
                self._over = self._over or "no confirmation in time"
        if self._over is not None:
            # It must not be sent any more: somebody else is going to send it again.
            self._purge()
        return [outcome or unconfirmed(self._over or "no confirmation") for outcome in outcomes]

    def _failed(self, error: Any) -> Outcome:
        if error.code() == _kafka().KafkaError.MSG_SIZE_TOO_LARGE:
            return refused(f"the cluster takes no message of this size: {error.str()}")
        self._over = self._over or error.str()
        return unconfirmed(error.str())

    def _why_not(self, outgoing: Outgoing) -> str | None:
        message = outgoing.message
        size = len(message.body or b"") + sum(len(name) + len(value or b"") for name, value in _headers(message)) + len(message.key or "")
        if size > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        if outgoing.topic not in self._topics and not self._known(outgoing.topic):
            return f"there is no topic {outgoing.topic!r}"
        return None

    def _known(self, topic: str) -> bool:
        """Ask for a topic once; the client itself would wait for one that does not exist."""
        assert self._producer is not None
        try:
            found = self._producer.list_topics(topic, timeout=self._transport.timeout).topics[topic]
        except _kafka().KafkaException as error:
            self._over = self._over or error.args[0].str()
            return True
        if found.error is None:
            self._topics.add(topic)
        return found.error is None

    def _purge(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.poll(0)


class _Partition:
    """How far the messages of a partition are finished without a gap."""

    __slots__ = ("finished", "read")

    def __init__(self) -> None:
        self.read: deque[int] = deque()
        self.finished: set[int] = set()

    def advance(self) -> int | None:
        """Return the offset to commit, the next one to read, or None when there is nothing new."""
        done = None
        while self.read and self.read[0] in self.finished:
            done = self.read.popleft()
            self.finished.discard(done)
        return None if done is None else done + 1


class _Receiver(_Threaded):
    def __init__(self, transport: Kafka, group: str, topics: Sequence[str]) -> None:
        super().__init__("kafka-receiver")
        self._transport = transport
        self._group = group
        self._names = list(topics)
        self._over: str | None = None
        self._consumer: Consumer | None = None
        self._committing = 0
        # Shared with the client's thread, on which partitions come and go.
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._shared = Lock()

    async def start(self) -> None:
        await self._call(self._connect)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        deadline = monotonic() + seconds
        found: list[Incoming] = []
        try:
            while not found and self._over is None:
                # In slices, so that acknowledging need not wait for news.
                left = deadline - monotonic()
                found = await self._call(self._consume, min(most, 10_000), max(0.0, min(left, _SLICE)))
                if left <= _SLICE:
                    break
        except RuntimeError as error:
            self._over = self._over or str(error)
        if self._over is not None:
            raise TransportDown(f"{self._transport.url}: {self._over}")
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        if self._over is None and incoming:
            try:
                await self._call(self._finish, incoming)
            except RuntimeError as error:
                self._over = self._over or str(error)
        if self._over is not None:
            raise TransportDown(f"{self._transport.url}: {self._over}")

    async def close(self) -> None:
        self._over = self._over or "the receiver is closed"
        with contextlib.suppress(RuntimeError):
            await self._call(self._leave)
        self._thread.shutdown(wait=False)

    def _connect(self) -> None:
        kafka = _kafka()
        transport = self._transport
        settings = transport._settings(
            **{
                "group.id": self._group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(transport.session * 1000),
                "heartbeat.interval.ms": int(transport.session * 1000 / 4),
                "error_cb": self._noticed,
                "on_commit": self._committed,
            }
        )
        consumer: Consumer = kafka.Consumer(settings)
        self._consumer = consumer
        try:
            known = consumer.list_topics(timeout=min(transport.timeout, 10.0)).topics
        except kafka.KafkaException as error:
            raise TransportDown(f"{transport.url}: {error.args[0].str()}") from error
        if missing := [topic for topic in self._names if topic not in known]:
            raise ProvisionError(f"{transport.url}: there is no topic {missing[0]!r}")
        consumer.subscribe(self._names, on_revoke=self._revoked, on_lost=self._lost)

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() == _kafka().KafkaError._ALL_BROKERS_DOWN:
            self._over = self._over or error.str()

    def _consume(self, most: int, seconds: float) -> list[Incoming]:
        if self._consumer is None:
            return []
        found: list[Incoming] = []
        for message in self._consumer.consume(most, seconds):
            if (error := message.error()) is not None:
                if error.code() in (_kafka().KafkaError.UNKNOWN_TOPIC_OR_PART, _kafka().KafkaError._ALL_BROKERS_DOWN) or error.fatal():
                    self._over = self._over or error.str()
                continue
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            with self._shared:
                self._partitions.setdefault((topic, partition), _Partition()).read.append(offset)
            found.append(self._incoming(message, topic, partition, offset))
        return found

    def _finish(self, incoming: Sequence[Incoming]) -> None:
        kafka = _kafka()
        if (consumer := self._consumer) is None:
            return
        touched: set[tuple[str, int]] = set()
        with self._shared:
            for one in incoming:
                owner, state, partition, offset = one.receipt
                # Of a partition that went and came again, what was read before is somebody else's now.
                if owner is self and self._partitions.get((one.topic, partition)) is state:
                    state.finished.add(offset)
                    touched.add((one.topic, partition))
            offsets = self._advanced(touched)
        if offsets:
            try:
                consumer.commit(offsets=offsets, asynchronous=True)
                self._committing += 1
            except kafka.KafkaException as error:
                self._over = self._over or error.args[0].str()

    def _advanced(self, partitions: set[tuple[str, int]]) -> list[Any]:
        kafka = _kafka()
        return [
            kafka.TopicPartition(*place, offset)
            for place in partitions
            if place in self._partitions and (offset := self._partitions[place].advance()) is not None
        ]

    def _revoked(self, _consumer: Consumer, partitions: Sequence[Any]) -> None:
        # What was finished has been committed already; whatever is still under way is read again by whoever comes next.
        with self._shared:
            for place in partitions:
                self._partitions.pop((place.topic, place.partition), None)

    _lost = _revoked

    def _leave(self) -> None:
        """Wait for commits and leave the group, for a bounded time: the client's own `close` waits for brokers that are gone."""
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        deadline = monotonic() + _LEAVING
        with contextlib.suppress(_kafka().KafkaException, RuntimeError):
            # A message that comes with it is not acknowledged and so not lost.
            while self._committing > 0 and monotonic() < deadline:
                consumer.poll(_SLICE / 2)
            consumer.unsubscribe()
            while consumer.assignment() and monotonic() < deadline:
                consumer.poll(_SLICE / 2)
            consumer.poll(_SLICE / 2)

    def _committed(self, _error: Any, _offsets: Any) -> None:
        self._committing -= 1

    def _incoming(self, message: Any, topic: str, partition: int, offset: int) -> Incoming:
        headers: dict[str, str | bytes | None] = dict(message.headers() or ())
        content_type, key = headers.pop(_CONTENT_TYPE, None), message.key()
        found = Message(
            headers,
            message.value(),
            content_type.decode("utf-8", "backslashreplace") if isinstance(content_type, bytes) else content_type,
            key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key,
        )
        state = self._partitions[topic, partition]
        return Incoming(topic, found, f"{topic}/{partition}/{offset}", (self, state, partition, offset), f"{topic}/{partition}")


def _headers(message: Message) -> list[tuple[str, str | bytes | None]]:
    headers: list[tuple[str, str | bytes | None]] = [
        (name, value.encode() if isinstance(value, str) else value) for name, value in message.headers.items()
    ]
    if message.content_type is not None:
        headers.append((_CONTENT_TYPE, message.content_type.encode()))
    return headers


def _kafka() -> Any:
    try:
        import_module("confluent_kafka.admin")
        return import_module("confluent_kafka")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.kafka", "kafka") from error
