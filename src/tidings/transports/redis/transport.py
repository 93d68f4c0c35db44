"""Redis Streams: a stream for each topic, and the stream's own groups, whose receivers share its messages.

A batch is one MULTI/EXEC, so it is added as a whole or not at all. Groups of Redis give what one receiver held to another after some time, and
what came later meanwhile: that is why they are not ordered. Closing hands back at once what was not acknowledged. An ordered group reads streams by position instead (`reader`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from tidings.codecs.bindings import REDIS, Binding
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.transports.base import Failure, Kept, Provision
from tidings.transports.checks import check_files, check_name, check_reserved, check_seconds, check_url, check_whole, parameters
from tidings.transports.redis.client import close_client, load_redis
from tidings.transports.redis.entries import message_of
from tidings.transports.redis.log import Reader
from tidings.transports.redis.publisher import Publisher
from tidings.transports.redis.receiver import Receiver
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client

__all__ = ["Redis"]

_FILES = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"}
_ANSWERS = "it reads the server's answers itself"
#: Parameters of the URL that are not the user's, each with why.
_RESERVED = {
    "decode_responses": _ANSWERS,
    "encoding": _ANSWERS,
    "encoding_errors": _ANSWERS,
    "legacy_responses": _ANSWERS,
    "protocol": _ANSWERS,
    "retry_on_error": "a command that was sent once more would come after what followed it",
    "retry_on_timeout": "a command that was sent once more would come after what followed it",
}


@dataclass(frozen=True)
class Redis:
    """A server of Redis 6.2 or newer, or Valkey.

    Attributes:
        url: `redis://user:password@host:port/0`, or `rediss://`, with the parameters that redis-py knows.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the field `data`; `cap` writes the two fields of DotNetCore.CAP,
            and reads them, too.
        idle: seconds after which another receiver takes what one that has crashed held; handlers must be quicker.
        retain: entries that a stream keeps at least; None keeps all of them for ever.
        most: bytes that a message may have.
        timeout: seconds without an answer after which a connection is over.

    Raises:
        ConfigurationError: one of them cannot be.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "redis"
    wire: Wire = "cloudevents"
    idle: float = 60.0
    retain: int | None = None
    most: int = 16 << 20
    timeout: float = 30.0

    def __post_init__(self) -> None:
        check_url("Redis", self.url, ["redis", "rediss", "unix"])
        parts = urlsplit(self.url)
        if "," in (parts.hostname or ""):
            raise ConfigurationError(
                f"Redis {described(self.url)}: the URL has several hosts: give one; Sentinel and Cluster are not supported"
            )
        if parts.scheme != "unix" and not (parts.path.strip("/") or "0").isdecimal():
            raise ConfigurationError(f"Redis {described(self.url)}: what follows the host is the number of a database, /0")
        given = parameters(self.url)
        check_reserved("Redis", "url", given, _RESERVED)
        if parts.scheme != "rediss" and (unused := sorted(name for name in given if name.startswith("ssl_"))):
            raise ConfigurationError(
                f"Redis {described(self.url)}: {unused[0]} is for TLS, which {parts.scheme}:// has not: give rediss://"
            )
        check_name("Redis", self.name)
        check_seconds("Redis", "idle", self.idle)
        if self.retain is not None:
            check_whole("Redis", "retain", self.retain, 1)
        check_whole("Redis", "most", self.most, 1)
        check_seconds("Redis", "timeout", self.timeout)

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
        except load_redis().exceptions.ResponseError as error:
            raise ProvisionError(f"{described(self.url)}: {error}") from error
        except (load_redis().exceptions.RedisError, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)

    async def publisher(self) -> Publisher:
        """Connect, to send."""
        publisher = Publisher(self, await self._connected())
        try:
            await publisher.start()
        except (load_redis().exceptions.RedisError, OSError) as error:
            await publisher.close()
            raise self._down(error) from error
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> Receiver:
        """Connect, to receive."""
        client = await self._connected()
        try:
            for topic in topics:
                await self._verify(client, topic, group)
        except (load_redis().exceptions.RedisError, OSError) as error:
            await close_client(client)
            raise self._down(error) from error
        except ProvisionError:
            await close_client(client)
            raise
        return Receiver(self, client, group, topics)

    @property
    def block(self) -> float:
        """Seconds for which a read waits for entries at a time: with nothing to say, the server must not seem to be gone."""
        return min(1.0, self.timeout / 2)

    async def reader(self, after: Mapping[str, str]) -> Reader:
        """Connect, to read by position."""
        client = await self._connected()
        redis = load_redis()
        errors = (redis.exceptions.RedisError, OSError, RuntimeError, AttributeError)
        reader = Reader(client, after, errors, self._down, message_of, partial(close_client, client), self.block)
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
        except (load_redis().exceptions.RedisError, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)
        return found

    async def kept(self, topics: Sequence[str]) -> dict[str, Kept]:
        """Ask the server how far back streams go that are trimmed; they are trimmed by number, not by time."""
        client = await self._connected()
        found: dict[str, Kept] = {}
        try:
            for topic in topics:
                if await client.exists(topic):
                    found[topic] = _retention_of(await client.xinfo_stream(topic), (await client.time())[0], self.retain)
        except (load_redis().exceptions.RedisError, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)
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
        except (load_redis().exceptions.RedisError, OSError) as error:
            await close_client(client)
            raise self._down(error) from error
        return client

    def _client(self) -> Client:
        redis = load_redis()
        check_files(self.url, {name: value for name, value in parameters(self.url).items() if name in _FILES})
        try:
            client: Client = redis.asyncio.Redis.from_url(
                self.url,
                # A command that was sent once more after a lost connection would come after what followed it.
                retry=redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                protocol=2,
            )
            # A parameter that it does not know, or that cannot be, is noticed here only.
            pool: Any = client.connection_pool
            pool.make_connection()
        except ValueError:
            raise unreadable(self.url) from None
        except (TypeError, redis.exceptions.RedisError) as error:
            raise ConfigurationError(f"{described(self.url)}: the URL has a parameter that cannot be used: {error}") from None
        return client

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {str(error) or type(error).__name__}")


async def _create(client: Client, topic: str, group: str) -> None:
    try:
        await client.xgroup_create(topic, group, id="0", mkstream=True)
    except load_redis().exceptions.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _retention_of(state: Mapping[str, Any], now: int, retain: int | None) -> Kept:
    # Redis 6 does not count what was added.
    trimmed = state.get("entries-added", 0) > state["length"]
    first = state.get("first-entry")
    if not trimmed or first is None:
        return Kept(None, "retain", "" if retain is None else f"retain={retain:,}")
    milliseconds = int(bytes(first[0]).partition(b"-")[0])
    return Kept(max(0.0, now - milliseconds / 1000), "what is left of the stream" if retain is None else f"retain={retain:,}")
