"""NATS JetStream: a stream for each topic, the topic as its subject, and a durable pull consumer for each group.

Confirmations are pipelined, and each stands for itself. The event's id is the message's, so the server drops a copy that comes soon after.
A durable consumer gives what one receiver held to another after some time, and what came later meanwhile: that is why groups are not ordered.
Closing hands back at once what was not acknowledged. An ordered one reads the stream by position instead (`reader`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

from tidings.codecs import cap
from tidings.codecs.bindings import NATS as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.transports.base import Failure, Kept, Provision
from tidings.transports.checks import check_files, check_name, check_reserved, check_seconds, check_servers, check_whole
from tidings.transports.nats.client import close_client, load_nats, load_nkeys
from tidings.transports.nats.names import consumer_of, stream_of
from tidings.transports.nats.publisher import Publisher
from tidings.transports.nats.receiver import Reader, Receiver, made_at
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamConfig

    from tidings.transports.nats.sturdy import Sturdy

__all__ = ["NATS"]

# What is said by whoever wants TLS, besides the URL.
_FOR_TLS = ("tls", "tls_hostname", "tls_handshake_first")
# What needs the package that signs.
_SIGNED = ("user_credentials", "nkeys_seed", "nkeys_seed_str")

#: Options that are not the user's, each with what to do instead, or why.
_RESERVED = {
    "allow_reconnect": "whoever has lost a connection begins again at its checkpoint",
    "closed_cb": "it listens there itself",
    "connect_timeout": "give timeout=...",
    "error_cb": "it listens there itself",
    "max_reconnect_attempts": "whoever has lost a connection begins again at its checkpoint",
    "reconnect_time_wait": "whoever has lost a connection begins again at its checkpoint",
    "servers": "give url=...",
}


@dataclass(frozen=True)
class NATS:
    """A server, or a cluster of them, with JetStream.

    Attributes:
        url: `nats://user:password@host:port`, or `tls://`, or several with commas between them.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body. `cap` writes messages as DotNetCore.CAP does, and gives topics with the
            same first word one stream, as it does; else each has its own. CloudEvents are always read, CAP's messages with `cap`.
        idle: seconds after which another receiver gets what one that has crashed held; handlers must be quicker.
        prefetch: messages that the receivers of a group may have without having acknowledged them.
        replicas: of a stream, 1 to 5.
        max_age: seconds that a stream keeps a message; None keeps all of them for ever.
        options: more of what `nats.connect` takes, for TLS and credentials: `tls`, an SSLContext, `user_credentials`, `nkeys_seed`, `token`; never
            shown.
        timeout: seconds without a confirmation after which a publisher is over.

    Raises:
        ConfigurationError: one of them cannot be.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "nats"
    wire: Wire = "cloudevents"
    idle: float = 60.0
    prefetch: int = 1000
    replicas: int = 1
    max_age: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    timeout: float = 30.0

    def __post_init__(self) -> None:
        check_servers("NATS", self.url, ["nats", "tls"])
        check_name("NATS", self.name)
        check_seconds("NATS", "idle", self.idle)
        check_whole("NATS", "prefetch", self.prefetch, 1)
        check_whole("NATS", "replicas", self.replicas, 1, 5)
        if self.max_age is not None:
            check_seconds("NATS", "max_age", self.max_age)
        check_seconds("NATS", "timeout", self.timeout)
        check_reserved("NATS", "options", self.options, _RESERVED)
        if self.options.get("tls") is not None and not isinstance(self.options["tls"], SSLContext):
            raise ConfigurationError("NATS options['tls'] is no SSLContext: give ssl.create_default_context(cafile=...)")

    @property
    def failure(self) -> Failure:
        """Each confirmation stands for itself."""
        return "independent"

    @property
    def ordered(self) -> bool:
        """Not while a group's messages move from a dead receiver to another."""
        return False

    @property
    def binding(self) -> Binding:
        """NATS's own."""
        return BINDING

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make streams in files, and durable consumers that begin at the first message."""
        if mode == "off":
            return
        client = await self._connect()
        try:
            context = client.jetstream(timeout=self.timeout)
            for topic in {*topics, *(topic for needed in groups.values() for topic in needed)}:
                await self._stream(context, topic, mode)
            for group, needed in groups.items():
                for topic in needed:
                    await self._consumer(context, group, topic, mode)
        except load_nats().js.errors.NotFoundError as error:
            raise ProvisionError(
                f"{described(self.url)}: a stream or consumer for {sorted({*topics, *groups})} is missing: {error}"
            ) from error
        except load_nats().js.errors.APIError as error:
            raise ProvisionError(f"{described(self.url)}: {error}") from error
        except (load_nats().errors.Error, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)

    async def publisher(self) -> Publisher:
        """Connect, to send."""
        publisher = Publisher(self)
        await publisher.start()
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> Receiver:
        """Connect, to receive."""
        receiver = Receiver(self)
        try:
            await receiver.start(group, topics)
        except load_nats().js.errors.NotFoundError as error:
            await receiver.close()
            raise ProvisionError(f"{described(self.url)}: group {group!r} is missing on {list(topics)}: {error}") from error
        except (load_nats().errors.Error, OSError) as error:
            await receiver.close()
            raise self._down(error) from error
        return receiver

    async def reader(self, after: Mapping[str, str]) -> Reader:
        """Connect, to read by position."""
        reader = Reader(self)
        try:
            await reader.begin(after)
        except load_nats().js.errors.NotFoundError as error:
            await reader.close()
            raise ProvisionError(f"{described(self.url)}: there is no stream for one of {list(after)}: {error}") from error
        except (load_nats().errors.Error, OSError) as error:
            await reader.close()
            raise self._down(error) from error
        return reader

    async def end(self, topics: Sequence[str]) -> dict[str, str]:
        """Return the positions behind the last messages."""
        client = await self._connect()
        try:
            context = client.jetstream(timeout=self.timeout)
            found = {topic: await context.stream_info(self.stream(topic)) for topic in topics}
        except load_nats().js.errors.NotFoundError as error:
            raise ProvisionError(f"{described(self.url)}: there is no stream for one of {list(topics)}: {error}") from error
        except (load_nats().errors.Error, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)
        return {topic: f"{info.state.last_seq}@{made_at(info)}" for topic, info in found.items()}

    async def kept(self, topics: Sequence[str]) -> dict[str, Kept]:
        """Ask the server how long the streams keep their messages."""
        nats = load_nats()
        client = await self._connect()
        found: dict[str, Kept] = {}
        try:
            context = client.jetstream(timeout=self.timeout)
            for topic in topics:
                with suppress(nats.js.errors.NotFoundError):
                    kept = _retention_of((await context.stream_info(self.stream(topic))).config)
                    if kept is not None:
                        found[topic] = kept
        except (nats.errors.Error, OSError) as error:
            raise self._down(error) from error
        finally:
            await close_client(client)
        return found

    def stream(self, topic: str) -> str:
        """Return the name of a topic's stream."""
        return cap.stream_of(topic) if self.wire == "cap" else stream_of(topic)

    async def _stream(self, context: JetStreamContext, topic: str, mode: Provision) -> None:
        nats = load_nats()
        name = self.stream(topic)
        if mode == "verify":
            info = await context.stream_info(name)
            if topic not in (info.config.subjects or ()):
                raise ProvisionError(f"{described(self.url)}: stream {name!r} is there, but not for the subject {topic!r}")
            return
        settings = nats.js.api.StreamConfig(
            name=name,
            subjects=[topic],
            storage=nats.js.api.StorageType.FILE,
            num_replicas=self.replicas,
            max_age=self.max_age or 0,
        )
        try:
            await context.add_stream(settings)
        except nats.js.errors.BadRequestError as refused_:
            # It is there with other settings, which are for its owner to choose; the topic must be one of its subjects.
            try:
                found = (await context.stream_info(name)).config
            except nats.js.errors.NotFoundError:
                # Another stream has the subject.
                raise refused_ from None
            if topic in (found.subjects or ()):
                return
            if self.wire != "cap":
                raise
            # CAP has one stream for all topics with the same first word.
            await context.update_stream(found, subjects=[*(found.subjects or ()), topic])

    async def _consumer(self, context: JetStreamContext, group: str, topic: str, mode: Provision) -> None:
        try:
            await context.consumer_info(self.stream(topic), consumer_of(group, topic))
        except load_nats().js.errors.NotFoundError:
            if mode == "verify":
                raise
            api = load_nats().js.api
            settings = api.ConsumerConfig(
                durable_name=consumer_of(group, topic),
                filter_subject=topic,
                ack_policy=api.AckPolicy.EXPLICIT,
                deliver_policy=api.DeliverPolicy.ALL,
                ack_wait=self.idle,
                max_ack_pending=self.prefetch,
            )
            await context.add_consumer(self.stream(topic), settings)

    async def _connect(self, lost: Callable[[str], None] | None = None, client: Sturdy | None = None) -> Sturdy:
        nats = load_nats()

        async def closed() -> None:
            if lost is not None:
                lost("the connection is lost")

        if any(self.options.get(option) is not None for option in _SIGNED):
            load_nkeys()
        credentials = self.options.get("user_credentials")
        several = credentials if isinstance(credentials, tuple) else (credentials,)
        for path in several:
            check_files(self.url, {"user_credentials": path})
        check_files(self.url, {"nkeys_seed": self.options.get("nkeys_seed")})

        from tidings.transports.nats.sturdy import Sturdy

        servers = [part.strip() for part in self.url.split(",")]
        client = client or Sturdy()
        client.tls_only = self._asks_for_tls(servers)
        said = ""

        async def noticed(error: Exception) -> None:
            nonlocal said
            said = str(error) or ("no answer" if isinstance(error, TimeoutError) else type(error).__name__)

        try:
            async with asyncio.timeout(self.timeout):
                await client.connect(
                    servers,
                    **{
                        **self.options,
                        "allow_reconnect": False,
                        # It tries each server as often without being asked, and once more.
                        "max_reconnect_attempts": 1,
                        "reconnect_time_wait": 0,
                        # One that does not answer leaves time for the others.
                        "connect_timeout": self.timeout / len(servers),
                        "error_cb": noticed,
                        "closed_cb": closed,
                    },
                )
        except BaseException as error:
            lost = None
            await close_client(client)
            if isinstance(error, (nats.errors.Error, OSError)):
                raise self._down(said or str(error) or f"no answer within {self.timeout:g} s") from error
            if isinstance(error, ValueError):
                raise unreadable(self.url) from None
            if isinstance(error, TypeError):
                raise ConfigurationError(f"{described(self.url)}: NATS(options=...) cannot be used: {error}") from error
            raise
        return client

    def _asks_for_tls(self, servers: Sequence[str]) -> bool:
        return any(server.startswith("tls://") for server in servers) or any(self.options.get(name) for name in _FOR_TLS)

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {str(error) or type(error).__name__}")


def _retention_of(config: StreamConfig) -> Kept | None:
    if config.retention not in (None, "limits"):
        # Those who have acknowledged a message have it no more.
        return None
    bounds = [
        f"{name}={value:,}" for name in ("max_msgs", "max_bytes", "max_msgs_per_subject") if (value := getattr(config, name) or 0) > 0
    ]
    return Kept(config.max_age or None, "max_age", ", ".join(bounds))
