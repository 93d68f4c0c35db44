from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash
from tidings.codecs.message import Message
from tidings.errors import ProvisionError, TransportDown
from tidings.testing.conformance import TransportConformance
from tidings.transports.base import CONFIRMED, Kept, Outgoing
from tidings.transports.kafka import Kafka


class TestConformance(TransportConformance):
    too_large = 1 << 20
    # Nobody hands back: a receiver that has left makes the group divide its partitions anew.
    returned = 6.0

    @pytest.fixture
    def transport(self, kafka_url: str) -> Kafka:
        return Kafka(url=kafka_url, partitions=3, session=6.0)

    # A cluster tells its clients where it is, so they would pass by a proxy: the outage is tested below, with a cluster of its own.
    test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost = None


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, str]]:
    with private("kafka", Control(Path(tmp_path_factory.mktemp("broker")), say=lambda _sentence: None)) as found:
        yield found


async def test_a_killed_broker_has_lost_nothing_that_it_had_confirmed(own_broker: tuple[Control, str]) -> None:
    control, url = own_broker
    transport = Kafka(url=url, partitions=3, session=6.0, timeout=5)
    await transport.provision(["killed"], {"killed": ["killed"]})
    suite = TransportConformance()
    suite.returned = 30.0
    await suite.test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost(transport, "killed", Crash(control, "kafka"))


async def test_a_few_messages_do_not_wait_for_a_batch_to_fill(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Kafka._settings
    monkeypatch.setattr(Kafka, "_settings", lambda self, **more: {**settings(self, **more), **({"linger.ms": 60_000} if more else {})})
    transport = Kafka(kafka_url, partitions=2, timeout=20)
    topic = f"few-{uuid4().hex}"
    await transport.provision([topic], {})
    publisher = await transport.publisher()

    for number in range(3):
        # The first of them also makes the thread leave its wait, the others find it wherever it is.
        calls = [publisher.publish([Outgoing(topic, Message({}, b"1", key=str(key)))] * 10) for key in range(number + 1)]
        assert all(outcomes == [CONFIRMED] * 10 for outcomes in await asyncio.gather(*calls))
    assert publisher._handed == publisher._settled == 60
    await publisher.close()


def test_options_are_not_shown() -> None:
    assert "secret" not in repr(Kafka(url="host:9092", options={"sasl.password": "secret"}))


async def test_a_topic_is_made_as_it_is_said(kafka_url: str) -> None:
    topic = f"configured-{uuid4().hex}"
    await Kafka(kafka_url, partitions=2, config={"retention.ms": 12_345, "compression.type": "gzip", "preallocate": True}).provision(
        [topic], {}
    )

    def settings() -> dict[str, str]:
        admin = import_module("confluent_kafka.admin")
        resource = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, topic)
        client = admin.AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
        return {name: entry.value for name, entry in client.describe_configs([resource])[resource].result(20).items()}

    found = await asyncio.to_thread(settings)
    assert (found["retention.ms"], found["compression.type"], found["preallocate"]) == ("12345", "gzip", "true")


async def test_a_setting_of_a_topic_that_there_is_none_is_told_with_the_topic(kafka_url: str) -> None:
    topic = f"configured-{uuid4().hex}"
    with pytest.raises(ProvisionError, match=f"{topic}.*no.such.setting"):
        await Kafka(kafka_url, config={"no.such.setting": 1}).provision([topic], {})


async def test_a_new_topic_that_nobody_gets_to_know_of_is_told(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        asked = 0

        def list_topics(self, **_: float) -> Any:
            Client.asked += 1
            return SimpleNamespace(topics={})

        def create_topics(self, topics: list[Any]) -> dict[str, Any]:
            return {topic.topic: SimpleNamespace(result=lambda _seconds: None) for topic in topics}

    transport = Kafka(kafka_url, timeout=0.5)
    monkeypatch.setattr(Kafka, "_client", lambda *_: Client())
    with pytest.raises(TransportDown, match="'new' was made, but no broker says so"):
        await transport.provision(["new"], {})
    assert Client.asked < 20


async def test_the_cluster_says_how_long_it_keeps_messages(kafka_url: str) -> None:
    ours, forever, compacted = (f"kept-{uuid4().hex}" for _ in range(3))
    await Kafka(kafka_url, partitions=1, config={"retention.ms": 3_600_000, "retention.bytes": 5_000}).provision([ours], {})
    await Kafka(kafka_url, partitions=1, config={"retention.ms": -1}).provision([forever], {})
    await Kafka(kafka_url, partitions=1, config={"cleanup.policy": "compact"}).provision([compacted], {})
    # What is there counts, not what this one would make.
    found = await Kafka(kafka_url, config={"retention.ms": 1}).kept([ours, forever, compacted, f"missing-{uuid4().hex}"])
    assert found == {
        ours: Kept(3600.0, "retention.ms", "retention.bytes=5,000"),
        forever: Kept(None, "retention.ms"),
        compacted: Kept(None, "retention.ms", "cleanup.policy=compact"),
    }


async def test_a_cluster_that_is_down_does_not_say_how_long_it_keeps_messages() -> None:
    with pytest.raises(TransportDown):
        await Kafka("127.0.0.1:1", timeout=0.5).kept(["orders"])
