"""NATS JetStream: a stream for each topic, the topic as its subject, and a durable pull consumer for each group.

Confirmations are pipelined, and each stands for itself. The event's id is the message's, so the server drops a copy that comes soon after.
A durable consumer gives what one receiver held to another after some time, and what came later meanwhile: that is why groups are not ordered.
Closing hands back at once what was not acknowledged. An ordered one reads the stream by position instead (`reader`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from tidings.codecs import cap
from tidings.codecs.bindings import NATS as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.wire import Wire
from tidings.errors import ProvisionError, TransportDown
from tidings.transports.base import Failure, Provision
from tidings.transports.nats.client import close_client, load_nats
from tidings.transports.nats.names import consumer_of, stream_of
from tidings.transports.nats.publisher import Publisher
from tidings.transports.nats.receiver import Reader, Receiver, made_at
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from tidings.transports.nats.sturdy import Sturdy

__all__ = ["NATS"]


@dataclass(frozen=True)
class NATS:
    """A server, or a cluster of them, with JetStream.

    Attributes:
        url: `nats://user:password@host:port`, or `tls://`, or several with commas between them.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body. `cap` writes messages as DotNetCore.CAP does, and gives topics with the
            same first word one stream, as it does; else each has its own. All formats are read.
        idle: seconds after which another receiver gets what one that has crashed held; handlers must be quicker.
        prefetch: messages that the receivers of a group may have without having acknowledged them.
        replicas: of a stream, 1 to 5.
        max_age: seconds that a stream keeps a message; None keeps all of them for ever.
        options: more of what `nats.connect` takes, for TLS and credentials: `tls`, an SSLContext, `user_credentials`, `nkeys_seed`, `token`; never
            shown.
        timeout: seconds without a confirmation after which a publisher is over.
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

        from tidings.transports.nats.sturdy import Sturdy

        try:
            async with asyncio.timeout(self.timeout):
                client = client or Sturdy()
                await client.connect(
                    [part.strip() for part in self.url.split(",")],
                    **{
                        **self.options,
                        "allow_reconnect": False,
                        "connect_timeout": self.timeout,
                        "error_cb": quiet,
                        "closed_cb": closed,
                    },
                )
                return client
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._down(error) from error
        except ValueError:
            raise unreadable(self.url) from None

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {str(error) or type(error).__name__}")


async def quiet(_error: Exception) -> None:
    """Whoever waits for the connection is told; the client need not print it, too."""
