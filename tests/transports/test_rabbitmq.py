from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy
from tidings.testing.conformance import TransportConformance
from tidings.transports.rabbitmq import RabbitMQ


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(rabbitmq_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


class TestConformance(TransportConformance):
    too_large = 2 << 20
    unroutable = True

    @pytest.fixture(params=[True, False], ids=["ordered", "shared"])
    def transport(self, proxy: Proxy, request: pytest.FixtureRequest) -> RabbitMQ:
        return RabbitMQ(url=proxy.url, ordered=request.param, most=1 << 20)

    @pytest.fixture
    def outage(self, proxy: Proxy) -> Proxy:
        return proxy


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Control, str]]:
    with private("rabbitmq", Control(Path(tmp_path_factory.mktemp("broker")), say=lambda _sentence: None)) as found:
        yield found


async def test_a_killed_broker_has_lost_nothing_that_it_had_confirmed(own_broker: tuple[Control, str]) -> None:
    control, url = own_broker
    transport = RabbitMQ(url=url, timeout=5)
    await transport.provision(["killed"], {"killed": ["killed"]})
    # RabbitMQ 3.10 writes down what a quorum queue is called three seconds after its declaration: killed before, the queue is of no use.
    await asyncio.sleep(4)
    suite = TransportConformance()
    await suite.test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost(transport, "killed", Crash(control, "rabbitmq"))


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(RabbitMQ(url="amqp://user:secret@host/"))
