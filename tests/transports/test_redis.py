from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

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
from tidings.errors import TransportDown
from tidings.testing.conformance import TransportConformance
from tidings.testing.log_conformance import LogConformance, Remove
from tidings.transports.base import Incoming, Kept, Outgoing
from tidings.transports.redis import Redis
from tidings.transports.redis.log import Reader


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


class TestReadingAtTheEnd:
    """A reader that waits for what comes, as it does nearly always."""

    @pytest.fixture
    async def server(self, redis_url: str) -> AsyncIterator[client.Redis]:
        async with client.Redis.from_url(redis_url) as server:
            yield server

    @pytest.fixture
    async def topic(self, redis_url: str) -> str:
        topic = f"end.{uuid4().hex}"
        await Redis(url=redis_url).provision([topic], {})
        return topic

    @pytest.fixture
    async def reader(self, redis_url: str, topic: str, server: client.Redis) -> AsyncIterator[Reader]:
        """A reader that has read the numbers 0 and 1."""
        reader = await Redis(url=redis_url).reader({topic: ""})
        await _add(server, topic, 0, 1)
        assert [_number(one) for one in await reader.receive(10, 5)] == [0, 1]
        yield reader
        await reader.close()

    async def test_an_entry_costs_one_round_trip(self, reader: Reader, topic: str, server: client.Redis) -> None:
        before = await server.info("commandstats")
        for number in range(2, 12):
            await _add(server, topic, number)
            assert [_number(one) for one in await reader.receive(10, 5)] == [number]
        after = await server.info("commandstats")
        calls = {name: found["calls"] - before.get(name, {"calls": 0})["calls"] for name, found in after.items()}
        assert calls["cmdstat_xread"] == 10
        assert sum(count for name, count in calls.items() if name.startswith("cmdstat_xinfo")) == 10
        assert calls["cmdstat_multi"] == 10, "those of the test itself"

    async def test_entries_that_were_removed_before_they_were_read_are_missed_with_a_reason(
        self, reader: Reader, topic: str, server: client.Redis
    ) -> None:
        receiving = asyncio.ensure_future(reader.receive(10, 5))
        await _until_blocked(server)
        await _add(server, topic, 2, 3, 4, keep=1)
        (found,) = await receiving
        assert _number(found) == 4
        assert "2 entries" in found.gap
        await _add(server, topic, 5)
        (following,) = await reader.receive(10, 5)
        assert (_number(following), following.gap) == (5, "")

    async def test_entries_that_were_removed_after_they_were_read_are_no_gap(
        self, reader: Reader, topic: str, server: client.Redis
    ) -> None:
        receiving = asyncio.ensure_future(reader.receive(10, 5))
        await _until_blocked(server)
        await _add(server, topic, 2, keep=1)
        (found,) = await receiving
        assert (_number(found), found.gap) == (2, "")

    async def test_entries_that_were_removed_while_nothing_else_came_are_told_with_the_next(
        self, reader: Reader, topic: str, server: client.Redis
    ) -> None:
        await _add(server, topic, 2, 3, keep=0)
        assert await reader.receive(10, 0.05) == []
        await _add(server, topic, 4)
        (found,) = await reader.receive(10, 5)
        assert _number(found) == 4
        assert "2 entries" in found.gap

    async def test_a_reader_whose_receiving_was_interrupted_is_over(self, reader: Reader, topic: str, server: client.Redis) -> None:
        receiving = asyncio.ensure_future(reader.receive(10, 5))
        await _until_blocked(server)
        receiving.cancel()
        await asyncio.wait([receiving])
        await _add(server, topic, 2)
        with pytest.raises(TransportDown):
            await reader.receive(10, 5)


async def _add(server: client.Redis, topic: str, *numbers: int, keep: int | None = None) -> None:
    """Add entries, and remove all but the last so many of the stream, before anybody can read them."""
    async with server.pipeline(transaction=True) as pipeline:
        for number in numbers:
            pipeline.xadd(topic, {"number": str(number), "data": "{}"})
        if keep is not None:
            pipeline.xtrim(topic, maxlen=keep, approximate=False)
        await pipeline.execute()


def _number(incoming: Incoming) -> int:
    return int(incoming.message.headers["number"] or -1)


async def _until_blocked(server: client.Redis) -> None:
    async with asyncio.timeout(5):
        while (await server.info("clients"))["blocked_clients"] == 0:
            await asyncio.sleep(0.005)


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


async def test_a_stream_that_nothing_comes_through_is_no_server_that_is_gone(redis_url: str) -> None:
    transport = Redis(redis_url, timeout=0.6)
    topic = f"idle.{uuid4().hex}"
    await transport.provision([topic], {"quiet": [topic]})
    for receiver in (await transport.reader({topic: ""}), await transport.receiver("quiet", [topic])):
        assert await receiver.receive(1, 1.0) == []
        await receiver.close()


async def test_the_server_says_how_far_back_streams_go(redis_url: str) -> None:
    whole, trimmed, missing = (f"kept-{uuid4().hex}" for _ in range(3))
    transport = Redis(redis_url, retain=2)
    await transport.provision([whole, trimmed], {})
    connection = client.Redis.from_url(redis_url)
    seconds, _ = await connection.time()
    for ago in (900, 600, 300):
        await connection.xadd(trimmed, {"data": "{}"}, id=f"{(seconds - ago) * 1000}-0", maxlen=2, approximate=False)
    await connection.aclose()
    found = await transport.kept([whole, trimmed, missing])
    assert found[whole] == Kept(None, "retain", "retain=2")
    assert missing not in found
    back = found[trimmed].seconds
    assert back is not None
    assert 600 <= back < 660
    assert found[trimmed].setting == "retain=2"
    assert (await Redis(redis_url).kept([whole]))[whole] == Kept(None, "retain")
