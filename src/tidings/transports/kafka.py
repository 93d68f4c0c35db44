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
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from importlib import import_module
from itertools import takewhile
from threading import Condition
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from tidings.codecs.bindings import KAFKA as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, size_of, unconfirmed
from tidings.transports.urls import described

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

__all__ = ["Kafka"]

_CONTENT_TYPE = "content-type"
# How long one call of the client may keep its thread; and as long as an acknowledgement waits for its commit.
_SLICE = 0.1
_TICK = 0.05
# What a receiver reads ahead at most, besides as many bytes in the client itself.
_MOST_READY = 2000
# Seconds for which a receiver that is full need not answer its group.
_BUSY = 3.0
_MOST_WAITING = 32 << 20
# Seconds for which a topic that is not there is not asked for again.
_AGAIN = 5.0
# Seconds that a receiver has for leaving its group.
_LEAVING = 5.0


@dataclass(frozen=True)
class Kafka:
    """A cluster.

    Attributes:
        url: `host:port`, or several with commas between them; a scheme `kafka://` before them is left out.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body; `cap` writes messages as DotNetCore.CAP does.
        partitions, replicas: of a topic that is made here.
        most: bytes that a message may have; the cluster has a limit of its own.
        options: more of librdkafka's, for TLS and SASL; they hold passwords, and are never shown.
        timeout: seconds without a confirmation after which a publisher is over.
        session: seconds after which the group takes over what a receiver held that is gone.
        drain: seconds that a receiver waits for what is under way in a partition that it has to give away.
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
    drain: float = 5.0

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
                raise ProvisionError(f"{described(self.url)}: there is no topic {missing[0]!r}")
            made = (
                client.create_topics([kafka.admin.NewTopic(topic, self.partitions, self.replicas) for topic in missing]) if missing else {}
            )
            for topic, future in made.items():
                try:
                    future.result(self.timeout)
                except kafka.KafkaException as error:
                    if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                        raise ProvisionError(f"{described(self.url)}: topic {topic!r} cannot be made: {error.args[0].str()}") from error
            deadline = monotonic() + self.timeout
            while missing and monotonic() < deadline:
                # A topic is made before every broker knows it.
                known = client.list_topics(timeout=self.timeout).topics
                missing = [topic for topic in missing if topic not in known or not known[topic].partitions]
        except kafka.KafkaException as error:
            raise self._down(error.args[0].str()) from error

    def _down(self, reason: str) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {reason}")

    def _metadata(self, client: Producer | Consumer, over: Callable[[], str | None]) -> Any:
        """Connect, and return what the cluster says of itself.

        Raises:
            TransportDown: it does not answer, or refuses us.
        """
        deadline = monotonic() + min(self.timeout, 10.0)
        while True:
            try:
                return client.list_topics(timeout=1.0)
            except _kafka().KafkaException as error:
                # Why it has failed is told to the one who polls.
                client.poll(0)
                if (reason := over()) is not None or monotonic() > deadline:
                    raise self._down(reason or error.args[0].str()) from error

    def _settings(self, **more: object) -> dict[str, Any]:
        # What it has to say comes in errors, not on the standard error stream.
        return {"bootstrap.servers": self.url.removeprefix("kafka://"), "log_level": 0, **self.options, **more}


class _Call:
    """The messages of one `publish` that are under way."""

    __slots__ = ("_loop", "_lost", "done", "left", "outcomes")

    def __init__(self, outcomes: list[Outcome | None], lost: Callable[[str], None]) -> None:
        self.outcomes = outcomes
        self.left = outcomes.count(None)
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def delivered(self, number: int, error: Any, _message: Any) -> None:
        """Note what became of one; called on the thread that polls."""
        if error is None:
            self.outcomes[number] = CONFIRMED
        elif error.code() == _kafka().KafkaError.MSG_SIZE_TOO_LARGE:
            self.outcomes[number] = refused(f"the cluster takes no message of this size: {error.str()}")
        else:
            self.outcomes[number] = unconfirmed(error.str())
            self._lost(error.str())
        self.left -= 1
        if not self.left:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Let whoever waits go on."""
        if not self.done.done():
            self.done.set_result(None)


