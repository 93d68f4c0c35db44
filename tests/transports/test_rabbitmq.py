from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy
from tidings.codecs.message import Message
from tidings.errors import ConfigurationError, ProvisionError, TransportDown
from tidings.testing.conformance import TransportConformance
from tidings.transports.base import CONFIRMED, Outgoing
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


async def test_a_key_has_the_same_queue_after_a_crash_of_the_broker(own_broker: tuple[Control, str]) -> None:
    """A consistent-hash exchange deals its queues anew: the events of a key would be in two of them."""
    control, url = own_broker
    crash = Crash(control, "rabbitmq")
    transport = RabbitMQ(url=url, timeout=5, partitions=3)
    groups = ("one", "two")
    await transport.provision(["dealt"], {group: ["dealt"] for group in groups})
    await asyncio.sleep(4)

    async def places() -> dict[tuple[str, str], str]:
        publisher = await transport.publisher()
        await publisher.publish([Outgoing("dealt", Message({"key": f"{n}"}, b"{}", None, f"{n}", f"{n}")) for n in range(60)])
        await publisher.close()
        found: dict[tuple[str, str], str] = {}
        for group in groups:
            receiver = await transport.receiver(group, ["dealt"])
            async with asyncio.timeout(20):
                while sum(known == group for known, _ in found) < 60:
                    some = await receiver.receive(100, 1)
                    await receiver.acknowledge(some)
                    found |= {(group, str(one.message.headers["key"])): one.shard for one in some}
            await receiver.close()
        return found

    before = await places()
    assert set(before.values()) == {f"{group}.{number}" for group in groups for number in range(3)}
    for _ in range(2):
        await crash.stop()
        await crash.start()
        assert await places() == before


@pytest.mark.parametrize("partitions", [0, -1, 65])
def test_a_number_of_partitions_that_cannot_be_is_refused(partitions: int) -> None:
    with pytest.raises(ConfigurationError, match=f"partitions={partitions} is not 1 to 64"):
        RabbitMQ(url="amqp://host/", partitions=partitions)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(RabbitMQ(url="amqp://user:secret@host/"))


async def test_queues_have_the_arguments_that_they_are_given(rabbitmq_url: str) -> None:
    topic = f"argued-{uuid4().hex}"
    transport = RabbitMQ(rabbitmq_url, arguments={"x-max-length": 10})
    await transport.provision([topic], {topic: [topic]})
    await transport.provision([topic], {topic: [topic]})
    with pytest.raises(ProvisionError, match="x-max-length"):
        await RabbitMQ(rabbitmq_url).provision([topic], {topic: [topic]})


async def test_a_message_is_sent_in_the_turn_of_the_event_loop_in_which_it_is_published(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of the client is a task of its own: behind others that are busy, it has its turn milliseconds later."""
    topic = f"prompt-{uuid4().hex}"
    transport = RabbitMQ(rabbitmq_url)
    await transport.provision([topic], {topic: [topic]})
    publisher = await transport.publisher()
    written: list[bytes] = []
    write = asyncio.StreamWriter.write

    def noting(self: asyncio.StreamWriter, data: bytes) -> None:
        written.append(data)
        write(self, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", noting)
    sending = asyncio.create_task(publisher.publish([Outgoing(topic, Message({}, b"prompt", None, None, "1"))]))
    await asyncio.sleep(0)
    assert any(b"prompt" in data for data in written)
    assert await sending == [CONFIRMED]
    await publisher.close()


async def test_a_publisher_waits_while_the_broker_takes_no_more_and_frames_stay_whole(rabbitmq_url: str) -> None:
    """Heartbeats of the client come in between, and calls that were made meanwhile."""
    topic = f"crowded-{uuid4().hex}"
    transport = RabbitMQ(f"{rabbitmq_url}?heartbeat=1")
    await transport.provision([topic], {topic: [topic]})
    publisher = await transport.publisher()
    body = bytes(range(256)) * 4096
    calls = [[Outgoing(topic, Message({}, body, None, None, f"{call}/{n}")) for n in range(4)] for call in range(8)]
    outcomes = await asyncio.gather(*[publisher.publish(call) for call in calls])
    assert outcomes == [[CONFIRMED] * 4] * 8
    receiver = await transport.receiver(topic, [topic])
    ids: list[str | None] = []
    async with asyncio.timeout(30):
        while len(ids) < 32:
            found = await receiver.receive(100, 1)
            assert all(one.message.body == body for one in found)
            ids += [one.message.id for one in found]
            await receiver.acknowledge(found)
    assert ids == [f"{call}/{n}" for call in range(8) for n in range(4)]
    await receiver.close()
    await publisher.close()


async def test_who_closes_the_connection_before_anything_is_said_is_a_broker_that_is_down() -> None:
    async def closed(*_: object, **__: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection whose other end was closed before this one was looked at."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.read()
        return reader, writer

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportDown, match="closed before the broker said anything"):
            await RabbitMQ(f"amqp://guest:guest@127.0.0.1:{port}/")._connect(transport_factory=SimpleNamespace(create=closed))


async def test_a_virtual_host_that_is_not_there_is_said_in_words(rabbitmq_url: str) -> None:
    transport = RabbitMQ(url=rabbitmq_url.rstrip("/") + "/there-is-none")

    with pytest.raises(TransportDown, match="the broker refuses the virtual host: it is not there, or not for this user"):
        await transport.provision([], {})
