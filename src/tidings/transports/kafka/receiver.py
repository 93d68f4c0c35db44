"""Kafka: receiving for a group, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from threading import Condition
from time import monotonic
from typing import TYPE_CHECKING, Any

from tidings.codecs.message import Message
from tidings.errors import ProvisionError
from tidings.transports.base import Incoming
from tidings.transports.kafka.client import CONTENT_TYPE, load_kafka
from tidings.transports.urls import described

if TYPE_CHECKING:
    from confluent_kafka import Consumer

    from tidings.transports.kafka.transport import Kafka

__all__ = ["Receiver"]

# How long one call of the client may keep its thread; and as long as an acknowledgement waits for its commit.
_SLICE = 0.1
_TICK = 0.05
# What a receiver reads ahead at most, besides as many bytes in the client itself.
_MOST_READY = 2000
# Seconds for which a receiver that is full need not answer its group.
_BUSY = 3.0
_MOST_WAITING = 32 << 20
# Seconds that a receiver has for leaving its group.
_LEAVING = 5.0


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


class Receiver:
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
        """Connect, and begin to receive."""
        await self._loop.run_in_executor(self._thread, self._connect)
        self._serving = self._loop.run_in_executor(self._thread, self._serve)

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        """Return messages as soon as there are any, or none after that time."""
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
        """Return the shards that are somebody else's now, since the last call."""
        with self._shared:
            found = frozenset(self._withdrawn)
            self._withdrawn.clear()
        return found

    def let_go(self, shards: Collection[str], /) -> None:
        """Say that nothing of these shards is under way any more."""
        with self._shared:
            for (topic, partition), state in self._partitions.items():
                if f"{topic}/{partition}" in shards:
                    # What is finished without a gap is still to be committed.
                    state.read = deque(takewhile(state.finished.__contains__, state.read))
            self._shared.notify_all()

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Say that these need not be delivered again."""
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
        """Give the connection up, and with it what was not acknowledged."""
        self._lost("the receiver is closed")
        with self._shared:
            self._shared.notify_all()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=2 * _LEAVING)
        else:
            self._consumer = None
        self._thread.shutdown(wait=False)

    def _connect(self) -> None:
        kafka = load_kafka()
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
        consumer: Consumer = transport._client(kafka.Consumer, settings)
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
        except (load_kafka().KafkaException, RuntimeError) as error:
            self._lost(str(error))
        finally:
            with contextlib.suppress(load_kafka().KafkaException, RuntimeError):
                self._leave(consumer)
            # The client's end waits for its threads: it must come here, not wherever garbage is collected.
            self._consumer = None

    def _full(self) -> bool:
        return len(self._ready) >= _MOST_READY or self._bytes >= _MOST_WAITING

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() in (load_kafka().KafkaError._ALL_BROKERS_DOWN, load_kafka().KafkaError._AUTHENTICATION):
            self._lost(error.str())

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)

    def _take(self, messages: Sequence[Any]) -> None:
        errors = load_kafka().KafkaError
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
        kafka = load_kafka()
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
            except load_kafka().KafkaException as error:
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
        content_type, key = headers.pop(CONTENT_TYPE, None), message.key()
        found = Message(
            headers,
            message.value(),
            content_type.decode("utf-8", "backslashreplace") if isinstance(content_type, bytes) else content_type,
            key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key,
        )
        state = self._partitions[topic, partition]
        return Incoming(topic, found, f"{topic}/{partition}/{offset}", (self, state, partition, offset), f"{topic}/{partition}")