class _Publisher:
    """Messages are handed over by the event loop, which takes no time; a thread waits for what the cluster says of them."""

    def __init__(self, transport: Kafka) -> None:
        self._transport = transport
        self._over: str | None = None
        # Topics that are there, and the others, with until when that need not be asked again.
        self._topics: set[str] = set()
        self._missing: dict[str, tuple[float, str]] = {}
        self._producer: Producer | None = None
        self._turn = asyncio.Lock()
        self._calls: set[_Call] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidings-kafka-publisher")
        self._serving: asyncio.Future[None] | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self._connect)
        self._serving = asyncio.get_running_loop().run_in_executor(self._thread, self._serve)

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        call: _Call | None = None
        async with self._turn:
            if asked := {outgoing.topic for outgoing in batch} - self._topics:
                await asyncio.to_thread(self._ask, asked)
            if self._over is None:
                call = _Call(sifted(batch, self._why_not), self._lost)
                self._calls.add(call)
                await self._produce(batch, call)
        if call is None:
            found: list[Outcome | None] = [None] * len(batch)
        else:
            found = call.outcomes
            try:
                if call.left and self._over is None:
                    async with asyncio.timeout(self._transport.timeout):
                        await call.done
            except TimeoutError:
                self._lost(f"no confirmation within {self._transport.timeout:g} seconds")
            finally:
                self._calls.discard(call)
        if self._over is not None:
            await self._purged()
        return [outcome or unconfirmed(self._over or "the connection is lost") for outcome in found]

    async def close(self) -> None:
        self._lost("the publisher is closed")
        await self._purged()
        self._thread.shutdown(wait=False)
        if self._serving is None:
            self._producer = None

    async def _purged(self) -> None:
        """Wait until nothing is going to be sent any more: somebody else is going to send it again."""
        for call in self._calls:
            call.end()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_LEAVING)

    async def _produce(self, batch: Sequence[Outgoing], call: _Call) -> None:
        kafka = _kafka()
        if (producer := self._producer) is None:
            return
        deadline = monotonic() + self._transport.timeout
        for number, outgoing in enumerate(batch):
            if call.outcomes[number] is not None:
                continue
            message = outgoing.message
            on_delivery = partial(call.delivered, number)
            while self._over is None:
                try:
                    producer.produce(outgoing.topic, message.body, message.key, headers=_headers(message), on_delivery=on_delivery)
                    break
                except BufferError:
                    if monotonic() > deadline:
                        self._lost("the cluster takes messages too slowly")
                    # Confirmations make room.
                    await asyncio.sleep(0.01)
                except kafka.KafkaException as error:
                    self._lost(str(error))
            if number % 500 == 499:
                await asyncio.sleep(0)

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
                "queue.buffering.max.kbytes": 1 << 18,
                "error_cb": self._noticed,
            }
        )
        try:
            producer: Producer = kafka.Producer(settings)
        except kafka.KafkaException as error:
            raise ConfigurationError(f"{described(transport.url)}: {error.args[0].str()}") from None
        self._producer = producer
        transport._metadata(producer, lambda: self._over)

    def _serve(self) -> None:
        """Take what the cluster says until the publisher is over."""
        producer = self._producer
        assert producer is not None
        while self._over is None:
            producer.poll(_SLICE)
        producer.purge()
        producer.poll(0)
        # The client's end waits for its threads: it must come here, not wherever garbage is collected.
        self._producer = None

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() in (_kafka().KafkaError._ALL_BROKERS_DOWN, _kafka().KafkaError._AUTHENTICATION):
            self._lost(error.str())

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        for call in list(self._calls):
            with contextlib.suppress(RuntimeError):
                call._loop.call_soon_threadsafe(call.end)

    def _why_not(self, outgoing: Outgoing) -> str | None:
        if outgoing.topic not in self._topics and outgoing.topic in self._missing:
            return self._missing[outgoing.topic][1]
        message = outgoing.message
        size = size_of(message) + len(message.key or "")
        texts = [value for value in (*message.headers, *message.headers.values(), message.key) if isinstance(value, str)]
        if not "".join(texts).isascii():
            try:
                size += sum([len(text.encode()) - len(text) for text in texts])
            except UnicodeEncodeError as error:
                return f"it cannot be written: {error}"
        if size > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        return None

    def _ask(self, topics: set[str]) -> None:
        """Find out which topics there are: the client itself would wait for one that does not exist."""
        errors = _kafka().KafkaError
        if (producer := self._producer) is None:
            return
        for topic in topics:
            known_until, _ = self._missing.pop(topic, (0.0, ""))
            if known_until > monotonic():
                self._missing[topic] = (known_until, f"there is no topic {topic!r}")
                continue
            found: Any = None
            # A broker may have to hear of one that has just been made.
            for _ in range(3):
                try:
                    found = producer.list_topics(topic, timeout=self._transport.timeout).topics[topic]
                except _kafka().KafkaException as error:
                    self._lost(error.args[0].str())
                    return
                if found.error is None:
                    self._topics.add(topic)
                    break
                sleep(_SLICE)
            else:
                if found.error.code() in (errors.UNKNOWN_TOPIC_OR_PART, errors.TOPIC_EXCEPTION):
                    self._missing[topic] = (monotonic() + _AGAIN, f"there is no topic {topic!r}")
                elif found.error.code() == errors.TOPIC_AUTHORIZATION_FAILED:
                    self._missing[topic] = (monotonic() + _AGAIN, f"topic {topic!r} is forbidden")
                else:
                    # It has no leader just now, say.
                    self._lost(f"topic {topic!r}: {found.error.str()}")
                    return


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


