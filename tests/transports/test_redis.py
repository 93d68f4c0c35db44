from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio as client
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy
from tests.wire.events import PLACED
from tidings.codecs import cap
from tidings.codecs.bindings import REDIS
from tidings.codecs.cloudevents import encode_binary
from tidings.codecs.wire import Wire, decode
from tidings.testing.conformance import TransportConformance
from tidings.testing.log_conformance import LogConformance, Remove
from tidings.transports.base import Outgoing
from tidings.transports.redis import Redis


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(redis_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


class TestConformance(TransportConformance):
    too_large = 2 << 20
    returned = 1.0

    @pytest.fixture
    def transport(self, proxy: Proxy) -> Redis:
        return Redis(url=proxy.url, most=1 << 20, idle=1.0)

    @pytest.fixture
    def outage(self, proxy: Proxy) -> Proxy:
        return proxy


class TestLog(LogConformance):
    @pytest.fixture
    def transport(self, proxy: Proxy) -> Redis:
        return Redis(url=proxy.url)

    @pytest.fixture
    def outage(self, proxy: Proxy) -> Proxy:
        return proxy

    @pytest.fixture
    def remove(self, redis_url: str) -> Remove:
        async def remove(topic: str, count: int | None) -> None:
            async with client.Redis.from_url(redis_url) as server:
                if count is None:
                    await server.delete(topic)
                    # As if its clock had been set back: a new stream's entries have later numbers than the old one's.
                    await server.xadd(topic, {"number": "20"}, id="1-1")
                    await server.xadd(topic, {"number": "21"}, id="1-2")
                else:
                    length = await server.xlen(topic)
                    await server.xtrim(topic, maxlen=length - count, approximate=False)

        return remove

    async def test_a_topic_that_was_made_anew_is_read_from_its_beginning(self, transport: Redis, topic: str, remove: Remove) -> None:
        end = await self._end_of(transport, topic)
        await remove(topic, None)
        found = await self._read(transport, topic, end, 2)
        assert [one.message.headers["number"] for one in found] == [b"20", b"21"]
        assert "anew" in found[0].gap

    async def _end_of(self, transport: Redis, topic: str) -> str:
        publisher = await transport.publisher()
        await publisher.publish([Outgoing(topic, encode_binary(PLACED, REDIS))])
        await publisher.close()
        return (await transport.end([topic]))[topic]


async def test_a_killed_broker_has_lost_nothing_that_it_had_confirmed(tmp_path: Path) -> None:
    with private("redis", Control(tmp_path, say=lambda _sentence: None)) as (control, url):
        transport = Redis(url=url, idle=1.0)
        await transport.provision(["killed"], {"killed": ["killed"]})
        suite = TransportConformance()
        suite.returned = 1.0
        await suite.test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost(transport, "killed", Crash(control, "redis"))


@pytest.mark.parametrize("wire", ["cloudevents", "cap"])
async def test_both_wire_formats_are_read(redis_url: str, wire: Wire) -> None:
    transport = Redis(url=redis_url, wire=wire)
    topic = f"wire.{wire}"
    await transport.provision([topic], {topic: [topic]})
    publisher, receiver = await transport.publisher(), await transport.receiver(topic, [topic])
    message = cap.encode(PLACED, topic, REDIS) if wire == "cap" else encode_binary(PLACED, REDIS)
    await publisher.publish([Outgoing(topic, message)])
    (found,) = await receiver.receive(1, 5)
    assert decode(found.message, REDIS, ("cloudevents", "cap")).id == PLACED.id
    await receiver.acknowledge([found])
    await publisher.close()
    await receiver.close()


async def test_what_a_crashed_receiver_held_comes_to_another_after_a_time(redis_url: str) -> None:
    transport = Redis(url=redis_url, idle=0.3)
    await transport.provision(["crashed"], {"crashed": ["crashed"]})
    publisher = await transport.publisher()
    await publisher.publish([Outgoing("crashed", encode_binary(PLACED, REDIS))])
    crashed = await transport.receiver("crashed", ["crashed"])
    assert len(await crashed.receive(1, 5)) == 1
    other = await transport.receiver("crashed", ["crashed"])
    (found,) = await other.receive(1, 5)
    assert found.redelivered
    await other.acknowledge([found])
    for one in (publisher, crashed, other):
        await one.close()


async def test_a_server_that_does_not_answer_ends_the_publisher_in_time(redis_url: str) -> None:
    transport = Redis(redis_url, timeout=0.3)
    await transport.provision(["redis.silent"], {})
    publisher = await transport.publisher()
    message = encode_binary(PLACED, REDIS)
    (outcome,) = await publisher.publish([Outgoing("redis.silent", message)])
    assert outcome.kind == "confirmed"
    async with client.Redis.from_url(redis_url) as server:
        await server.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
        try:
            async with asyncio.timeout(5):
                outcomes = await publisher.publish([Outgoing("redis.silent", message)] * 2)
        finally:
            await server.execute_command("CLIENT", "UNPAUSE")
    assert [outcome.kind for outcome in outcomes] == ["unconfirmed", "unconfirmed"]
    await publisher.close()
