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
from time import monotonic
from typing import TYPE_CHECKING, Any

from tidings.codecs.bindings import KAFKA as BINDING
from tidings.codecs.bindings import Binding
from tidings.codecs.wire import Wire
from tidings.errors import ProvisionError, TransportDown
from tidings.transports.base import Failure, Provision
from tidings.transports.kafka.client import load_kafka
from tidings.transports.kafka.publisher import Publisher
from tidings.transports.kafka.receiver import Receiver
from tidings.transports.urls import described

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

__all__ = ["Kafka"]


@dataclass(frozen=True)
class Kafka:
    """A cluster.

    Attributes:
        url: `host:port`, or several with commas between them; a scheme `kafka://` before them is left out.
        name: what logs, `tidings status` and deliveries call it; its checkpoint is stored under it. Two transports need two names.
        wire: `structured` writes the whole event as JSON into the body; `cap` writes messages as DotNetCore.CAP does.
        partitions, replicas: of a topic that is made here.
        most: bytes that a message may have; the cluster has a limit of its own.
        options: more of librdkafka's, for TLS and SASL; they hold passwords, and are never shown.
        timeout: seconds without a confirmation after which a publisher is over.
        session: seconds after which the group takes over what a receiver held that is gone.
        drain: seconds that a receiver waits for what is under way in a partition that it has to give away.
    """

    url: str
    _: KW_ONLY
    name: str = "kafka"
    wire: Wire = "cloudevents"
    partitions: int = 12
    replicas: int = 1
    most: int = 1_000_000
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict, repr=False)
    timeout: float = 30.0
    session: float = 45.0
    drain: float = 5.0

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

    def _provision(self, topics: Sequence[str], mode: Provision) -> None:
        kafka = load_kafka()
        client = kafka.admin.AdminClient(self._settings())
        try:
            known = client.list_topics(timeout=self.timeout).topics
            missing = [topic for topic in topics if topic not in known]
            if missing and mode == "verify":
                raise ProvisionError(f"{described(self.url)}: there is no topic {missing[0]!r}")
            made = (
                client.create_topics([kafka.admin.NewTopic(topic, self.partitions, self.replicas) for topic in missing]) if missing else {}
            )
            for topic, future in made.items():
                try:
                    future.result(self.timeout)
                except kafka.KafkaException as error:
                    if error.args[0].code() != kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                        raise ProvisionError(f"{described(self.url)}: topic {topic!r} cannot be made: {error.args[0].str()}") from error
            deadline = monotonic() + self.timeout
            while missing and monotonic() < deadline:
                # A topic is made before every broker knows it.
                known = client.list_topics(timeout=self.timeout).topics
                missing = [topic for topic in missing if topic not in known or not known[topic].partitions]
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

    def _settings(self, **more: object) -> dict[str, Any]:
        # What it has to say comes in errors, not on the standard error stream.
        return {"bootstrap.servers": self.url.removeprefix("kafka://"), "log_level": 0, **self.options, **more}
