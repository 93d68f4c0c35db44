from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import nats
import pytest
from private_services.control import Control

from tests.transports.conftest import private
from tests.transports.failing import Crash, Proxy
from tests.wire.events import PLACED
from tidings.codecs.bindings import NATS as BINDING
from tidings.codecs.cloudevents import encode_binary
from tidings.codecs.message import Message
from tidings.codecs.wire import decode
from tidings.errors import ProvisionError, TransportDown
from tidings.testing.conformance import TransportConformance
from tidings.testing.log_conformance import LogConformance, Remove
from tidings.transports.base import Outgoing
from tidings.transports.nats import NATS, stream_of


@pytest.fixture
async def proxy(nats_url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(nats_url)
    await proxy.start()
    yield proxy
    await proxy.stop()


class TestConformance(TransportConformance):
    too_large = (1 << 20) + 1
    returned = 2.0
    any_header = False

    @pytest.fixture
    def transport(self, proxy: Proxy) -> NATS:
        return NATS(url=proxy.url, idle=2.0, prefetch=2000, timeout=10)

    @pytest.fixture
    def outage(self, proxy: Proxy) -> Proxy:
        return proxy


class TestLog(LogConformance):
    @pytest.fixture
    def transport(self, proxy: Proxy) -> NATS:
        return NATS(url=proxy.url, timeout=10)

    @pytest.fixture
    def outage(self, proxy: Proxy) -> Proxy:
        return proxy

    @pytest.fixture
    def remove(self, nats_url: str) -> Remove:
        async def remove(topic: str, count: int | None) -> None:
            client = await nats.connect(nats_url)
            context = client.jetstream()
            if count is None:
                await context.delete_stream(stream_of(topic))
                await NATS(url=nats_url).provision([topic], {})
            else:
                first = (await context.stream_info(stream_of(topic))).state.first_seq
                await context.purge_stream(stream_of(topic), seq=first + count)
            await client.close()

        return remove


async def test_a_killed_broker_has_lost_nothing_that_it_had_confirmed(tmp_path: Path) -> None:
    with private("nats", Control(tmp_path, say=lambda _sentence: None)) as (control, url):
        transport = NATS(url=url, idle=2.0, timeout=5)
        await transport.provision(["killed"], {"killed": ["killed"]})
        suite = TransportConformance()
        suite.returned = 2.0
        await suite.test_an_outage_is_seen_and_nothing_that_was_confirmed_is_lost(transport, "killed", Crash(control, "nats"))


async def test_the_codec_brings_any_text_through_its_headers_and_copies_are_dropped(nats_url: str) -> None:
    transport = NATS(url=nats_url)
    topic = f"nats.headers.{uuid4().hex}"
    await transport.provision([topic], {"headers": [topic]})
    publisher, receiver = await transport.publisher(), await transport.receiver("headers", [topic])
    for _ in range(2):
        (outcome,) = await publisher.publish([Outgoing(topic, encode_binary(PLACED, BINDING))])
        assert outcome.kind == "confirmed"
    (found,) = await receiver.receive(2, 5)
    assert decode(found.message, BINDING) == PLACED
    assert list(await receiver.receive(1, 0.2)) == []
    await publisher.close()
    await receiver.close()


async def test_headers_count_towards_the_size_of_a_message(nats_url: str) -> None:
    transport = NATS(url=nats_url)
    await transport.provision(["nats.size"], {})
    publisher = await transport.publisher()
    large = Message({"h": "x" * 1000}, b"x" * ((1 << 20) - 100))
    outcomes = await publisher.publish([Outgoing("nats.size", large), Outgoing("nats.size", Message({}, b"small"))])
    assert [outcome.kind for outcome in outcomes] == ["refused", "confirmed"]
    await publisher.close()


async def test_a_subject_that_another_stream_has_is_said(nats_url: str) -> None:
    topic = f"taken{uuid4().hex[:8]}.placed"
    await NATS(nats_url).provision([topic], {})
    with pytest.raises(ProvisionError, match="overlap"):
        await NATS(nats_url, wire="cap").provision([topic], {})


@pytest.mark.parametrize("servers", ["nats://127.0.0.1:1", "nats://127.0.0.1:1,nats://localhost:1"])
async def test_a_server_that_is_down_is_told_at_once_with_the_reason(servers: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(TransportDown, match="127.0.0.1:1.*Connect call failed"):
            await NATS(servers, timeout=60).publisher()


async def test_a_server_that_does_not_answer_is_told_as_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TransportDown, match="no answer"):
        await NATS(f"nats://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3).publisher()


async def test_a_server_that_is_down_does_not_keep_from_another(nats_url: str) -> None:
    for _ in range(4):
        # They are tried in any order.
        publisher = await NATS(f"nats://127.0.0.1:1,{nats_url}", timeout=10).publisher()
        await publisher.close()
