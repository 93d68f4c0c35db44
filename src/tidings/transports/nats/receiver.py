"""NATS JetStream: receiving for a group, and reading streams by position."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from tidings.transports.base import Incoming
from tidings.transports.nats.client import close_client, load_nats
from tidings.transports.nats.messages import fault_of, message_of
from tidings.transports.nats.names import consumer_of
from tidings.transports.nats.pull import Delivered, Pull, place_of

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamInfo

    from tidings.transports.nats.sturdy import Sturdy
    from tidings.transports.nats.transport import NATS

__all__ = ["Reader", "Receiver", "made_at"]

# Bytes that may wait for whoever receives before no more are asked for.
_MOST_WAITING = 32 << 20


class Receiver:
    """What receivers of a group, and readers of a log, have in common: one `Pull` for each topic, and what waits to be received."""

    def __init__(self, transport: NATS) -> None:
        self._transport = transport
        self._client: Sturdy | None = None
        self._waiting: deque[Incoming] = deque()
        self._bytes = 0
        self._held: dict[str, Delivered] = {}
        self._news = asyncio.Event()
        self._over: str | None = None
        self._pulls: list[Pull] = []

    async def connect(self) -> JetStreamContext:
        """Connect."""
        self._client = await self._transport._connect(self._lost)
        return self._client.jetstream(timeout=self._transport.timeout)

    async def start(self, group: str, topics: Sequence[str]) -> None:
        """Connect, and begin to receive."""
        context = await self.connect()
        for topic in topics:
            await context.consumer_info(self._transport.stream(topic), consumer_of(group, topic))
            await self._pull(topic, consumer_of(group, topic), partial(self._take, topic))

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        """Return messages as soon as there are any, or none after that time."""
        deadline = monotonic() + seconds
        while not self._waiting and self._over is None:
            self._news.clear()
            for pull in self._pulls:
                if pull.silent:
                    self._lost("the server does not answer")
            if (left := deadline - monotonic()) <= 0:
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 1.0)):
                    await self._news.wait()
        if self._over is not None:
            raise self._transport._down(self._over)
        found = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        if not self._waiting:
            self._bytes = 0
        await self._guarded(self._ask())
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Say that these need not be delivered again."""
        if self._over is not None:
            raise self._transport._down(self._over)
        await self._guarded(self._acknowledge(incoming))

    def withdrawn(self) -> frozenset[str]:
        """Nothing is ever withdrawn."""
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        """Give the connection up, and with it what was not acknowledged."""
        self._lost("the receiver is closed")
        if self._client is None:
            return
        with contextlib.suppress(load_nats().errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(5):
                held, self._held = self._held, {}
                for message in held.values():
                    await self._client.publish(message.reply, b"-NAK")
                # What was acknowledged, too, is still on its way out.
                await self._client.flush()
        await close_client(self._client)

    async def _pull(self, topic: str, consumer: str, take: Callable[[Delivered], None]) -> None:
        assert self._client is not None
        most = min(self._transport.prefetch, 500)
        pull = Pull(self._client, self._transport.stream(topic), consumer, take, self._lost, most, self._room)
        self._pulls.append(pull)
        await pull.start()

    def _room(self) -> int:
        return 0 if self._bytes > _MOST_WAITING else self._transport.prefetch - len(self._waiting)

    async def _ask(self) -> None:
        for pull in self._pulls:
            await pull.ask()

    async def _acknowledge(self, incoming: Sequence[Incoming]) -> None:
        assert self._client is not None
        for one in incoming:
            owner, reply = one.receipt
            if owner is self and self._held.pop(one.coordinates, None) is not None:
                await self._client.publish(reply)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (load_nats().errors.Error, OSError) as error:
            self._lost(f"{str(error) or type(error).__name__}")
            raise self._transport._down(self._over) from error

    def _lost(self, reason: str) -> None:
        self._over = self._over or reason
        self._news.set()

    def _keep(self, incoming: Incoming) -> None:
        self._waiting.append(incoming)
        self._bytes += len(incoming.message.body or b"")
        self._news.set()

    def _take(self, topic: str, message: Delivered) -> None:
        place = place_of(message.reply)
        coordinates = f"{topic}/{place.stream}"
        self._held[coordinates] = message
        again = place.deliveries > 1
        self._keep(Incoming(topic, message_of(message), coordinates, (self, message.reply), topic, again, fault_of(message)))


class Reader(Receiver):
    """Reads streams by position: `number@when the stream was made`."""

    def __init__(self, transport: NATS) -> None:
        super().__init__(transport)
        self._last: dict[str, int] = {}
        self._delivered: dict[str, int] = {}
        self._made: dict[str, str] = {}
        # Why what comes next does not follow what came before.
        self._gaps: dict[str, str] = {}
        # Topics that share their stream with others: their numbers have holes anyway.
        self._shared: set[str] = set()

    async def begin(self, after: Mapping[str, str]) -> None:
        """Connect, and begin to read behind these positions."""
        context = await self.connect()
        api = load_nats().js.api
        for topic, position in after.items():
            info = await context.stream_info(self._transport.stream(topic))
            self._find(topic, position, info)
            settings = api.ConsumerConfig(
                ack_policy=api.AckPolicy.NONE,
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._last[topic] + 1,
                filter_subject=topic,
                inactive_threshold=max(60.0, 2 * self._transport.timeout),
                num_replicas=1,
                mem_storage=True,
            )
            consumer = await context.add_consumer(self._transport.stream(topic), settings)
            await self._pull(topic, consumer.name, partial(self._read, topic))

    def _find(self, topic: str, position: str, info: StreamInfo) -> None:
        number, _, made = position.partition("@")
        last = int(number) if number.isdecimal() else 0
        self._made[topic] = made_at(info)
        first, newest = info.state.first_seq, info.state.last_seq
        if list(info.config.subjects or ()) != [topic]:
            self._shared.add(topic)
        if position and (made != self._made[topic] or last > newest):
            self._gaps[topic] = f"the stream was made anew at {self._made[topic]}, so it is read from its beginning"
            last = 0
        elif position and first > last + 1:
            self._gaps[topic] = f"the messages {last + 1} to {first - 1} are no longer there"
            last = first - 1
        self._last[topic] = last

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Do nothing: whoever reads by position stores how far he has come."""
        if self._over is not None:
            raise self._transport._down(self._over)

    def _read(self, topic: str, message: Delivered) -> None:
        place = place_of(message.reply)
        if place.consumer != self._delivered.get(topic, 0) + 1:
            # The connection has lost some: whoever reads begins again at his position.
            self._lost(f"messages of {topic!r} were lost on their way")
            return
        last = self._last[topic]
        gap = self._gaps.pop(topic, "")
        if not gap and last and place.stream != last + 1 and topic not in self._shared:
            gap = f"the messages {last + 1} to {place.stream - 1} are no longer there"
        self._delivered[topic] = place.consumer
        self._last[topic] = place.stream
        position = f"{place.stream}@{self._made[topic]}"
        self._keep(
            Incoming(
                topic,
                message_of(message),
                f"{topic}/{place.stream}",
                (self, None),
                topic,
                fault=fault_of(message),
                position=position,
                gap=gap,
            ),
        )


def made_at(info: StreamInfo) -> str:
    """Return when a stream was made: one that was made anew has other messages under the same numbers."""
    return "" if info.created is None else info.created.isoformat()