class _Receiver:
    """A thread reads ahead, a bounded number, and answers the group all the time, whatever its user does meanwhile."""

    def __init__(self, transport: Kafka, group: str, topics: Sequence[str]) -> None:
        self._transport = transport
        self._group = group
        self._names = list(topics)
        self._over: str | None = None
        self._consumer: Consumer | None = None
        self._committing = 0
        # What is shared with the thread.
        self._shared = Condition()
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._touched: set[tuple[str, int]] = set()
        self._ready: deque[Incoming] = deque()
        self._bytes = 0
        self._withdrawn: set[str] = set()
        # Whether `receive` has not yet returned because of them: once is enough for a user who does not ask.
        self._unsaid = False
        self._news: asyncio.Event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidings-kafka-receiver")
        self._serving: asyncio.Future[None] | None = None

    async def start(self) -> None:
        await self._loop.run_in_executor(self._thread, self._connect)
        self._serving = self._loop.run_in_executor(self._thread, self._serve)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        deadline = monotonic() + seconds
        while not self._ready and self._over is None and not self._unsaid:
            # The thread may still have to say what has been taken from here already: only time ends the waiting.
            self._news.clear()
            if self._ready or self._over is not None or self._unsaid or (left := deadline - monotonic()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()
        if self._over is not None:
            raise self._transport._down(self._over)
        with self._shared:
            self._unsaid = False
            found = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
            self._bytes = 0 if not self._ready else self._bytes
            self._shared.notify_all()
        return found

    def withdrawn(self) -> frozenset[str]:
        with self._shared:
            found = frozenset(self._withdrawn)
            self._withdrawn.clear()
        return found

    def let_go(self, shards: Collection[str], /) -> None:
        with self._shared:
            for (topic, partition), state in self._partitions.items():
                if f"{topic}/{partition}" in shards:
                    # What is finished without a gap is still to be committed.
                    state.read = deque(takewhile(state.finished.__contains__, state.read))
            self._shared.notify_all()

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        with self._shared:
            for one in incoming:
                owner, state, partition, offset = one.receipt
                place = (one.topic, partition)
                # Of a partition that went and came again, what was read before is somebody else's now.
                if owner is self and self._partitions.get(place) is state:
                    state.finished.add(offset)
                    self._touched.add(place)
            self._shared.notify_all()
        if self._over is not None:
            raise self._transport._down(self._over)

    async def close(self) -> None:
        self._lost("the receiver is closed")
        with self._shared:
            self._shared.notify_all()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=2 * _LEAVING)
        else:
            self._consumer = None
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
                "queued.max.messages.kbytes": _MOST_WAITING >> 10,
                "error_cb": self._noticed,
                "on_commit": self._committed,
            }
        )
        try:
            consumer: Consumer = kafka.Consumer(settings)
        except kafka.KafkaException as error:
            raise ConfigurationError(f"{described(transport.url)}: {error.args[0].str()}") from None
        self._consumer = consumer
        known = transport._metadata(consumer, lambda: self._over).topics
        if missing := [topic for topic in self._names if topic not in known]:
            raise ProvisionError(f"{described(transport.url)}: there is no topic {missing[0]!r}")
        consumer.subscribe(self._names, on_revoke=self._revoked, on_lost=self._taken)

    def _serve(self) -> None:
        """Read, commit and answer the group until the receiver is over, then leave."""
        consumer = self._consumer
        assert consumer is not None
        held: list[Any] = []
        since = monotonic()
        try:
            while self._over is None:
                self._commit(consumer)
                if not self._full():
                    since = monotonic()
                    if held:
                        consumer.resume(held)
                        held = []
                elif not held:
                    if monotonic() - since < _BUSY:
                        with self._shared:
                            if self._full() and not self._touched:
                                self._shared.wait(_TICK)
                        continue
                    # The client throws away what it has read ahead of a paused partition: that is for those who are busy for long.
                    held = consumer.assignment()
                    consumer.pause(held)
                # `consume` waits until it has as many as it may have: the first one is waited for alone.
                first = consumer.poll(_SLICE if held else _TICK)
                if first is not None:
                    self._take([first, *consumer.consume(500, 0)])
        except (_kafka().KafkaException, RuntimeError) as error:
            self._lost(str(error))
        finally:
            with contextlib.suppress(_kafka().KafkaException, RuntimeError):
                self._leave(consumer)
            # The client's end waits for its threads: it must come here, not wherever garbage is collected.
            self._consumer = None

    def _full(self) -> bool:
        return len(self._ready) >= _MOST_READY or self._bytes >= _MOST_WAITING

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() in (_kafka().KafkaError._ALL_BROKERS_DOWN, _kafka().KafkaError._AUTHENTICATION):
            self._lost(error.str())

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)

    def _take(self, messages: Sequence[Any]) -> None:
        errors = _kafka().KafkaError
        found: list[Incoming] = []
        with self._shared:
            for message in messages:
                if (error := message.error()) is not None:
                    if error.code() in (errors.UNKNOWN_TOPIC_OR_PART, errors._ALL_BROKERS_DOWN) or error.fatal():
                        self._lost(error.str())
                    continue
                topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
                self._partitions.setdefault((topic, partition), _Partition()).read.append(offset)
                found.append(self._incoming(message, topic, partition, offset))
                self._bytes += len(message)
            self._ready.extend(found)
        if found:
            self._tell()

    def _commit(self, consumer: Consumer) -> None:
        """Commit, without waiting, what is finished without a gap."""
        if not self._touched:
            return
        with self._shared:
            touched, self._touched = self._touched, set()
            offsets = self._advanced(touched)
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=True)
            self._committing += 1

    def _advanced(self, partitions: set[tuple[str, int]]) -> list[Any]:
        kafka = _kafka()
        return [
            kafka.TopicPartition(*place, offset)
            for place in partitions
            if place in self._partitions and (offset := self._partitions[place].advance()) is not None
        ]

    def _revoked(self, consumer: Consumer, partitions: Sequence[Any]) -> None:
        """Let what is under way be finished, for a bounded time, and commit so far; whoever comes next reads the rest again."""
        places = {(place.topic, place.partition) for place in partitions}
        deadline = monotonic() + self._transport.drain
        with self._shared:
            self._drop(places)
            self._tell()
            while self._over is None and self._unfinished(places) and (left := deadline - monotonic()) > 0:
                self._shared.wait(left)
            offsets = self._advanced(places)
            self._forget(places)
        if offsets:
            try:
                consumer.commit(offsets=offsets, asynchronous=False)
            except _kafka().KafkaException as error:
                if error.args[0].fatal():
                    self._lost(error.args[0].str())

    def _taken(self, _consumer: Consumer, partitions: Sequence[Any]) -> None:
        """Forget what somebody else has already."""
        places = {(place.topic, place.partition) for place in partitions}
        with self._shared:
            self._drop(places)
            self._forget(places)
        self._tell()

    def _drop(self, places: set[tuple[str, int]]) -> None:
        """Take back what its user has not seen yet."""
        self._withdrawn |= {f"{topic}/{partition}" for topic, partition in places}
        self._unsaid = self._unsaid or bool(places)
        kept: deque[Incoming] = deque()
        for one in self._ready:
            _, state, partition, offset = one.receipt
            if (one.topic, partition) in places:
                # All that was read later has not been seen either.
                while state.read and state.read[-1] >= offset:
                    state.read.pop()
            else:
                kept.append(one)
        self._ready = kept

    def _forget(self, places: set[tuple[str, int]]) -> None:
        for place in places:
            self._partitions.pop(place, None)

    def _unfinished(self, places: set[tuple[str, int]]) -> bool:
        return any(set(state.read) - state.finished for place in places if (state := self._partitions.get(place)) is not None)

    def _leave(self, consumer: Consumer) -> None:
        """Wait for commits and leave the group, for a bounded time: the client's own `close` waits for brokers that are gone."""
        deadline = monotonic() + _LEAVING
        self._commit(consumer)
        # A message that comes with it is not acknowledged and so not lost.
        while self._committing > 0 and monotonic() < deadline:
            consumer.poll(_TICK)
        consumer.unsubscribe()
        while consumer.assignment() and monotonic() < deadline:
            consumer.poll(_TICK)
        consumer.poll(_TICK)

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
    # The client encodes text itself.
    headers = list(message.headers.items())
    if message.content_type is not None:
        headers.append((_CONTENT_TYPE, message.content_type))
    return headers


def _kafka() -> Any:
    try:
        import_module("confluent_kafka.admin")
        return import_module("confluent_kafka")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.kafka", "kafka") from error
