"""From a message to an event: pure, and without trust."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.consume.shop import shop
from tidings import Contract
from tidings.codecs.bindings import AMQP, KAFKA, NATS, REDIS, Binding
from tidings.codecs.cloudevents import Template
from tidings.codecs.message import Message
from tidings.codecs.wire import decode
from tidings.consume.opening import Opener
from tidings.consume.strangers import stored, stranger_parking, unpacked
from tidings.errors import Undecodable
from tidings.ids import event_key, uuid_event_key
from tidings.testing.memory import Memory
from tidings.transports.base import Incoming

ID = "01a1fdd5-3c23-733d-8027-1459f0e17dcd"
branded = Contract("branded", source="urn:example:shop", type_prefix="com.example.")


@branded.event("thing.made", version=2, key="thing")
@dataclass(frozen=True)
class ThingMade:
    thing: str


@branded.event("thing.lost", key="thing", topic="things")
@dataclass(frozen=True)
class ThingLost:
    thing: str


def opener(wire: Any = "cloudevents") -> Opener:
    return Opener(Memory(wire=wire), "billing", [*shop, *branded], None)


def incoming(body: bytes | None = b"{}", topic: str = "order.placed", fault: str = "", **attributes: Any) -> Incoming:
    given = {"specversion": "1.0", "id": ID, "source": "/shop", "type": "order.placed.v1", **attributes}
    headers = {f"ce_{name}": value for name, value in given.items() if value is not None}
    return Incoming(topic, Message(headers, body, "application/json"), f"{topic}/1", None, fault=fault)


def test_a_services_event_has_the_key_that_it_has_in_the_log() -> None:
    received = opener().open(incoming())
    assert (received.source, received.name, received.version, received.headers) == ("shop", "order.placed", 1, "{}")
    assert received.event_key == uuid_event_key("shop", ID)
    assert received.uuid == UUID(ID)


def test_a_contracts_source_has_the_key_of_this_services_log() -> None:
    received = opener().open(incoming(type="com.example.thing.made.v2", source="urn:example:shop"))
    assert (received.source, received.name, received.version) == ("urn:example:shop", "thing.made", 2)
    assert received.event_key == event_key("billing", ID)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("com.example.thing.made.v2", ("thing.made", 2)),
        ("com.example.thing.made.v9", ("thing.made", 9)),
        ("com.example.other.v1", ("com.example.other", 1)),
        ("order.placed", ("order.placed", None)),
        ("order.placed.v99999", ("order.placed.v99999", None)),
    ],
)
def test_types_are_words_to_look_up(kind: str, expected: tuple[str, int | None]) -> None:
    received = opener().open(incoming(type=kind))
    assert (received.name, received.version) == expected


def test_only_a_topic_of_one_event_has_strangers() -> None:
    reading = opener()
    assert reading.is_stranger(reading.open(incoming(type="what.ever")))
    assert not reading.is_stranger(reading.open(incoming(type="what.ever", topic="things")))
    assert not reading.is_stranger(reading.open(incoming(type="com.example.thing.lost.v1")))


def test_headers_are_as_in_the_log() -> None:
    message = incoming(sequence="17", correlationid="c", hops="2", partitionkey="k", subject="s", strange="x").message
    received = opener().open(Incoming("order.placed", Message({**message.headers, "own": "ü"}, b"{}", "application/json"), "x", None))
    assert (received.sequence, received.key) == (17, "k")
    assert received.extensions == {"own": "ü", "correlationid": "c", "hops": "2", "strange": "x", "subject": "s"}
    envelope = received.envelope(1, "charge")
    assert (envelope.correlation_id, envelope.hops, envelope.subject, dict(envelope.headers)) == ("c", 2, "s", {"own": "ü", "strange": "x"})


def test_an_id_that_is_no_uuid_gives_one_that_stays_the_same() -> None:
    first, second = (opener().open(incoming(id="8378589804052043001", source=source)) for source in ("/one", "/two"))
    assert first.envelope(1, "x").id == opener().open(incoming(id="8378589804052043001", source="/one")).envelope(2, "x").id
    assert first.envelope(1, "x").id != second.envelope(1, "x").id


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (incoming(fault="its headers cannot be read"), "its headers cannot be read"),
        (incoming(specversion=None), "nothing in its headers"),
        (incoming(b"[" * 5000), "nested deeper"),
        (
            Incoming(
                "t", Message({"ce_specversion": "1.0", "ce_id": "1", "ce_source": "s", "ce_type": "t"}, b"x", "text/plain"), "t/1", None
            ),
            "JSON",
        ),
    ],
)
def test_what_is_no_event_says_why(message: Incoming, says: str) -> None:
    with pytest.raises(Undecodable, match=says):
        opener().open(message)


def test_cap_says_its_topic_and_the_code_knows_the_rest() -> None:
    headers: dict[str, str | bytes | None] = {"cap-msg-id": "4711", "cap-msg-name": "order.placed", "cap-corr-seq": "0"}
    received = opener("cap").open(Incoming("order.placed", Message(headers, b"{}"), "order.placed/1", None))
    assert (received.name, received.version, received.source) == ("order.placed", 1, "/cap")
    assert received.extensions["cap-msg-id"] == "4711"


texts = st.text(max_size=20)
values = st.one_of(st.none(), texts, st.binary(max_size=20))


@given(
    st.dictionaries(st.one_of(texts, st.sampled_from(["ce_id", "ce_type", "ce_source", "ce_specversion", "ce_time"])), values), st.binary()
)
def test_nothing_but_undecodable_gets_out(headers: dict[str, str | bytes | None], body: bytes) -> None:
    message = Incoming("order.placed", Message(headers, body), "order.placed/1", None)
    try:
        opener("cap").open(message)
    except Undecodable as error:
        item = stranger_parking(message, Memory(), error, 1 << 20)
        assert item.data == body
        json.loads(item.headers)


@given(st.dictionaries(texts, values), st.one_of(st.none(), st.binary()), st.one_of(st.none(), texts))
def test_what_is_kept_of_a_message_is_the_message(headers: dict[str, str | bytes | None], body: bytes | None, key: str | None) -> None:
    message = Incoming("t", Message(headers, body, "x/y", key), "t/1", None)
    found = unpacked(*stored(message, 1 << 20))

    def as_text(value: str | bytes | None) -> str | bytes | None:
        try:
            return value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError:
            return value

    assert {name: as_text(value) for name, value in found.message.headers.items()} == {n: as_text(v) for n, v in headers.items()}
    assert (found.message.body, found.message.key, found.message.content_type, found.topic) == (body, key, "x/y", "t")


def test_what_is_too_large_is_cut_and_says_so() -> None:
    message = Incoming("t", Message({"a": "b" * 100_000, "c": "d"}, b"x" * 3000), "t/1", None)
    headers, body = stored(message, 1000)
    assert len(headers) < 70_000
    about = json.loads(headers)
    assert about["headers_left_out"] == 2
    assert about["cut"]["bytes"] == 3000
    assert body == b"x" * 3000
    with pytest.raises(Undecodable, match="too large to be kept whole: it had 3,000 bytes"):
        unpacked(headers, body)


ATTRIBUTES = ("specversion", "id", "source", "type", "time", "partitionkey", "sequence", "other")
#: Those of the binding's own prefix, and others.
NAMES = [f"{prefix}{name}" for prefix in ("", "CE_", "ce-", "x-") for name in ATTRIBUTES]
VALUES = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "1.0", ID, "/shop", "order.placed.v1", "2026-11-22T10:00:00Z", "17", "1763800000000", "100 %", '"quoted"', "%C3%A4", "a" * 300]
    ),
    st.text(max_size=8),
).flatmap(lambda text: st.sampled_from([text, text if text is None else text.encode("utf-8", "surrogatepass")]))
BODIES = st.one_of(st.none(), st.binary(max_size=40), st.sampled_from([b"{}", b"[" * 200, b'{"specversion":"1.0"}']))


@settings(max_examples=200)
@example(NATS, True, {"source": "/a%20b"}, b"{}", "application/json", None)
@example(NATS, True, {"partitionkey": '"quoted"'}, b"{}", "application/json", None)
@example(AMQP, True, {"time": "1763800000000"}, b"{}", "application/json", None)
@example(KAFKA, True, {"partitionkey": "a" * 70_000}, b"{}", "application/json", None)
@example(REDIS, True, {"ID": b"another"}, b"{}", "application/json", None)
@given(
    st.sampled_from([KAFKA, AMQP, NATS, REDIS]),
    st.booleans(),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5),
    BODIES,
    st.sampled_from(["application/json", "application/json; charset=utf-8", "application/cloudevents+json", None]),
    st.sampled_from([None, "key"]),
)
def test_usual_messages_are_read_as_all_others_are(
    binding: Binding, begin: bool, odd: dict[str, Any], body: bytes | None, content_type: str | None, key: str | None
) -> None:
    given = {"specversion": "1.0", "id": ID, "source": "/shop", "type": "order.placed.v1", "time": "2026-11-22T10:00:00Z", "sequence": "3"}
    headers = {binding.header(name): value for name, value in given.items()} if begin else {}
    own = {binding.header(name) if name in ATTRIBUTES else name: value for name, value in odd.items()}
    message = Message({**headers, **own}, body, content_type, key)
    transport = Memory()
    transport.binding = binding
    reader = Opener(transport, "billing", [*shop, *branded], None)
    try:
        usual = reader._usual(message)
    except Undecodable:
        with pytest.raises(Undecodable):
            decode(message, binding)
        return
    if usual is not None:
        assert usual == decode(message, binding)


def test_what_a_relay_sends_is_usual() -> None:
    for binding in (KAFKA, AMQP, NATS, REDIS):
        transport = Memory()
        transport.binding = binding
        template = Template(binding, "/shop", "order.placed.v1")
        message = template.message(ID, datetime(2026, 11, 22, tzinfo=UTC), "a key", 17, b"{}")
        usual = Opener(transport, "billing", [*shop], None)._usual(message)
        assert usual is not None or binding.percent, "a key with a space is percent-encoded"
        assert Opener(transport, "billing", [*shop], None)._usual(template.message(ID, None, "key", 17, b"{}")) is not None
