"""RabbitMQ: one durable topic exchange, the topic as the routing key, and a quorum queue for each group, or several by key.

What is published says in a header which of 64 slots its key has, and a group with several queues has a headers exchange that knows whose they are.

Confirms are pipelined and every message is `mandatory`, so one that no queue takes is refused. Each confirm stands for itself, in any order.
A group's queue has a single active consumer, which keeps it ordered; its delivery limit is as high as it goes and its dead letters have an
exchange of their own, because a broker that counts deliveries would drop good messages of consumers that crash. Nothing is ever put back by
`nack`, which changes the order: closing the channel returns what was not acknowledged to the head.

The connection, its handshake, heartbeats and everything that is declared are the client's; messages and their confirmations are written and read
here, a batch at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tidings.codecs.bindings import AMQP, Binding
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.transports.base import Failure, Provision
from tidings.transports.checks import check_files, check_name, check_reserved, check_seconds, check_url, check_whole, parameters
from tidings.transports.rabbitmq.frames import SLOT, SLOTS
from tidings.transports.rabbitmq.link import close_client, is_cancelling, load_aiormq, reason_of
from tidings.transports.rabbitmq.publisher import Publisher
from tidings.transports.rabbitmq.receiver import Receiver
from tidings.transports.urls import described, unreadable

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel, AbstractConnection


__all__ = ["RabbitMQ"]

# A quorum queue counts deliveries up to this and no further.
_DELIVERY_LIMIT = 1_000_000
# Bytes of the name of an exchange or a queue, and of a routing key.
_LONGEST = 255
# What aiormq takes as a heartbeat.
_MOST_SECONDS = 65_534

_FILES = {"cafile", "capath", "certfile", "keyfile"}
_FOR_TLS = {*_FILES, "cadata", "no_verify_ssl"}
_PARAMETERS = {*_FOR_TLS, "auth", "heartbeat", "name", "timeout"}

#: Arguments of queues that are not the user's, each with what to do instead, or why.
_RESERVED = {
    "x-dead-letter-exchange": "what a queue drops is kept in '<exchange>.dead'",
    "x-delivery-limit": "a broker that counts deliveries would drop good messages of consumers that crash",
    "x-queue-type": "its promises rest on quorum queues",
    "x-single-active-consumer": "give ordered=...",
}


@dataclass(frozen=True)
class RabbitMQ:
    """A broker, or a cluster behind one address, that speaks AMQP 0.9.1.

    Attributes:
        url: `amqp://user:password@host:port/vhost`, or `amqps://`; as parameters what aiormq knows: `cafile`, `capath`, `cadata`, `certfile`,
            `keyfile` and `no_verify_ssl` for TLS, `heartbeat` and `timeout` in seconds, `auth`, `name`.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body; `cap` writes messages as DotNetCore.CAP does, and reads them, too.
        exchange: the topic exchange that everything is published to; CAP's is `cap.default.router`.
        ordered: whether one consumer of a queue at a time is active, which keeps the order; else all of them share its messages.
        partitions: queues that a group's messages are spread over by key, 1 to 64; None is one queue. What comes without our header
            `tidings-slot` (from others, and with `wire="cap"`) is all in the first. It cannot be changed while there are messages.
        arguments: more of a group's queues when they are declared: `x-quorum-initial-group-size`. A queue that is there must have the same.
        prefetch: messages that a receiver may have without having acknowledged them, 1 to 65535.
        most: bytes that a message may have; the broker closes the channel over a larger one than it takes. Of a larger one that is received
            only the beginning is kept.
        timeout: seconds without a confirmation after which a publisher is over.

    Raises:
        ConfigurationError: one of them cannot be.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "rabbitmq"
    wire: Wire = "cloudevents"
    exchange: str = "tidings"
    ordered: bool = True
    partitions: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    prefetch: int = 1000
    most: int = 16 << 20
    timeout: float = 30.0

    def __post_init__(self) -> None:
        check_url("RabbitMQ", self.url, ["amqp", "amqps"])
        if "," in (urlsplit(self.url).hostname or ""):
            raise ConfigurationError(
                f"RabbitMQ {described(self.url)}: the URL has several hosts: give one, a name that stands for all of them, or a load balancer's"
            )
        self._check_parameters()
        check_name("RabbitMQ", self.name)
        if not isinstance(self.exchange, str) or not 0 < len(self.exchange.encode()) <= _LONGEST - len(".dead"):
            raise ConfigurationError(f"RabbitMQ exchange={self.exchange!r}: give a name of 1 to {_LONGEST - len('.dead')} bytes")
        if self.partitions is not None and not (type(self.partitions) is int and 1 <= self.partitions <= SLOTS):
            raise ConfigurationError(
                f"RabbitMQ partitions={self.partitions!r} is not 1 to {SLOTS}, nor None for one queue without partitions"
            )
        check_reserved("RabbitMQ", "arguments", self.arguments, _RESERVED)
        check_whole("RabbitMQ", "prefetch", self.prefetch, 1, 65_535)
        check_whole("RabbitMQ", "most", self.most, 1)
        check_seconds("RabbitMQ", "timeout", self.timeout)

    @property
    def failure(self) -> Failure:
        """Each confirm stands for itself."""
        return "independent"

    @property
    def across_topics(self) -> bool:
        """A group has the same queue, or for each key the same one, for all of its topics."""
        return True

    @property
    def binding(self) -> Binding:
        """AMQP's."""
        return AMQP

    def shards(self, group: str) -> list[str]:
        """Return the names of a group's queues."""
        return [group] if self.partitions is None else [f"{group}.{number}" for number in range(self.partitions)]

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Declare the exchanges, and for each group its queues, bound to its topics."""
        if mode == "off":
            return
        self._check_names(topics, groups)
        aiormq = load_aiormq()
        connection = await self._connect()
        try:
            channel = await connection.channel()
            dead = f"{self.exchange}.dead"
            passive = mode == "verify"
            await channel.exchange_declare(self.exchange, exchange_type="topic", durable=True, passive=passive)
            await channel.exchange_declare(dead, exchange_type="fanout", durable=True, passive=passive)
            await channel.queue_declare(dead, durable=True, passive=passive, arguments={"x-queue-type": "quorum"})
            if not passive:
                await channel.queue_bind(dead, dead)
            for group, needed in groups.items():
                await self._same_partitions(connection, group)
                for queue in self.shards(group):
                    await channel.queue_declare(queue, durable=True, passive=passive, arguments=self._arguments(dead))
                if self.partitions is not None:
                    await self._spread(channel, group, needed, passive=passive)
                else:
                    for topic in needed if not passive else ():
                        await channel.queue_bind(group, self.exchange, routing_key=topic)
        except aiormq.exceptions.ChannelClosed as error:
            raise ProvisionError(f"{described(self.url)}: {reason_of(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (is_cancelling() or not connection.is_closed):
                raise
            raise self._down(error) from error
        finally:
            await close_client(connection)

    async def publisher(self) -> Publisher:
        """Connect, to send."""
        publisher = Publisher(self)
        await publisher.start()
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> Receiver:
        """Connect, to receive what the group's queues have; they are bound to the topics already."""
        aiormq = load_aiormq()
        receiver = Receiver(self, group)
        try:
            await receiver.start()
        except aiormq.exceptions.ChannelClosed as error:
            await receiver.close()
            raise ProvisionError(f"{described(self.url)}: {reason_of(error)}") from error
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError) as error:
            await receiver.close()
            raise self._down(error) from error
        return receiver

    def _check_parameters(self) -> None:
        found = parameters(self.url)
        if unknown := sorted(found.keys() - _PARAMETERS):
            raise ConfigurationError(
                f"RabbitMQ {described(self.url)}: the URL has a parameter {unknown[0]!r}, which aiormq does not know; it knows "
                f"{', '.join(sorted(_PARAMETERS))}"
            )
        if self.url.startswith("amqp://") and (unused := sorted(found.keys() & _FOR_TLS)):
            raise ConfigurationError(f"RabbitMQ {described(self.url)}: {unused[0]} is for TLS, which amqp:// has not: give amqps://")
        for what in ("heartbeat", "timeout"):
            if not (value := found.get(what, "1")).isdecimal() or int(value) > _MOST_SECONDS:
                raise ConfigurationError(
                    f"RabbitMQ {described(self.url)}: {what}={value!r} is no whole number of seconds from 0 to {_MOST_SECONDS}"
                )
        if found.get("auth", "plain").lower() not in ("plain", "external"):
            raise ConfigurationError(f"RabbitMQ {described(self.url)}: auth={found['auth']!r} is neither plain nor external")

    def _check_names(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
        """Refuse names that are too long: the broker does not say which of them is.

        Raises:
            ProvisionError: one of them is.
        """
        longest = 0 if self.partitions is None else len(".partitions")
        for what, names, most in (("group", groups, _LONGEST - longest), ("topic", {*topics, *chain(*groups.values())}, _LONGEST)):
            for name in names:
                if (size := len(name.encode())) > most:
                    raise ProvisionError(
                        f"{described(self.url)}: {what} {name!r} has {size} bytes, more than the {most} that RabbitMQ takes"
                    )

    def _arguments(self, dead: str) -> dict[str, Any]:
        return {
            **self.arguments,
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,
            "x-dead-letter-exchange": dead,
            "x-single-active-consumer": self.ordered,
        }

    async def _same_partitions(self, connection: AbstractConnection, group: str) -> None:
        """Refuse another number of partitions than the group has: a key's messages would be in two queues.

        Raises:
            ProvisionError: it has another one.
        """
        ring = await _exists(connection, exchange=_ring(group))
        if self.partitions is None:
            if not ring:
                return
            found = "several"
        elif not ring:
            if not await _exists(connection, queue=group):
                return
            found = "None"
        else:
            # The ring is made after its queues, so all of them are there.
            last = [await _exists(connection, queue=f"{group}.{number}") for number in (self.partitions - 1, self.partitions)]
            if last == [True, False]:
                return
            found = "more" if last[1] else "fewer"
        raise ProvisionError(
            f"{described(self.url)}: group {group!r} is made with {found} partitions, not with {self.partitions}: let it handle what it has, "
            f"delete its queues and the exchanges {_ring(group)!r} and {_others(group)!r}, then start with the new number"
        )

    async def _spread(self, channel: AbstractChannel, group: str, topics: Sequence[str], *, passive: bool) -> None:
        """Make what a group's messages are spread over its queues by, the exchange of the slots last.

        A consistent-hash exchange would not need our header, but deals its queues anew in any order when the broker has crashed (seen with 3.10): the
        events of a key would be in two queues.
        """
        ring, rest = _ring(group), _others(group)
        queues = self.shards(group)
        await channel.exchange_declare(rest, exchange_type="fanout", durable=True, passive=passive)
        if not passive:
            await channel.queue_bind(queues[0], rest)
        arguments: dict[str, Any] = {"alternate-exchange": rest}
        await channel.exchange_declare(ring, exchange_type="headers", durable=True, passive=passive, arguments=arguments)
        if passive:
            return
        for slot in range(SLOTS):
            which: dict[str, Any] = {"x-match": "all", SLOT: str(slot)}
            await channel.queue_bind(queues[slot % len(queues)], ring, arguments=which)
        for topic in topics:
            await channel.exchange_bind(ring, self.exchange, routing_key=topic)

    async def _connect(self, **options: Any) -> AbstractConnection:
        aiormq = load_aiormq()
        check_files(self.url, {name: value for name, value in parameters(self.url).items() if name in _FILES})
        try:
            async with asyncio.timeout(self.timeout):
                connection: AbstractConnection = await aiormq.connect(self.url, **options)
                return connection
        except aiormq.exceptions.InvalidFrameError as error:
            # The client does not tell what the broker says about a virtual host, only that it says something else than yes.
            if "Connection.OpenOk" not in str(error):
                raise self._down(error) from error
            raise self._down("the broker refuses the virtual host: it is not there, or not for this user") from error
        except (aiormq.exceptions.AMQPError, OSError, TimeoutError) as error:
            raise self._down(error) from error
        except StopAsyncIteration as error:
            # So the client says that nothing more comes, as from a proxy that has nobody behind it.
            raise self._down("the connection was closed before the broker said anything") from error
        except (ValueError, KeyError, TypeError):
            raise unreadable(self.url) from None

    def _down(self, error: object) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {reason_of(error) if isinstance(error, BaseException) else error}")


def _ring(group: str) -> str:
    return f"{group}.partitions"


def _others(group: str) -> str:
    return f"{group}.others"


async def _exists(connection: AbstractConnection, *, queue: str = "", exchange: str = "") -> bool:
    """Tell whether it is there; asking for what is not closes the channel."""
    aiormq = load_aiormq()
    channel = await connection.channel()
    try:
        if queue:
            await channel.queue_declare(queue, passive=True)
        else:
            await channel.exchange_declare(exchange, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True
