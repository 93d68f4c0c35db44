"""Redis Streams: receiving for a stream's own group."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tidings.transports.base import Incoming
from tidings.transports.redis.client import close_client, load_redis
from tidings.transports.redis.entries import message_of
from tidings.transports.redis.log import entries_for

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

    from tidings.transports.redis.transport import Redis

__all__ = ["Receiver"]

#: The consumer that holds what receivers have handed back.
_RETURNED = "returned"


class Receiver:
    """One of those who share the messages of a group."""

    def __init__(self, transport: Redis, client: Client, group: str, topics: Sequence[str]) -> None:
        self._transport = transport
        self._client = client
        self._group = group
        self._topics = list(topics)
        self._me = uuid4().hex
        self._waiting: deque[Incoming] = deque()
        self._held: dict[str, set[str]] = {topic: set() for topic in topics}
        self._look_at = 0.0
        # Of the largest message of the last answer: nothing bounds an answer but the number of its entries.
        self._largest = 1 << 16
        self._over: str | None = None

    async def receive(self, most: int, seconds: float) -> list[Incoming]:
        """Return messages as soon as there are any, or none after that time."""
        redis = load_redis()
        deadline = time.monotonic() + seconds
        try:
            while not self._waiting and self._over is None:
                count = entries_for(most, self._largest)
                await self._claim(count)
                if not self._waiting and not await self._read(count, deadline - time.monotonic()):
                    break
        except (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError) as error:
            self._over = self._over or f"{str(error) or type(error).__name__}"
        if self._over is not None:
            raise self._transport._down(self._over)
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    async def acknowledge(self, incoming: Sequence[Incoming], /) -> None:
        """Say that these need not be delivered again."""
        redis = load_redis()
        if self._over is not None:
            raise self._transport._down(self._over)
        by_topic: dict[str, list[str]] = {}
        for one in incoming:
            owner, entry = one.receipt
            if owner is self:
                by_topic.setdefault(one.topic, []).append(entry)
        try:
            if by_topic:
                pipeline = self._client.pipeline(transaction=False)
                for topic, entries in by_topic.items():
                    pipeline.execute_command("XACK", topic, self._group, *entries)
                await pipeline.execute()
        except (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError) as error:
            self._over = self._over or f"{str(error) or type(error).__name__}"
            raise self._transport._down(self._over) from error
        for topic, entries in by_topic.items():
            self._held[topic].difference_update(entries)

    def withdrawn(self) -> frozenset[str]:
        """Nothing is ever withdrawn."""
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        """Give the connection up, and with it what was not acknowledged."""
        if self._over is None:
            self._over = "the receiver is closed"
            with contextlib.suppress(load_redis().exceptions.RedisError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await self._hand_back()
        await close_client(self._client)

    async def _hand_back(self) -> None:
        long_ago = int(self._transport.idle * 2000) + 1
        for topic, held in self._held.items():
            if held:
                # Whoever looks next finds them idle for long enough. `justid`: this was no attempt to handle them.
                entries: Any = sorted(held, key=lambda entry: tuple(map(int, entry.split("-"))))
                await self._client.xclaim(topic, self._group, _RETURNED, 0, entries, idle=long_ago, justid=True)
            pending: Any = await self._client.xpending_range(topic, self._group, "-", "+", 1, consumername=self._me)
            if not pending:
                await self._client.xgroup_delconsumer(topic, self._group, self._me)

    async def _claim(self, most: int) -> None:
        """Take over what others have held for too long, or handed back."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + min(self._transport.block, self._transport.idle / 4)
        for topic in self._topics:
            start: bytes | str = "0-0"
            client: Any = self._client
            answer = await client.execute_command(
                "XAUTOCLAIM", topic, self._group, self._me, int(self._transport.idle * 1000), start, "COUNT", most
            )
            for entry, fields in answer[1]:
                if fields is not None:
                    self._keep(topic, entry, fields, again=True)
                    # There may be more of them.
                    self._look_at = 0.0

    async def _read(self, most: int, seconds: float) -> bool:
        """Wait for new entries; return whether there is time left to go on."""
        block = max(1, int(min(seconds, self._transport.block) * 1000))
        answer: Any = await self._client.xreadgroup(self._group, self._me, dict.fromkeys(self._topics, ">"), count=most, block=block)
        for topic, entries in answer or ():
            for entry, fields in entries:
                self._keep(topic.decode(), entry, fields, again=False)
        return seconds > self._transport.block

    def _keep(self, topic: str, entry: bytes, fields: Mapping[bytes, bytes], *, again: bool) -> None:
        number = entry.decode()
        message = message_of(fields)
        if len(message.body or b"") > self._largest:
            self._largest = len(message.body or b"")
        self._held[topic].add(number)
        self._waiting.append(Incoming(topic, message, f"{topic}/{number}", (self, number), topic, again))
