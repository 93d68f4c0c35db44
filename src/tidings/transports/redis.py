"""Redis Streams: a stream for each topic, and the stream's own groups, whose receivers share its messages.

A batch is one MULTI/EXEC, so it is added as a whole or not at all. Groups of Redis give what one receiver held to another after some time, and
what came later meanwhile: that is why they are not ordered. Closing hands back at once what was not acknowledged. An ordered group reads streams by position instead (`reader`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tidings.codecs import cap
from tidings.codecs.bindings import REDIS, Binding
from tidings.codecs.message import Message
from tidings.codecs.wire import Wire
from tidings.errors import MissingExtra, ProvisionError, TransportDown
from tidings.transports.base import CONFIRMED, Failure, Incoming, Outcome, Outgoing, Provision, refused, sifted, size_of, unconfirmed
from tidings.transports.redis_log import Reader, entries_for
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

__all__ = ["Redis"]

#: The consumer that holds what receivers have handed back.
_RETURNED = "returned"
# One blocking read lasts that long at most, so that a receiver also looks for what others have left behind.
_BLOCK = 1.0
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


@dataclass(frozen=True)
class Redis:
    """A server of Redis 6.2 or newer, or Valkey.

    Attributes:
        url: `redis://user:password@host:port/0`, or `rediss://`, with the parameters that redis-py knows.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the field `data`; `cap` writes the two fields of DotNetCore.CAP. All are read.
        idle: seconds after which another receiver takes what one that has crashed held; handlers must be quicker.
        retain: entries that a stream keeps at least; None keeps all of them for ever.
        most: bytes that a message may have.
        timeout: seconds without an answer after which a connection is over.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "redis"
    wire: Wire = "cloudevents"
    idle: float = 60.0
    retain: int | None = None
    most: int = 16 << 20
    timeout: float = 30.0

    @property
    def failure(self) -> Failure:
        """A batch is one transaction."""
        return "atomic"

    @property
    def ordered(self) -> bool:
        """Not while a group's messages move from a dead receiver to another."""
        return False

    @property
    def binding(self) -> Binding:
        """One field for each attribute."""
        return REDIS

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make streams, and groups that begin at their first entry."""
        if mode == "off":
            return
        client = self._client()
        try:
            for group, needed in groups.items():
                for topic in needed:
                    await (self._verify(client, topic, group) if mode == "verify" else _create(client, topic, group))
            for topic in topics:
                if mode == "verify":
                    await self._verify(client, topic, None)
                elif not await client.exists(topic):
                    # Nothing else makes a stream without an entry.
                    temporary = f"provisioning-{uuid4().hex}"
                    await _create(client, topic, temporary)
                    await client.xgroup_destroy(topic, temporary)
        except _redis().exceptions.ResponseError as error:
            raise ProvisionError(f"{described(self.url)}: {error}") from error
        except (_redis().exceptions.RedisError, OSError) as error:
            raise self._down(error) from error
        finally:
            await _closed(client)

    async def publisher(self) -> _Publisher:
        """Connect, to send."""
        publisher = _Publisher(self, await self._connected())
        try:
            await publisher.start()
        except (_redis().exceptions.RedisError, OSError) as error:
            await publisher.close()
            raise self._down(error) from error
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> _Receiver:
        """Connect, to receive."""
        client = await self._connected()
        try:
            for topic in topics:
                await self._verify(client, topic, group)
        except (_redis().exceptions.RedisError, OSError) as error:
            await _closed(client)
            raise self._down(error) from error
        except ProvisionError:
            await _closed(client)
            raise
        return _Receiver(self, client, group, topics)

    async def reader(self, after: Mapping[str, str]) -> Reader:
        """Connect, to read by position."""
        client = await self._connected()
        redis = _redis()
        errors = (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError)
        reader = Reader(client, after, errors, self._down, _message, partial(_closed, client))
        try:
            await reader.start()
        except ProvisionError as error:
            await reader.close()
            raise ProvisionError(f"{described(self.url)}: {error}") from None
        except errors as error:
            await reader.close()
            raise self._down(error) from error
        return reader

    async def end(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the positions behind the last entries."""
        client = await self._connected()
        found: dict[str, str] = {}
        try:
            for topic in topics:
                await self._verify(client, topic, None)
                state: Any = await client.xinfo_stream(topic)
                # Redis 6 does not count what was added.
                number = f"/{state['entries-added']}" if "entries-added" in state else ""
                found[topic] = state["last-generated-id"].decode() + number
        except (_redis().exceptions.RedisError, OSError) as error:
            raise self._down(error) from error
        finally:
            await _closed(client)
        return found

    async def _verify(self, client: Client, topic: str, group: str | None) -> None:
        if not await client.exists(topic):
            raise ProvisionError(f"{described(self.url)}: there is no stream {topic!r}")
        if group is not None and group.encode() not in [found["name"] for found in await client.xinfo_groups(topic)]:
            raise ProvisionError(f"{described(self.url)}: stream {topic!r} has no group {group!r}")

    async def _connected(self) -> Client:
        client = self._client()
        try:
            await client.ping()
        except (_redis().exceptions.RedisError, OSError) as error:
            await _closed(client)
            raise self._down(error) from error
        return client

    def _client(self) -> Client:
        redis = _redis()
        try:
            client: Client = redis.asyncio.Redis.from_url(
                self.url,
                # A command that was sent once more after a lost connection would come after what followed it.
                retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                protocol=2,
            )
        except ValueError:
            raise unreadable(self.url) from None
        return client

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {str(error) or type(error).__name__}")


