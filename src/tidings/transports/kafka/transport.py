"""Apache Kafka: topics with partitions, the message's key chooses the partition as Java's clients choose it, consumer groups.

The client is librdkafka's own, which is synchronous: it runs on one thread of its own for each publisher and receiver.

Publishing is idempotent and without gaps, and no message ever times out by itself: so a message that was not confirmed says that no later one
of its partition was sent either (https://github.com/confluentinc/librdkafka/blob/master/INTRODUCTION.md, "Gapless guarantee"). A publisher that
gives up throws away what it has not sent.

Receiving commits, for each partition, the longest run of messages that are finished without a gap. What is taken away from a receiver in good
order is committed so far; what it has lost is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from tidings.codecs.bindings import KAFKA as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.wire import Wire
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.transports.base import Failure, Kept, Provision
from tidings.transports.checks import check_files, check_name, check_reserved, check_seconds, check_servers, check_whole
from tidings.transports.kafka.client import load_kafka
from tidings.transports.kafka.publisher import Publisher
from tidings.transports.kafka.receiver import Receiver
from tidings.transports.urls import described

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

__all__ = ["Kafka"]

T = TypeVar("T")

# Seconds between two questions whether a new topic is there.
_PAUSE = 0.05

_FILES = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location", "ssl.crl.location")

_PROMISES = "its promises rest on it"
_ANSWERS = "it listens there itself"
#: Options that are not the user's, each with what to do instead, or why.
_RESERVED = {
    "acks": _PROMISES,
    "auto.offset.reset": "a new group begins with the earliest message",
    "bootstrap.servers": "give url=...",
    "delivery.timeout.ms": "give timeout=...",
    "enable.auto.commit": _PROMISES,
    "enable.auto.offset.store": _PROMISES,
    "enable.gapless.guarantee": _PROMISES,
    "enable.idempotence": _PROMISES,
    "error_cb": _ANSWERS,
    "group.id": "give Service(group=...)",
    "heartbeat.interval.ms": "give session=...",
    "linger.ms": "batches are what is ready to be sent",
    "message.max.bytes": "give most=...",
    "message.timeout.ms": "give timeout=...",
    "metadata.broker.list": "give url=...",
    "on_commit": _ANSWERS,
    "on_delivery": _ANSWERS,
    "partition.assignment.strategy": _PROMISES,
    "partitioner": "keys have the partitions that Java's clients choose",
    "queue.buffering.max.kbytes": "what may be under way has a bound of its own",
    "queue.buffering.max.messages": "what may be under way has a bound of its own",
    "queue.buffering.max.ms": "batches are what is ready to be sent",
    "queued.max.messages.kbytes": "what is read ahead has a bound of its own",
    "request.required.acks": _PROMISES,
    "session.timeout.ms": "give session=...",
    "transactional.id": "a relay sends at least once, and inboxes see what comes again",
}


@dataclass(frozen=True)
class Kafka:
    """A cluster.

    Attributes:
        url: `host:port`, or several with commas between them; a scheme `kafka://` before them is left out. Who logs in is said by `options`.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body; `cap` writes messages as DotNetCore.CAP does, and reads them, too.
        partitions, replicas: of a topic that is made here.
        config: more settings of a topic that is made here, as Kafka calls them: `min.insync.replicas`, `retention.ms`.
        most: bytes that a message may have; the cluster has a limit of its own.
        options: more of librdkafka's, for TLS and SASL, with its Python client's callbacks: `oauth_cb`; they hold passwords, and are never shown.
            What is set here itself, such as `acks`, is refused.
        timeout: seconds without a confirmation after which a publisher is over.
        session: seconds after which the group takes over what a receiver held that is gone.
        drain: seconds that a receiver waits for what is under way in a partition that it has to give away.

    Raises:
        ConfigurationError: one of them cannot be.
    """

    url: str = field(repr=False)
    _: KW_ONLY
    name: str = "kafka"
    wire: Wire = "cloudevents"
    partitions: int = 12
    replicas: int = 1
    most: int = 1_000_000
    config: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    options: Mapping[str, str | int | float | bool | Callable[..., Any]] = field(default_factory=dict, repr=False)
    timeout: float = 30.0
    session: float = 45.0
    drain: float = 5.0

    def __post_init__(self) -> None:
        if "@" in str(self.url):
            address = described(str(self.url).rpartition("@")[2])
            raise ConfigurationError(
                f"Kafka {address}: nobody logs in by a user and a password in the URL: leave them out, and give options={{'security.protocol': "
                "'SASL_SSL', 'sasl.mechanism': 'PLAIN', 'sasl.username': ..., 'sasl.password': ...}"
            )
        check_servers("Kafka", self.url, ["kafka"])
        check_name("Kafka", self.name)
        check_whole("Kafka", "partitions", self.partitions, 1)
        check_whole("Kafka", "replicas", self.replicas, 1, 32_767)
        check_whole("Kafka", "most", self.most, 1, 999_000_000)
        check_seconds("Kafka", "timeout", self.timeout)
        check_seconds("Kafka", "session", self.session)
        check_seconds("Kafka", "drain", self.drain, zero=True)
        check_reserved("Kafka", "options", self.options, _RESERVED)

    @property
    def failure(self) -> Failure:
        """A message that was not confirmed says that no later one of its partition was sent."""
        return "prefix"

    @property
    def ordered(self) -> bool:
        """By partition."""
        return True

    @property
    def binding(self) -> Binding:
        """Kafka's own."""
        return BINDING

    async def provision(self, topics: Sequence[str], groups: Mapping[str, Sequence[str]], mode: Provision = "create") -> None:
        """Make topics. Groups are made by whoever receives for them."""
        if mode != "off":
            wanted = sorted({*topics, *(topic for needed in groups.values() for topic in needed)})
            await asyncio.to_thread(self._provision, wanted, mode)

    async def publisher(self) -> Publisher:
        """Connect, to send."""
        publisher = Publisher(self)
        try:
            await publisher.start()
        except BaseException:
            await publisher.close()
            raise
        return publisher

    async def receiver(self, group: str, topics: Sequence[str]) -> Receiver:
        """Connect, to receive."""
        receiver = Receiver(self, group, topics)
        try:
            await receiver.start()
        except BaseException:
            await receiver.close()
            raise
        return receiver

    async def kept(self, topics: Sequence[str]) -> dict[str, Kept]:
        """Ask the cluster how long the topics keep their messages."""
        return await asyncio.to_thread(self._kept, topics)

    def _kept(self, topics: Sequence[str]) -> dict[str, Kept]:
        kafka = load_kafka()
        client = self._client(kafka.admin.AdminClient, self._settings())
        try:
            known = client.list_topics(timeout=self.timeout).topics
            asked = [kafka.admin.ConfigResource(kafka.admin.ConfigResource.Type.TOPIC, topic) for topic in topics if topic in known]
            answers = client.describe_configs(asked, request_timeout=self.timeout) if asked else {}
            return {resource.name: _retention_of(future.result(self.timeout)) for resource, future in answers.items()}
        except kafka.KafkaException as error:
            raise self._down(error.args[0].str()) from error
        except TimeoutError as error:
            raise self._down(f"no answer within {self.timeout:g} s") from error

    def _provision(self, topics: Sequence[str], mode: Provision) -> None:
        kafka = load_kafka()
        client = self._client(kafka.admin.AdminClient, self._settings())
        try:
            known = client.list_topics(timeout=self.timeout).topics
            missing = [topic for topic in topics if topic not in known]
            if missing and mode == "verify":
                raise ProvisionError(f"{described(self.url)}: there is no topic {missing[0]!r}")
            config = {name: _written(value) for name, value in self.config.items()}
            wanted = [kafka.admin.NewTopic(topic, self.partitions, self.replicas, config=config) for topic in missing]
            made = client.create_topics(wanted) if wanted else {}
            for topic, future in made.items():
                try:
                    future.result(self.timeout)
                except kafka.KafkaException as error:
                    if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                        raise ProvisionError(f"{described(self.url)}: topic {topic!r} cannot be made: {error.args[0].str()}") from error
            deadline = monotonic() + self.timeout
            while missing:
                # A topic is made before every broker knows it.
                known = client.list_topics(timeout=self.timeout).topics
                missing = [topic for topic in missing if topic not in known or not known[topic].partitions]
                if missing and monotonic() > deadline:
                    raise self._down(f"topic {missing[0]!r} was made, but no broker says so within {self.timeout:g} s")
                if missing:
                    sleep(_PAUSE)
        except kafka.KafkaException as error:
            raise self._down(error.args[0].str()) from error

    def _down(self, reason: str) -> TransportDown:
        return TransportDown(f"{described(self.url)}: {reason}")

    def _metadata(self, client: Producer | Consumer, over: Callable[[], str | None]) -> Any:
        """Connect, and return what the cluster says of itself.

        Raises:
            TransportDown: it does not answer, or refuses us.
        """
        deadline = monotonic() + min(self.timeout, 10.0)
        while True:
            try:
                return client.list_topics(timeout=1.0)
            except load_kafka().KafkaException as error:
                # Why it has failed is told to the one who polls.
                client.poll(0)
                if (reason := over()) is not None or monotonic() > deadline:
                    raise self._down(reason or error.args[0].str()) from error

    def _client(self, kind: Callable[[dict[str, Any]], T], settings: dict[str, Any]) -> T:
        """Make a client of the library's.

        Raises:
            ConfigurationError: an option is none, or has a value that it cannot have, or one is missing.
            TransportDown: who gives tokens cannot be reached, say.
        """
        kafka = load_kafka()
        check_files(self.url, {name: self.options.get(name) for name in _FILES if self.options.get(name) != "probe"})
        try:
            return kind(settings)
        except kafka.KafkaException as error:
            reason = error.args[0].str()
            if error.args[0].code() != kafka.KafkaError._INVALID_ARG:
                raise self._down(reason) from None
        except (TypeError, ValueError) as error:
            reason = str(error)
        raise ConfigurationError(f"{described(self.url)}: Kafka(options=...) cannot be used: {reason}")

    def _settings(self, **more: object) -> dict[str, Any]:
        servers = ",".join(part.strip().removeprefix("kafka://").rstrip("/") for part in self.url.split(","))
        # What it has to say comes in errors, not on the standard error stream.
        return {"bootstrap.servers": servers, "log_level": 0, **self.options, **more}


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _retention_of(settings: Mapping[str, Any]) -> Kept:
    values = {name: settings[name].value for name in ("cleanup.policy", "retention.ms", "retention.bytes") if name in settings}
    bounds = [] if int(values.get("retention.bytes") or -1) < 0 else [f"retention.bytes={int(values['retention.bytes']):,}"]
    policy = str(values.get("cleanup.policy") or "delete")
    if "compact" in policy:
        bounds.append(f"cleanup.policy={policy}")
    milliseconds = int(values.get("retention.ms") or -1)
    kept = None if milliseconds < 0 or "delete" not in policy else milliseconds / 1000
    return Kept(kept, "retention.ms", ", ".join(bounds))
