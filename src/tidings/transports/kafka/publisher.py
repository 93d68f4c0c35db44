"""Kafka: sending, on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.codecs.message import Message
from tidings.transports.base import CONFIRMED, Outcome, Outgoing, fit, refused, sifted, unconfirmed, written_size_of
from tidings.transports.kafka.client import CONTENT_TYPE, load_kafka

if TYPE_CHECKING:
    from confluent_kafka import Producer

    from tidings.transports.kafka.transport import Kafka

__all__ = ["Publisher"]

# Seconds that one call of the client may keep its thread.
_SLICE = 0.1
# With so few messages under way the client is made to send them at once, instead of waiting for more; and seconds that this takes at most.
_LITTLE = 100
_MOMENT = 0.01
# Messages that are weighed together.
_PORTION = 100
# Seconds for which a topic that is not there is not asked for again.
_AGAIN = 5.0
# Seconds that closing waits for the thread.
_LEAVING = 5.0


class _Call:
    """The messages of one `publish` that are under way."""

    __slots__ = ("_ended", "_loop", "_lost", "_number", "done", "left", "outcomes")

    def __init__(self, outcomes: list[Outcome | None], lost: Callable[[str], None], ended: Callable[[int], None]) -> None:
        self.outcomes = outcomes
        self.left = self._number = outcomes.count(None)
        self._lost = lost
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self._loop.create_future()

    def failed(self, number: int, error: Any) -> None:
        """Note why one was not delivered; called on the thread that polls."""
        if error.code() == load_kafka().KafkaError.MSG_SIZE_TOO_LARGE:
            self.outcomes[number] = refused(f"the cluster takes no message of this size: {error.str()}")
        else:
            self.outcomes[number] = unconfirmed(error.str())
            self._lost(error.str())

    def told(self) -> None:
        """Know what became of all of them; called on the thread that polls."""
        self._ended(self._number)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Let whoever waits go on."""
        if not self.done.done():
            self.done.set_result(None)


class _Delivered(msgspec.Struct, gc=False, eq=False):
    """Takes what the cluster says of one message. There are thousands: the garbage collector need not look at them."""

    call: _Call
    number: int

    def __call__(self, error: Any, _message: Any) -> None:
        """Note what became of it; called on the thread that polls."""
        call = self.call
        if error is None:
            call.outcomes[self.number] = CONFIRMED
        else:
            call.failed(self.number, error)
        call.left -= 1
        if not call.left:
            call.told()


class Publisher:
    """Messages are handed over by the event loop, which takes no time; a thread waits for what the cluster says of them.

    In a backlog the client waits a little for batches to fill, which halves what it and the cluster have to do; a few messages go at once.
    """

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
        # How many messages were handed over, written by the loop, and how many of them are settled, written by the thread.
        self._handed = 0
        self._settled = 0
        self._news = threading.Event()

    async def start(self) -> None:
        """Connect."""
        await asyncio.to_thread(self._connect)
        self._serving = asyncio.get_running_loop().run_in_executor(self._thread, self._serve)

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        """Send messages; return what became of each."""
        call: _Call | None = None
        async with self._turn:
            if asked := {outgoing.topic for outgoing in batch} - self._topics:
                await asyncio.to_thread(self._ask, asked)
            if self._over is None:
                call = _Call(self._sifted(batch), self._lost, self._ended)
                self._calls.add(call)
                self._handed += call.left
                await self._produce(batch, call)
                self._news.set()
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
        """Give the connection up; what is under way ends as confirmed or unconfirmed."""
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
        kafka = load_kafka()
        if (producer := self._producer) is None:
            return
        deadline = monotonic() + self._transport.timeout
        produce, refused_at_once = producer.produce, call.left < len(batch)
        for number, outgoing in enumerate(batch):
            if refused_at_once and call.outcomes[number] is not None:
                continue
            message = outgoing.message
            while self._over is None:
                try:
                    produce(outgoing.topic, message.body, message.key, headers=_headers(message), on_delivery=_Delivered(call, number))
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
        kafka = load_kafka()
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
                # Batches, while messages are handed over one by one; the thread that serves waits for none when there is little.
                "linger.ms": 2,
                "message.max.bytes": transport.most + 4096,
                "queue.buffering.max.messages": 0,
                "queue.buffering.max.kbytes": 1 << 18,
                "error_cb": self._noticed,
            }
        )
        producer: Producer = transport._client(kafka.Producer, settings)
        self._producer = producer
        transport._metadata(producer, lambda: self._over)

    def _serve(self) -> None:
        """Take what the cluster says until the publisher is over."""
        producer = self._producer
        assert producer is not None
        while self._over is None:
            self._news.clear()
            under_way = self._handed - self._settled
            if 0 < under_way <= _LITTLE:
                # `linger.ms` does not hold while somebody waits here, who is also told what was delivered.
                producer.flush(_MOMENT)
            elif under_way:
                producer.poll(_SLICE)
            else:
                producer.poll(0)
                self._news.wait(_SLICE)
        producer.purge()
        producer.poll(0)
        # The client's end waits for its threads: it must come here, not wherever garbage is collected.
        self._producer = None

    def _ended(self, messages: int) -> None:
        self._settled += messages

    def _noticed(self, error: Any) -> None:
        if error.fatal() or error.code() in (load_kafka().KafkaError._ALL_BROKERS_DOWN, load_kafka().KafkaError._AUTHENTICATION):
            self._lost(error.str())

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._news.set()
        for call in list(self._calls):
            with contextlib.suppress(RuntimeError):
                call._loop.call_soon_threadsafe(call.end)

    def _sifted(self, batch: Sequence[Outgoing]) -> list[Outcome | None]:
        """Return None for what may be sent, and an outcome for the others. Mostly there are none, which shows without a look at each message."""
        portions = (batch[first : first + _PORTION] for first in range(0, len(batch), _PORTION))
        if not self._missing and all(fit(portion, self._transport.most) for portion in portions):
            return [None] * len(batch)
        return sifted(batch, self._why_not)

    def _why_not(self, outgoing: Outgoing) -> str | None:
        if outgoing.topic not in self._topics and outgoing.topic in self._missing:
            return self._missing[outgoing.topic][1]
        message = outgoing.message
        key = message.key or ""
        try:
            size = written_size_of(message) + (len(key) if key.isascii() else len(key.encode()))
        except UnicodeEncodeError as error:
            return f"it cannot be written: {error}"
        if size > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        return None

    def _ask(self, topics: set[str]) -> None:
        """Find out which topics there are: the client itself would wait for one that does not exist."""
        errors = load_kafka().KafkaError
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
                except load_kafka().KafkaException as error:
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


def _headers(message: Message) -> dict[str, str | bytes | None]:
    # The client encodes text itself.
    return dict(message.headers) if message.content_type is None else {**message.headers, CONTENT_TYPE: message.content_type}