class _Publisher:
    """One transaction after the other, on one connection; the next one is written while the server works on this one."""

    def __init__(self, transport: Redis, client: Client) -> None:
        self._transport = transport
        self._client = client
        self._connection: Any = None
        self._over: str | None = None
        self._broken = False
        self._turn = asyncio.Lock()
        self._pack = _packer()

    async def start(self) -> None:
        pool: Any = self._client.connection_pool
        self._connection = await pool.get_connection()

    async def publish(self, batch: Sequence[Outgoing], /) -> list[Outcome]:
        packed: list[bytes] = []
        outcomes = sifted(batch, lambda outgoing: self._write(outgoing, packed))
        commands = dict(zip([number for number, outcome in enumerate(outcomes) if outcome is None], packed, strict=True))
        if commands:
            async with self._turn:
                await self._send(batch, outcomes, commands)
        return [outcome or unconfirmed(self._over or "the connection is lost", broken=self._broken) for outcome in outcomes]

    async def close(self) -> None:
        self._over = self._over or "the publisher is closed"
        await self._end()

    async def _end(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    await self._connection.disconnect(nowait=True)
        await _closed(self._client)

    def _write(self, outgoing: Outgoing, packed: list[bytes]) -> str | None:
        """Add the command that adds the message, or return why it cannot be sent."""
        if (size := size_of(outgoing.message)) > self._transport.most:
            return f"the message has {size:,} bytes, more than {self._transport.most:,}"
        try:
            packed.append(self._command(outgoing))
        except ValueError as error:
            return f"it cannot be written: {error}"
        return None

    def _command(self, outgoing: Outgoing) -> bytes:
        limit = () if self._transport.retain is None else ("MAXLEN", "~", self._transport.retain)
        fields = [part for pair in _fields(outgoing.message, self._transport.wire).items() for part in pair]
        # A stream that nobody has provisioned has a name that somebody has mistyped.
        return self._pack(("XADD", outgoing.topic, "NOMKSTREAM", *limit, "*", *fields))

    async def _send(self, batch: Sequence[Outgoing], outcomes: list[Outcome | None], commands: dict[int, bytes]) -> None:
        """Send what has no outcome yet; what the server forbids is left out of the transaction and refused."""
        redis = _redis()
        try:
            while commands and self._over is None:
                async with asyncio.timeout(self._transport.timeout):
                    rejected, results = await self._transact(list(commands.values()))
                numbers = list(commands)
                if results is not None:
                    for number, result in zip(numbers, results, strict=True):
                        outcomes[number] = self._outcome(batch[number], result)
                    return
                for place, error in rejected.items():
                    outcomes[numbers[place]] = self._outcome(batch[numbers[place]], error)
                    del commands[numbers[place]]
                if not rejected:
                    self._over = "the server has discarded a transaction without saying why"
        except (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError, TimeoutError) as error:
            ended = isinstance(error, (redis.exceptions.ConnectionError, OSError)) and not isinstance(error, TimeoutError)
            self._broken = self._broken or (ended and self._over is None)
            self._over = self._over or f"{str(error) or type(error).__name__}"
        except BaseException:
            # The answers that nobody has read would be taken for those of the next transaction.
            self._over = self._over or "sending was interrupted"
            raise
        finally:
            if self._over is not None:
                await self._end()

    async def _transact(self, commands: Sequence[bytes]) -> tuple[dict[int, Exception], list[object] | None]:
        """Return what became of each command; or None, and the errors of those that the server has rejected before it began."""
        errors = _redis().exceptions
        connection = self._connection
        await connection.send_packed_command([_MULTI, *commands, _EXEC], check_health=False)
        await connection.read_response()
        rejected: dict[int, Exception] = {}
        for number in range(len(commands)):
            try:
                await connection.read_response(disconnect_on_error=False)
            except errors.ResponseError as error:
                rejected[number] = error
        try:
            results: list[object] = await connection.read_response(disconnect_on_error=False)
        except errors.ExecAbortError:
            return rejected, None
        return rejected, results

    def _outcome(self, outgoing: Outgoing, result: object) -> Outcome:
        if result is None:
            return refused(f"there is no stream {outgoing.topic!r}")
        if not isinstance(result, Exception):
            return CONFIRMED
        # What is said of this stream, or of who may write to it; everything else, such as a lack of memory, is the server's state.
        if isinstance(result, _redis().exceptions.NoPermissionError) or str(result).startswith(
            ("WRONGTYPE", "NOPERM", "Operation against")
        ):
            return refused(str(result))
        self._over = self._over or str(result)
        return unconfirmed(self._over)


class _Receiver:
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
        redis = _redis()
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
        redis = _redis()
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
        return frozenset()

    def let_go(self, shards: Collection[str], /) -> None:
        """Nothing is ever withdrawn."""

    async def close(self) -> None:
        if self._over is None:
            self._over = "the receiver is closed"
            with contextlib.suppress(_redis().exceptions.RedisError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await self._hand_back()
        await _closed(self._client)

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
        self._look_at = now + min(_BLOCK, self._transport.idle / 4)
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
        block = max(1, int(min(seconds, _BLOCK) * 1000))
        answer: Any = await self._client.xreadgroup(self._group, self._me, dict.fromkeys(self._topics, ">"), count=most, block=block)
        for topic, entries in answer or ():
            for entry, fields in entries:
                self._keep(topic.decode(), entry, fields, again=False)
        return seconds > _BLOCK

    def _keep(self, topic: str, entry: bytes, fields: Mapping[bytes, bytes], *, again: bool) -> None:
        number = entry.decode()
        message = _message(fields)
        if len(message.body or b"") > self._largest:
            self._largest = len(message.body or b"")
        self._held[topic].add(number)
        self._waiting.append(Incoming(topic, message, f"{topic}/{number}", (self, number), topic, again))


def _fields(message: Message, wire: Wire) -> dict[str, str | bytes]:
    if wire == "cap":
        return {**cap.to_redis(message)}
    fields: dict[str, str | bytes] = {name: value for name, value in message.headers.items() if value is not None}
    if message.content_type is not None:
        fields["content-type"] = message.content_type
    fields["data"] = message.body or b""
    return fields


def _message(fields: Mapping[bytes, bytes]) -> Message:
    headers: dict[str, str | bytes | None] = {_known(name) if len(name) < 64 else _name(name): value for name, value in fields.items()}
    if b"data" not in fields and b"headers" in fields and b"body" in fields:
        with contextlib.suppress(ValueError):
            return cap.from_redis({"headers": fields[b"headers"], "body": fields[b"body"]})
    headers.pop("data", None)
    headers.pop("content-type", None)
    content_type = fields.get(b"content-type")
    return Message(headers, fields.get(b"data", b""), None if content_type is None else _name(content_type))


def _name(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# Most entries have the same few names.
_known = lru_cache(512)(_name)


async def _create(client: Client, topic: str, group: str) -> None:
    try:
        await client.xgroup_create(topic, group, id="0", mkstream=True)
    except _redis().exceptions.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


async def _closed(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(5):
            await client.aclose()


def _packer() -> Callable[[tuple[Any, ...]], bytes]:
    try:
        pack: Callable[[tuple[Any, ...]], bytes] = import_module("hiredis").pack_command
    except (ModuleNotFoundError, AttributeError):
        plain = _redis().asyncio.Connection()

        def packed(command: tuple[Any, ...]) -> bytes:
            return b"".join(plain.pack_command(*command))

        return packed
    return pack


def _redis() -> Any:
    try:
        import_module("redis.asyncio")
        return import_module("redis")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.redis", "redis") from error
