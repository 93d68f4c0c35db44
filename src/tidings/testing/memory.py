"""A broker in memory, for tests of what uses a transport: it can be stopped, refuse messages, and lose confirmations."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from tidings.codecs.bindings import KAFKA, Binding
from tidings.codecs.wire import Wire
from tidings.errors import ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, sifted, size_of, unconfirmed

__all__ = ["Memory", "MemoryLog"]


class Memory:
    """A transport and its broker in one.

    Args:
        failure: what it declares; it keeps to it.
        name, wire: as those of other transports.
        most: bytes that a message may have at most.

    Attributes:
        refuses: called with each message; a sentence refuses it.
        breaks: called with each message; the connection breaks of it if that is true.
        topics: what each topic holds, in order.
    """

    ordered = True
    binding: Binding = KAFKA

    def __init__(self, failure: Failure = "independent", *, most: int = 1 << 20, name: str = "memory", wire: Wire = "cloudevents") -> None:
        self.name = name
        self.wire: Wire = wire
        self.failure: Failure = failure
        self.most = most
        self.refuses: Callable[[Outgoing], str | None] = lambda _outgoing: None
        self.breaks: Callable[[Outgoing], bool] = lambda _outgoing: False
        self.topics: dict[str, list[Outgoing]] = {}
        self._groups: dict[tuple[str, str], _Cursor] = {}
        self._up = True
        self._lose: int | None = None
        self._generation = 0
        self._news = asyncio.Condition()

    def stop(self) -> None:
        """Lose every connection, and take none until `start`."""
        self._up = False
        self._generation += 1
        for cursor in self._groups.values():
            cursor.give_back(None)

    def start(self) -> None:
        """Take connections again; nothing that was confirmed is lost."""
        self._up = True

    def lose_confirmations(self, after: int) -> None:
        """Confirm that many messages more, then let the connection break."""
        self._lose = after

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make topics and groups."""
        self._check(self._generation)
        for topic in {*topics, *(topic for needed in groups.values() for topic in needed)} if mode != "off" else ():
            if topic not in self.topics:
                if mode == "verify":
                    raise ProvisionError(f"there is no topic {topic!r}")
                self.topics[topic] = []
        for group, needed in groups.items() if mode != "off" else ():
            for topic in needed:
                if (group, topic) not in self._groups:
                    if mode == "verify":
                        raise ProvisionError(f"there is no group {group!r} on {topic!r}")
                    self._groups[group, topic] = _Cursor()

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        self._check(self._generation)
        return _Publisher(self, self._generation)

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive."""
        self._check(self._generation)
        if missing := [topic for topic in topics if (group, topic) not in self._groups]:
            raise ProvisionError(f"there is no group {group!r} on {missing[0]!r}")
        return _Receiver(self, group, topics, self._generation)

    def _check(self, generation: int) -> None:
        if not self._up or generation != self._generation:
            raise TransportDown("the broker in memory is stopped, or was")

    def _why_not(self, outgoing: Outgoing) -> str | None:
        if outgoing.topic not in self.topics:
            return f"there is no topic {outgoing.topic!r}"
        if size_of(outgoing.message) > self.most:
            return f"the message has {size_of(outgoing.message):,} bytes, more than {self.most:,}"
        try:
            "".join([value for value in outgoing.message.headers.values() if isinstance(value, str)]).encode()
        except UnicodeEncodeError as error:
            return f"it cannot be written: {error}"
        return self.refuses(outgoing)


class _Cursor:
    """Where a group is in a topic: the next number, what came back, and who has what."""

    def __init__(self) -> None:
        self.next = 0
        self.returned: deque[int] = deque()
        self.held: dict[int, object] = {}
        self.holder: object = None

    def give_back(self, owner: object) -> None:
        """Let others have what this receiver, or any, has not acknowledged, in order."""
        back = [number for number, holder in self.held.items() if owner is None or holder is owner]
        for number in back:
            del self.held[number]
        self.returned = deque(sorted([*self.returned, *back]))
        if owner is None or self.holder is owner:
            self.holder = None


_BROKE = unconfirmed("the connection broke before the confirmation", broken=True)


class _Publisher:
    def __init__(self, broker: Memory, generation: int) -> None:
        self._broker = broker
        self._generation = generation
        self._open = True

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        broker = self._broker
        # As with a real one, others get a turn.
        await asyncio.sleep(0)
        outcomes: list[Outcome] = []
        for outgoing, known in zip(batch, sifted(batch, broker._why_not), strict=True):
            try:
                broker._check(self._generation if self._open else -1)
            except TransportDown as error:
                outcomes.append(unconfirmed(str(error), broken=True))
                continue
            if known is not None:
                outcomes.append(known)
                continue
            if broker._lose == 0 or broker.breaks(outgoing):
                self._open = False
                outcomes.append(_BROKE)
                continue
            broker.topics[outgoing.topic].append(outgoing)
            outcomes.append(CONFIRMED)
            if broker._lose is not None:
                broker._lose -= 1
        if broker.failure == "atomic" and not self._open:
            outcomes = [_BROKE if one == CONFIRMED else one for one in outcomes]
        if not self._open:
            broker._lose = None
        async with broker._news:
            broker._news.notify_all()
        return outcomes

    async def close(self) -> None:
        self._open = False


class _Receiver:
    def __init__(self, broker: Memory, group: str, topics: Sequence[str], generation: int) -> None:
        self._broker = broker
        self._cursors = {topic: broker._groups[group, topic] for topic in topics}
        self._generation = generation
        self._open = True

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        broker = self._broker
        found = self._look(most)
        if not found:
            try:
                async with asyncio.timeout(seconds), broker._news:
                    while not (found := self._look(most)):
                        await broker._news.wait()
            except TimeoutError:
                self._check()
        return found

    def _check(self) -> None:
        self._broker._check(self._generation if self._open else -1)

    def _look(self, most: int) -> list[Incoming]:
        self._check()
        found: list[Incoming] = []
        for topic, cursor in self._cursors.items():
            log = self._broker.topics[topic]
            # One receiver of a group at a time, as a single active consumer: that is what makes it ordered.
            if cursor.holder not in (None, self):
                continue
            while len(found) < most and (cursor.returned or cursor.next < len(log)):
                again = bool(cursor.returned)
                number = cursor.returned.popleft() if again else cursor.next
                cursor.next += not again
                cursor.holder = self
                cursor.held[number] = self
                found.append(Incoming(topic, log[number].message, f"{topic}/{number}", (self, number), topic, again))
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        self._check()
        for one in incoming:
            owner, number = one.receipt
            if owner is self:
                self._cursors[one.topic].held.pop(number, None)

    def withdrawn(self) -> frozenset[str]:
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        if self._open:
            self._open = False
            for cursor in self._cursors.values():
                cursor.give_back(self)
            async with self._broker._news:
                self._broker._news.notify_all()


class MemoryLog(Memory):
    """A broker in memory whose groups keep no order, and whose topics can be read by position, as those of NATS and Redis."""

    ordered = False

    def __init__(self, failure: Failure = "independent", *, most: int = 1 << 20, name: str = "memory", wire: Wire = "cloudevents") -> None:
        super().__init__(failure, most=most, name=name, wire=wire)
        self._first: dict[str, int] = {}

    def trim(self, topic: str, messages: int) -> None:
        """Remove the first messages of a topic: who has not read them yet never will."""
        self._first[topic] = self._first.get(topic, 0) + messages

    async def reader(self, after: Mapping[str, str]) -> _Reader:
        """Connect, to read by position."""
        self._check(self._generation)
        if missing := [topic for topic in after if topic not in self.topics]:
            raise ProvisionError(f"there is no topic {missing[0]!r}")
        return _Reader(self, after, self._generation)

    async def end(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the positions behind the last messages."""
        self._check(self._generation)
        return {topic: str(len(self.topics[topic])) for topic in topics}


class _Reader(_Receiver):
    def __init__(self, broker: MemoryLog, after: Mapping[str, str], generation: int) -> None:
        super().__init__(broker, "", (), generation)
        self._log = broker
        self._next = {topic: int(position or 0) for topic, position in after.items()}

    def _look(self, most: int) -> list[Incoming]:
        self._check()
        found: list[Incoming] = []
        for topic, after in self._next.items():
            first, messages = self._log._first.get(topic, 0), self._log.topics[topic]
            gap = f"the messages {after} to {first - 1} are gone" if 0 < after < first else ""
            for number in range(max(after, first), min(len(messages), max(after, first) + most - len(found))):
                place = f"{topic}/{number}"
                found.append(Incoming(topic, messages[number].message, place, (self, None), topic, position=str(number + 1), gap=gap))
                gap = ""
                self._next[topic] = number + 1
        return found

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        self._check()
