"""Whatever comes from outside is an event or `Undecodable`, and takes a time that grows with its length only."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.wire.events import PLACED, texts
from tidings.codecs import cap, servicebus, wire
from tidings.codecs.bindings import AMQP, HTTP, KAFKA, NATS, REDIS, SNS, Binding
from tidings.codecs.cloudevents import BATCH, STRUCTURED, decode_batch, encode_structured
from tidings.codecs.message import Message, check_json
from tidings.errors import Undecodable

REASONS = {"unknown format", "attributes", "headers", "data", "too deep", "too large"}

bindings = st.sampled_from([HTTP, KAFKA, AMQP, NATS, REDIS, SNS])
attributes = ["specversion", "id", "source", "type", "time", "subject", "partitionkey", "dataschema", "hops", "data"]
names = (
    st.builds(
        lambda prefix, name: prefix + name, st.sampled_from(["ce-", "CE_", "cloudEvents:", "cloudEvents_"]), st.sampled_from(attributes)
    )
    | st.sampled_from(
        ["cap-msg-id", "cap-msg-name", "cap-corr-seq", "cap-senttime", "Cap-Msg-Id", "aggregate", "type", "source", "sequence"]
    )
    | texts
)
values = (
    st.none()
    | texts
    | st.binary(max_size=20)
    | st.sampled_from(
        ["1.0", "2026-07-01T17:44:38Z", "07/01/2026 19:44:38", "9" * 30, "%", "%ff", '"', '"\\"', "-1", "9999-99-99T99:99:99Z"]
    )
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just("1.0"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*attributes, "data_base64", "datacontenttype"]) | texts, inner)
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
bodies = st.none() | st.binary(max_size=60) | json_like
content_types = st.none() | st.sampled_from([STRUCTURED, BATCH, "application/json", "text/plain", "application/cloudevents"]) | texts


@settings(max_examples=500)
@given(
    binding=bindings, headers=st.dictionaries(names, values, max_size=12), body=bodies, content_type=content_types, key=st.none() | texts
)
def test_garbage_is_an_event_or_undecodable(
    binding: Binding, headers: dict[str, str | bytes | None], body: bytes | None, content_type: str | None, key: str | None
) -> None:
    message = Message(headers, body, content_type, key)
    for read in (
        lambda: wire.decode(message, binding, ("cloudevents", "cap")),
        lambda: servicebus.decode(message, "/", "1"),
        lambda: decode_batch(body or b""),
        lambda: cap.decode_sns(body or b""),
        lambda: cap.from_redis({"headers": body or b"", "body": body or b""}),
    ):
        refused: Undecodable | None = None
        try:
            read()
        except Undecodable as error:
            refused = error
        assert refused is None or (refused.reason in REASONS and len(str(refused)) < 1000)


@settings(max_examples=500)
@given(
    written=st.sampled_from([encode_structured(PLACED, KAFKA), encode_structured(replace(PLACED, content_type="text/plain"), KAFKA)]),
    changes=st.lists(
        st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=2) | st.sampled_from([b'"', b"\\", b"{", b"\xff"])), max_size=3
    ),
)
def test_a_damaged_message_is_an_event_or_undecodable(written: Message, changes: list[tuple[float, bytes]]) -> None:
    body = bytearray(written.body or b"")
    for place, change in changes:
        at = int(place * len(body))
        body[at : at + len(change)] = change
    for read in (lambda: wire.decode(Message({}, bytes(body), STRUCTURED), KAFKA), lambda: decode_batch(b"[" + bytes(body) + b"]")):
        with suppress(Undecodable):
            read()


def test_a_message_in_no_known_format_says_so() -> None:
    with pytest.raises(Undecodable, match="cap or cloudevents") as caught:
        wire.decode(Message({}, b"hello"), KAFKA, ("cloudevents", "cap"))
    assert caught.value.reason == "unknown format"
    with pytest.raises(Undecodable):
        wire.decode(Message({"cap-msg-id": "1", "cap-msg-name": "t"}, b"1"), KAFKA)


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize(
    ("opening", "closing", "levels"), [("[", "]", 1), ('{"a":', "}", 1), ('[{"]":', "}]", 2), ('{"\\"{[":[1,"\\\\",', "]}", 2)]
)
def test_depth_is_counted_whatever_is_nested(opening: str, closing: str, levels: int) -> None:
    json.loads(nested(50, opening, closing))
    check_json(nested(100 // levels, opening, closing), 100)
    with pytest.raises(Undecodable, match="deeper than 100"):
        check_json(nested(100 // levels + 1, opening, closing), 100)


def test_brackets_in_texts_and_beside_one_another_are_not_depth() -> None:
    check_json(json.dumps({"a": "[" * 5000, "b": '\\"[{' * 500}).encode(), 100)
    check_json(json.dumps([[{}]] * 50_000).encode(), 100)


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MEGABYTE,
        b"[]" * (MEGABYTE // 2),
        b"[[]" * (MEGABYTE // 3),
        (b"[" * 90 + b"]" * 90) * (MEGABYTE // 180),
        b'{"a":' * (MEGABYTE // 5),
        b"[" * 200 + b'"' + b'\\"' * (MEGABYTE // 2 - 200) + b"\\",
        b"[" * 200 + b'"' * (MEGABYTE - 200),
        b"{[" * (MEGABYTE // 2),
        b"[" * 200 + b"\\" * (MEGABYTE - 200),
    ],
    ids=["open", "pairs", "half closed", "waves", "objects", "escapes", "quotes", "mixed", "backslashes"],
)
def test_a_hostile_megabyte_takes_less_than_a_second(body: bytes) -> None:
    began = time.process_time()
    for content_type, headers in (
        (STRUCTURED, {}),
        ("application/json", {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/", "ce_type": "t"}),
    ):
        with suppress(Undecodable):
            wire.decode(Message(headers, body, content_type), KAFKA)
    assert time.process_time() - began < 1
