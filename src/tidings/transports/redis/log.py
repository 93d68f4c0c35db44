"""Redis Streams, read by position, without a group: entries behind an id, and whether any of them are gone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidings.codecs.message import Message
from tidings.errors import ProvisionError, TransportDown
from tidings.transports.base import Incoming
from tidings.transports.closing import close_within
from tidings.transports.redis.client import packer

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

__all__ = ["Reader", "entries_for"]

_BEGINNING = "0-0"
# Bytes that one answer should have at most, as far as what came before lets one tell.
_BUDGET = 32 << 20


def entries_for(most: int, largest: int) -> int:
    """Return how many entries to ask for when they may be as large as the largest one of the last answer."""
    return max(1, min(most, _BUDGET // max(largest, 1)))


class Reader:
    """Reads streams. A position is the id of an entry, and how many have been added with it: the second tells a trimmed stream from a short one.

    What new entries are and, behind them, what the streams say of themselves is one round trip: what had not been removed afterwards had not been
    when it was read. Only where that cannot be said are both asked in one transaction, so that an entry that is removed meanwhile is either read or
    missed with a reason.
    """

    def __init__(
        self,
        client: Client,
        after: Mapping[str, str],
        errors: tuple[type[BaseException], ...],
        down: Callable[[object], TransportDown],
        message: Callable[[Mapping[bytes, bytes]], Message],
        end: Callable[[], Any],
        block: float,
    ) -> None:
        self._client = client
        self._block = block
        # The client's own calls take a connection from its pool each time, and look whether it still lives: that costs more than the answer.
        self._connection: Any = None
        self._pack = packer()
        self._last: dict[str, str] = {}
        # The number of the last entry, the first one has 1; None where the position does not say it.
        self._number: dict[str, int | None] = {}
        for topic, position in after.items():
            entry, _, number = position.partition("/")
            self._last[topic] = entry or _BEGINNING
            self._number[topic] = int(number) if number.isdecimal() else 0 if not entry else None
        # Why what comes next does not follow what came before.
        self._gaps: dict[str, str] = {}
        self._waiting: deque[Incoming] = deque()
        self._errors = errors
        self._down = down
        self._message = message
        self._end = end
        self._largest = 1 << 16
        self._over: str | None = None

    async def start(self) -> None:
        """Look whether all of them are there."""
        for topic in self._last:
            if not await self._client.exists(topic):
                raise ProvisionError(f"there is no stream {topic!r}")
        pool: Any = self._client.connection_pool
        self._connection = await pool.get_connection()

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        """Return messages as soon as there are any, or none after that time."""
        deadline = time.monotonic() + seconds
        left = seconds
        try:
            while not self._waiting and self._over is None:
                await self._wait(entries_for(most, self._largest), left)
                left = deadline - time.monotonic()
                if left <= 0:
                    break
        except self._errors as error:
            self._over = self._over or f"{str(error) or type(error).__name__}"
        except BaseException:
            # The answers that nobody has read would be taken for those of the next question.
            self._over = self._over or "receiving was interrupted"
            raise
        if self._over is not None:
            raise self._down(self._over)
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Do nothing: whoever reads by position stores how far he has come."""
        if self._over is not None:
            raise self._down(self._over)

    def withdrawn(self) -> frozenset[str]:
        """Nothing is ever withdrawn."""
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        """Give the connection up, and with it what was not acknowledged."""
        self._over = self._over or "the reader is closed"
        if self._connection is not None:
            await close_within(self._connection.disconnect(nowait=True), "redis")
        await self._end()

    async def _wait(self, most: int, seconds: float) -> None:
        """Wait for entries, and take them if they follow what was taken before; else look again."""
        topics = list(self._last)
        block = ("BLOCK", max(1, int(min(seconds, self._block) * 1000))) if seconds > 0 else ()
        commands = [("XREAD", "COUNT", most, *block, "STREAMS", *topics, *self._last.values())]
        commands += [("XINFO", "STREAM", topic) for topic in topics]
        await self._connection.send_packed_command([self._pack(command) for command in commands], check_health=False)
        read, *states = [await self._connection.read_response() for _ in commands]
        found = {_text(topic): entries for topic, entries in read or ()}
        for topic, flat in zip(topics, states, strict=True):
            state = {_text(name): value for name, value in _pairs(flat)}
            if topic not in found:
                self._find_gap(topic, state)
            elif not self._follows(topic, state):
                await self._look(most)
                return
        self._take({topic: [(entry, dict(_pairs(fields))) for entry, fields in entries] for topic, entries in found.items()})

    async def _look(self, most: int) -> None:
        pipeline = self._client.pipeline(transaction=True)
        for topic, last in self._last.items():
            pipeline.xinfo_stream(topic)
            pipeline.xread({topic: last}, count=most)
        answers: list[Any] = await pipeline.execute()
        found = {}
        for topic, state, read in zip(list(self._last), answers[::2], answers[1::2], strict=True):
            self._find_gap(topic, state)
            for _, entries in read or ():
                found[topic] = entries
        self._take(found)

    def _take(self, found: Mapping[str, Sequence[tuple[bytes, Mapping[bytes, bytes]]]]) -> None:
        sizes = [1]
        for topic, entries in found.items():
            for entry, fields in entries:
                self._keep(topic, entry.decode(), fields)
                sizes.append(sum(map(len, fields.values())))
        if found:
            self._largest = max(sizes)

    def _keep(self, topic: str, entry: str, fields: Mapping[bytes, bytes]) -> None:
        self._last[topic] = entry
        number = self._number[topic]
        if number is not None:
            self._number[topic] = number = number + 1
        position = entry if number is None else f"{entry}/{number}"
        self._waiting.append(
            Incoming(
                topic,
                self._message(fields),
                f"{topic}/{entry}",
                (self, None),
                topic,
                position=position,
                gap=self._gaps.pop(topic, ""),
            )
        )

    def _follows(self, topic: str, state: Mapping[str, Any]) -> bool:
        """Whether nothing behind the last position had been removed when the stream said this, nor therefore before."""
        last = self._last[topic]
        if _order(_text(state["last-generated-id"])) < _order(last):
            return False
        first = state.get("first-entry")
        if first and _order(_text(first[0])) <= _order(last):
            return True
        added, number = state.get("entries-added"), self._number[topic]
        # What is gone may all have been read.
        return last != _BEGINNING and added is not None and number is not None and added - state["length"] <= number

    def _find_gap(self, topic: str, state: Mapping[str, Any]) -> None:
        """Note why entries behind the last position are missing, if any are."""
        last, newest = self._last[topic], _text(state["last-generated-id"])
        if _order(newest) < _order(last):
            self._last[topic] = _BEGINNING
            self._number[topic] = None
            self._gaps[topic] = f"the stream ends at {newest}, before {last}: it was made anew, so it is read from its beginning"
            return
        first = state.get("first-entry")
        oldest = "its end" if not first else _text(first[0])
        if first and _order(oldest) <= _order(last):
            return
        added = state.get("entries-added")
        # What was removed, by trimming or one by one; Redis 6 does not count it.
        removed = None if added is None else added - state["length"]
        number = self._number[topic]
        if last == _BEGINNING:
            # Whoever begins takes what there is.
            self._number[topic] = removed
        elif removed is None or number is None:
            if first and topic not in self._gaps:
                self._gaps[topic] = f"entries between {last} and {oldest} may have been removed"
            self._number[topic] = removed
        elif removed > number:
            self._gaps[topic] = f"{removed - number} entries between {last} and {oldest} have been removed"
            self._number[topic] = removed


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    parts = iter(flat)
    return zip(parts, parts, strict=True)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)
