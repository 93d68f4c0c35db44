from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from private_services.control import Control

from tests.consume.waiting import until_equal
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
from tidings.transports.base import Kept, Outgoing
from tidings.transports.nats import NATS, stream_of
from tidings.transports.nats.messages import head_of
from tidings.transports.nats.publisher import Publisher
from tidings.transports.nats.sturdy import Sending, Sturdy


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


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [b"ce-id: 1", b"ce-id:2", b" ce-id :\t3 ", b"no colon", b"", b"two words: x", b": empty", b"a:b:c", b"\x1fa: \x1f"]
            ),
            st.binary(max_size=12),
        )
    )
)
def test_headers_are_read_as_the_client_reads_them(lines: list[bytes]) -> None:
    raw = b"\r\n".join(lines)
    assert Sturdy._parse_header_lines(raw) == Client._parse_header_lines(raw)


async def test_messages_are_taken_as_they_are_read(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by way of the client's queue and its task, which costs as much as reading them."""
    queued: list[bytes] = []
    process = Client._process_msg

    async def watched(self: Client, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if reply.startswith(b"$JS.ACK"):
            queued.append(subject)
        await process(self, sid, subject, reply, data, headers)

    monkeypatch.setattr(Client, "_process_msg", watched)
    transport = NATS(url=nats_url)
    topic = f"nats.taken.{uuid4().hex}"
    await transport.provision([topic], {topic: [topic]})
    publisher = await transport.publisher()
    await publisher.publish([Outgoing(topic, encode_binary(PLACED, BINDING))])
    for receiver in (await transport.receiver(topic, [topic]), await transport.reader({topic: ""})):
        (found,) = await receiver.receive(1, 5)
        assert decode(found.message, BINDING) == PLACED
        await receiver.close()
    assert queued == []
    await publisher.close()


class Writing(Client):
    """A client that keeps what it would write."""

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        self.written = cmd


@given(
    st.dictionaries(st.sampled_from(["h", "ce-source", "X-Some_thing.else"]), st.text(st.characters(codec="utf-8"))),
    st.text(st.characters(codec="utf-8")),
)
async def test_headers_are_written_as_the_client_writes_them(headers: dict[str, str], message_id: str) -> None:
    writing = Writing()
    await writing._send_publish("s", "", b"body", 4, {**headers, "content-type": "application/json", "Nats-Msg-Id": message_id})
    head = head_of(Message(headers, b"body", "application/json", None, message_id))
    assert writing.written.partition(b"\r\n")[2] == head + b"body\r\n"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä"])
async def test_a_header_that_cannot_have_its_name_is_refused_alone(nats_url: str, name: str) -> None:
    transport = NATS(nats_url)
    await transport.provision(["nats.names"], {})
    publisher = await transport.publisher()
    messages = [Message({name: "x"}, b"1"), Message({"good": "x"}, b"2"), Message({"good": "\udc80"}, b"3"), Message({}, b"4")]
    outcomes = await publisher.publish([Outgoing("nats.names", message) for message in messages])
    assert [outcome.kind for outcome in outcomes] == ["refused", "confirmed", "refused", "confirmed"]
    await publisher.close()


async def test_values_with_line_breaks_add_no_headers_and_messages_larger_than_a_piece_arrive(nats_url: str) -> None:
    transport = NATS(nats_url)
    topic = f"nats.written.{uuid4().hex}"
    await transport.provision([topic], {"written": [topic]})
    publisher, receiver = await transport.publisher(), await transport.receiver("written", [topic])
    bodies = [b"%d\r\n" % number * (1 << 16) for number in range(4)]
    messages = [Message({"note": " one\r\nforged: yes\n ", "none": None, "bytes": b"x"}, body) for body in bodies]
    outcomes = await publisher.publish([Outgoing(topic, message) for message in messages])
    assert {outcome.kind for outcome in outcomes} == {"confirmed"}
    found = []
    while len(found) < len(messages):
        found += await receiver.receive(10, 5)
    assert [incoming.message.body for incoming in found] == bodies
    assert {tuple(incoming.message.headers.items()) for incoming in found} == {(("note", "one  forged: yes"), ("none", ""), ("bytes", "x"))}
    await publisher.close()
    await receiver.close()


async def test_confirmations_do_not_go_through_the_client_s_queue(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[object] = []

    async def answered(self: Publisher, answer: object) -> None:
        queued.append(answer)

    monkeypatch.setattr(Publisher, "_answered", answered)
    transport = NATS(nats_url)
    await transport.provision(["nats.direct"], {})
    publisher = await transport.publisher()
    outcomes = await publisher.publish([Outgoing("nats.direct", Message({}, b"x"))] * 10)
    assert {outcome.kind for outcome in outcomes} == {"confirmed"}
    assert queued == []
    await publisher.close()


async def test_what_taking_a_message_raises_does_not_end_the_reading(nats_url: str) -> None:
    client = Sturdy()
    told: list[Exception] = []
    taken: list[bytes] = []

    async def tell(error: Exception) -> None:
        told.append(error)

    async def take(message: Any) -> None:
        if message.data == b"1":
            raise ValueError(message.data)
        taken.append(message.data)

    await client.connect(nats_url, error_cb=tell)
    try:
        subject = f"taken.{uuid4().hex}"
        client.deliver(await client.subscribe(subject, cb=take), take)
        for number in (b"1", b"2"):
            await client.publish(subject, number)
        await client.flush()
        # The server may answer the flush before it delivers.
        await until_equal(lambda: ([str(error) for error in told], taken), (["b'1'"], [b"2"]))
    finally:
        await client.close()


async def test_confirmations_that_come_the_client_s_way_count_too(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sending, "take", lambda *_: None)
    transport = NATS(nats_url)
    await transport.provision(["nats.queued"], {})
    publisher = await transport.publisher()
    outcomes = await publisher.publish([Outgoing("nats.queued", Message({}, b"x"))] * 10)
    assert {outcome.kind for outcome in outcomes} == {"confirmed"}
    await publisher.close()


async def test_the_server_says_how_long_it_keeps_messages(nats_url: str) -> None:
    ours, forever, shared, missing = (f"kept-{uuid4().hex}" for _ in range(4))
    await NATS(nats_url, max_age=3600.0).provision([ours], {})
    transport = NATS(nats_url)
    await transport.provision([forever], {})
    client = await nats.connect(nats_url)
    await client.jetstream().add_stream(name=stream_of(shared), subjects=[shared], retention="workqueue")
    await client.jetstream().update_stream(name=stream_of(ours), subjects=[ours], max_age=7200, max_msgs=1_000)
    await client.close()
    # What is there counts, not what this one would make; what is gone when it was acknowledged cannot come again.
    assert await transport.kept([ours, forever, shared, missing]) == {
        ours: Kept(7200.0, "max_age", "max_msgs=1,000"),
        forever: Kept(None, "max_age"),
    }
