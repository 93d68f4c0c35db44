from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash
from tidings.testing.conformance import TransportConformance
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


def test_options_are_not_shown() -> None:
    assert "secret" not in repr(Kafka(url="host:9092", options={"sasl.password": "secret"}))
