from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.bindings import amqp as sdk_amqp
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from cloudevents.core.bindings import rabbitmq as sdk_rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SDKEvent
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.wire.events import PLACED, events
from tidings.codecs.bindings import AMQP, HTTP, KAFKA, NATS, REDIS, SNS, Binding
from tidings.codecs.cloudevents import (
    BATCH,
    STRUCTURED,
    decode,
    decode_batch,
    encode_batch,
    encode_binary,
    encode_structured,
    name_and_version,
    type_of,
)
from tidings.codecs.message import CloudEvent, Message, written_time
from tidings.errors import Undecodable, Unsendable

FORMAT = JSONFormat()

ALL = pytest.mark.parametrize("binding", [HTTP, KAFKA, AMQP, NATS, REDIS], ids=lambda binding: binding.name)


def plain(event: CloudEvent) -> CloudEvent:
    return replace(event, headers={})


def kept(event: CloudEvent, binding: Binding) -> CloudEvent:
    """What a receiver can know: on HTTP other headers are anybody's."""
    return event if binding.foreign else plain(event)


# Written out, so that a mistake shared by both directions is seen.


def test_binary_mode_on_kafka_letter_for_letter() -> None:
    message = encode_binary(PLACED, KAFKA)
    assert message.headers == {
        "ce_specversion": "1.0",
        "ce_id": "0197c1b2-7c00-7abc-8def-0123456789ab",
        "ce_source": "/shop",
        "ce_type": "com.example.order.placed.v2",
        "ce_time": "2026-07-01T17:44:38.123456Z",
        "ce_subject": "42",
        "ce_dataschema": "https://example.com/schemas/order.placed.v2.json",
        "ce_partitionkey": "42",
        "ce_correlationid": "flow-1",
        "ce_sequence": "17",
        "ce_tenantid": "Zürich 100%",
        "x-colour": "dark blue",
        "x-empty": "",
    }
    assert (message.content_type, message.key, message.id, message.body) == ("application/json", "42", PLACED.id, PLACED.data)


def test_binary_mode_on_http_and_nats_percent_encodes_what_a_header_cannot_carry() -> None:
    for binding in (HTTP, NATS):
        headers = encode_binary(PLACED, binding).headers
        assert headers["ce-tenantid"] == "Z%C3%BCrich%20100%25"
        assert headers["ce-type"] == "com.example.order.placed.v2"
        assert headers["x-colour"] == "dark%20blue"
    # The specification's own example, https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#3132
    assert HTTP.encoded("Euro € 😀") == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert HTTP.decoded("Euro%20%E2%82%AC%20%F0%9F%98%80", "") == "Euro € 😀"
    assert HTTP.decoded('"a \\"quoted\\" text"', "") == 'a "quoted" text'


def test_binary_mode_on_amqp_writes_underscores_and_reads_colons_too() -> None:
    message = encode_binary(PLACED, AMQP)
    assert message.headers["cloudEvents_type"] == "com.example.order.placed.v2"
    assert message.type == "com.example.order.placed.v2"
    with_colons = Message(
        {name.replace("cloudEvents_", "cloudEvents:"): value for name, value in message.headers.items()}, message.body, message.content_type
    )
    assert decode(with_colons, AMQP) == PLACED


def test_structured_mode_letter_for_letter() -> None:
    message = encode_structured(PLACED, KAFKA)
    assert (
        message.body
        == (
            '{"specversion":"1.0","id":"0197c1b2-7c00-7abc-8def-0123456789ab","source":"/shop","type":"com.example.order.placed.v2",'
            '"time":"2026-07-01T17:44:38.123456Z","subject":"42","dataschema":"https://example.com/schemas/order.placed.v2.json",'
            '"partitionkey":"42","correlationid":"flow-1","sequence":"17","tenantid":"Zürich 100%","datacontenttype":"application/json",'
            '"data":{"order_id":42,"note":"grüße"}}'
        ).encode()
    )
    assert message.content_type == STRUCTURED
    assert message.headers == {"x-colour": "dark blue", "x-empty": ""}


def test_structured_mode_says_in_a_header_what_rabbitmq_routes_by() -> None:
    """Queues by key are chosen by it; what is in the body counts."""
    message = encode_structured(PLACED, AMQP)
    assert message.headers == {"cloudEvents_partitionkey": "42", "x-colour": "dark blue", "x-empty": ""}
    assert encode_structured(replace(PLACED, key=None), AMQP).headers == {"x-colour": "dark blue", "x-empty": ""}
    assert decode(replace(message, headers={"cloudEvents_partitionkey": "another"}), AMQP) == plain(PLACED)


def test_a_message_of_nats_without_headers_may_be_an_event() -> None:
    """Version 1.0.2 of the binding for NATS has structured mode only, and no headers; others say half of the media type."""
    body = encode_structured(PLACED, NATS).body
    assert decode(Message({}, body), NATS) == plain(PLACED)
    assert decode(Message({"X-Trace": "1"}, body), NATS) == replace(PLACED, headers={"X-Trace": "1"})
    assert decode(Message({}, body, "application/cloudevents"), NATS) == plain(PLACED)
    assert decode(Message({}, body), KAFKA) is None
    assert decode(Message({"cap-msg-id": "1", "cap-msg-name": "t"}, body), NATS) is None
    assert decode(Message({}, b'{"a":1}'), NATS) is None
    with pytest.raises(Undecodable, match="id and type must be there"):
        decode(Message({}, b'{"specversion":"1.0","source":"/"}'), NATS)


@ALL
@given(event=events)
def test_what_is_written_in_binary_mode_is_read_back(binding: Binding, event: CloudEvent) -> None:
    assert decode(encode_binary(event, binding), binding) == kept(event, binding)


@ALL
@given(event=events)
def test_what_is_written_in_structured_mode_is_read_back(binding: Binding, event: CloudEvent) -> None:
    assert decode(encode_structured(event, binding), binding) == kept(event, binding)


@given(event=events)
def test_header_values_are_printable_where_they_must_be(event: CloudEvent) -> None:
    for value in encode_binary(event, NATS).headers.values():
        assert isinstance(value, str)
        assert value.isascii()
        assert value == "" or value.isprintable()
        assert value == value.strip()


def test_a_list_is_read_back() -> None:
    message = encode_batch([PLACED, replace(PLACED, id="2", data=None)])
    assert message.content_type == BATCH
    assert message.body is not None
    assert decode_batch(message.body) == [plain(PLACED), plain(replace(PLACED, id="2", data=None))]


def test_header_values_may_be_bytes_as_kafka_has_them() -> None:
    message = encode_binary(PLACED, KAFKA)
    as_bytes = {name: value.encode() for name, value in message.headers.items() if isinstance(value, str)}
    assert decode(Message(as_bytes, message.body, message.content_type), KAFKA) == PLACED


def test_data_that_is_not_json_survives() -> None:
    for data in (b"\x00\xff plain", b"text", b""):
        event = plain(replace(PLACED, data=data, content_type="application/octet-stream"))
        assert decode(encode_structured(event, KAFKA), KAFKA) == event
        assert decode(encode_binary(event, KAFKA), KAFKA) == event
    text = b'{"specversion":"1.0","id":"1","source":"/","type":"t","datacontenttype":"text/plain","data":"hello"}'
    found = decode(Message({}, text, STRUCTURED), KAFKA)
    assert found is not None
    assert found.data == b"hello"


def test_an_event_without_data_stays_without() -> None:
    event = replace(PLACED, data=None, content_type=None)
    assert decode(encode_binary(event, KAFKA), KAFKA) == event
    assert decode(encode_structured(event, KAFKA), KAFKA) == event


def test_large_numbers_in_the_data_are_handed_on_as_they_were_written() -> None:
    data = b'{"total":12345678901234567890123456789012345678901234567890.10}'
    event = decode(encode_structured(replace(PLACED, data=data), KAFKA), KAFKA)
    assert event is not None
    assert event.data == data


def test_numbers_and_truth_values_of_structured_mode_become_text() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/","type":"t","sequence":17,"urgent":true,"subject":null}'
    event = decode(Message({}, body, "application/cloudevents+json; charset=utf-8"), HTTP)
    assert event is not None
    assert event.extensions == {"sequence": "17", "urgent": "true"}
    assert event.subject is None


def test_the_record_key_is_the_key_when_no_attribute_says_otherwise() -> None:
    message = encode_binary(replace(PLACED, key=None), KAFKA)
    assert message.key is None
    found = decode(Message(message.headers, message.body, message.content_type, key="from the record"), KAFKA)
    assert found is not None
    assert found.key == "from the record"


def test_a_message_that_says_nothing_of_cloudevents_is_none() -> None:
    assert decode(Message({"cap-msg-id": "1", "cap-msg-name": "order.created"}, b"{}"), KAFKA) is None


def test_a_publishers_header_cannot_pass_for_an_attribute() -> None:
    for binding, name in (
        (KAFKA, "ce_id"),
        (NATS, "CE-Id"),
        (AMQP, "cloudEvents:id"),
        (NATS, "Nats-Msg-Id"),
        (REDIS, "data"),
        (HTTP, "a b"),
    ):
        with pytest.raises(Unsendable, match="choose another name"):
            encode_binary(replace(PLACED, headers={name: "x"}), binding)
    foreign = decode(Message({**encode_binary(plain(PLACED), KAFKA).headers, "tenantid": "somebody else's"}, b"{}"), KAFKA)
    assert foreign is not None
    assert foreign.headers == {}
    assert foreign.extensions["tenantid"] == "Zürich 100%"


def test_more_attributes_than_fit_are_refused() -> None:
    with pytest.raises(Unsendable, match="use structured mode"):
        encode_binary(PLACED, SNS)
    assert decode(encode_structured(PLACED, SNS), SNS) == PLACED


@pytest.mark.parametrize(
    ("name", "version", "prefix", "written"),
    [
        ("order.placed", 2, None, "order.placed.v2"),
        ("order.placed", None, None, "order.placed"),
        ("order.placed", 1, "com.example.", "com.example.order.placed.v1"),
        ("v1", 7, "", "v1.v7"),
    ],
)
def test_the_type_names_the_version(name: str, version: int | None, prefix: str | None, written: str) -> None:
    assert type_of(name, version, prefix) == written
    assert name_and_version(written, prefix) == (name, version)


@pytest.mark.parametrize("text", ["order.v0", "order.v02", "order.v99999", ".v1", "order.v\uff11"])
def test_what_is_no_version_belongs_to_the_name(text: str) -> None:
    assert name_and_version(text) == (text, None)


# Against the official SDK, in both directions.

SDK_PLACED = {
    "specversion": "1.0",
    "id": PLACED.id,
    "source": "/shop",
    "type": PLACED.type,
    "time": PLACED.time,
    "subject": "42",
    "datacontenttype": "application/json",
    "dataschema": PLACED.dataschema,
    "partitionkey": "42",
    "correlationid": "flow-1",
    "sequence": "17",
    "tenantid": "Zürich 100%",
}
DATA = {"order_id": 42, "note": "grüße"}


def sdk_event() -> Any:
    return SDKEvent(dict(SDK_PLACED), DATA)


def with_bytes(message: Message) -> dict[str, bytes]:
    headers = {name: value.encode() for name, value in message.headers.items() if isinstance(value, str)}
    return {**headers, "content-type": (message.content_type or "").encode()}


def with_text(message: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in with_bytes(message).items()}


def same_as_ours(event: Any) -> None:
    assert event.get_attributes() == SDK_PLACED
    data = event.get_data()
    assert (json.loads(data) if isinstance(data, (bytes, str)) else data) == DATA


@pytest.mark.parametrize("encode", [encode_binary, encode_structured])
def test_the_official_sdk_reads_what_is_written(encode: Any) -> None:
    event = plain(PLACED)
    kafka = encode(event, KAFKA)
    same_as_ours(sdk_kafka.from_kafka(sdk_kafka.KafkaMessage(with_bytes(kafka), kafka.key, kafka.body), FORMAT))
    http = encode(event, HTTP)
    same_as_ours(sdk_http.from_http(sdk_http.HTTPMessage(with_text(http), http.body), FORMAT))
    amqp = encode(event, AMQP)
    same_as_ours(sdk_amqp.from_amqp(sdk_amqp.AMQPMessage({"content-type": amqp.content_type}, dict(amqp.headers), amqp.body), FORMAT))


def test_structured_mode_is_the_official_sdks_byte_for_byte() -> None:
    """The specification leaves the order of the members and the white space open: they are made alike, and nothing else is."""
    event = plain(PLACED)
    theirs = sdk_kafka.to_structured(sdk_event(), FORMAT)
    ours = encode_structured(event, KAFKA)
    assert ours.body is not None
    assert _canonical(ours.body) == _canonical(theirs.value)
    assert (
        ours.content_type
        == dict(theirs.headers)["content-type"].decode()
        == sdk_http.to_structured(sdk_event(), FORMAT).headers["content-type"]
    )
    # Read and written again by them, ours stays what it was.
    again = FORMAT.write(FORMAT.read(None, ours.body))
    assert _canonical(again) == _canonical(ours.body)
    found = decode(Message({}, again, STRUCTURED), KAFKA)
    assert found is not None
    back = encode_structured(found, KAFKA).body
    assert back is not None
    assert _canonical(back) == _canonical(ours.body)


def _canonical(body: bytes) -> bytes:
    return json.dumps(json.loads(body), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_what_the_official_sdk_writes_is_read(mode: str) -> None:
    kafka = getattr(sdk_kafka, f"to_{mode}")(sdk_event(), FORMAT)
    headers = dict(kafka.headers)
    content_type = headers.pop("content-type").decode()
    assert _decoded(Message(headers, kafka.value, content_type, key=kafka.key), KAFKA) == PLACED_BY_SDK
    http = getattr(sdk_http, f"to_{mode}")(sdk_event(), FORMAT)
    headers = dict(http.headers)
    assert _decoded(Message(headers, http.body, headers.pop("content-type")), HTTP) == PLACED_BY_SDK
    assert _decoded(Message(headers, http.body, http.headers["content-type"]), NATS) == PLACED_BY_SDK
    amqp = getattr(sdk_amqp, f"to_{mode}")(sdk_event(), FORMAT)
    properties = {name: str(value) for name, value in amqp.application_properties.items()}
    found = _decoded(Message(properties, amqp.application_data, amqp.properties["content-type"]), AMQP)
    # It writes a time as AMQP's own, in milliseconds.
    assert found in (PLACED_BY_SDK, replace(PLACED_BY_SDK, time=datetime(2026, 7, 1, 17, 44, 38, 123000, tzinfo=UTC)))
    rabbitmq = getattr(sdk_rabbitmq, f"to_{mode}")(sdk_event(), FORMAT)
    # The SDK percent-encodes there, which the specification of AMQP does not know.
    headers = {name: value.replace("%2F", "/").replace("%3A", ":") for name, value in rabbitmq.headers.items()}
    message = Message(headers, rabbitmq.body, rabbitmq.content_type or rabbitmq.headers["content-type"])
    assert _decoded(message, AMQP).id == PLACED.id


PLACED_BY_SDK = replace(plain(PLACED), data=DATA)


def _decoded(message: Message, binding: Binding) -> Any:
    event = decode(message, binding)
    assert event is not None
    assert event.data is not None
    return replace(event, data=json.loads(event.data), headers={})


# What is no event.

REQUIRED = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/", "ce_type": "t"}


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({**REQUIRED, "ce_specversion": "0.3"}, "unknown format"),
        ({**REQUIRED, "ce_specversion": ""}, "unknown format"),
        ({**REQUIRED, "ce_id": ""}, "attributes"),
        ({**REQUIRED, "ce_time": "yesterday"}, "attributes"),
        ({**REQUIRED, "ce_time": "2026-07-01T17:44:38"}, "attributes"),
        ({**REQUIRED, "ce_time": "0001-01-01T00:00:00+23:59"}, "attributes"),
        ({**REQUIRED, "ce_type": b"\xff"}, "attributes"),
        ({**REQUIRED, "CE_ID": "2"}, "attributes"),
        ({**REQUIRED, "ce_datacontenttype": "text/plain"}, "attributes"),
        ({**REQUIRED, **{f"h{n}": "" for n in range(200)}}, "headers"),
        ({**REQUIRED, "h": "x" * 70_000}, "headers"),
        ({**REQUIRED, "h" * 300: ""}, "headers"),
        ({**REQUIRED, **{f"h{n}": "x" * 60_000 for n in range(20)}}, "headers"),
    ],
)
def test_headers_that_are_no_event_are_refused_with_the_reason(headers: dict[str, str | bytes | None], reason: str) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(Message(headers, b"{}", "application/json"), KAFKA)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "data"),
        (b"[]", "data"),
        (b"{", "data"),
        (b'{"specversion":"1.0"}', "attributes"),
        (b'{"specversion":"1.0","id":{"a":1},"source":"/","type":"t"}', "attributes"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","sequence":' + b"9" * 5000 + b"}", "attributes"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"/","type":"t"}', "data"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","Trace":"x"}', "attributes"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data":1,"data_base64":"AA=="}', "data"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"?"}', "data"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":7}', "data"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data":' + b"[" * 200 + b"]" * 200 + b"}", "too deep"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "too deep"),
        (b" " * (1 << 20) + b"{}", "too large"),
        (b"\xff\xfe", "data"),
        (b'{"specversion":"1.0","id":"\xff","source":"/","type":"t"}', "data"),
        (b'{"specversion":"1.0","id":"\\n\xff","source":"/","type":"t"}', "data"),
        (b'{"specversion":"1.0","id":"1","source":"/","type":"t","datacontenttype":"text/plain","data":"\xed\xa0\x80"}', "data"),
    ],
    ids=lambda value: value[:60].decode("ascii", "replace") if isinstance(value, bytes) else value,
)
def test_a_body_that_is_no_event_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(Message({}, body, STRUCTURED), KAFKA)
    assert caught.value.reason == reason


def test_a_list_of_events_is_named_as_what_it_is() -> None:
    batch = encode_batch([PLACED])
    for binding in (AMQP, KAFKA, NATS, REDIS):
        with pytest.raises(Undecodable, match="is a list, and events are read here one in a message") as caught:
            decode(batch, binding)
        assert caught.value.reason == "unknown format"


def test_a_format_that_is_not_read_here_is_named() -> None:
    with pytest.raises(Undecodable, match="application/cloudevents\\+avro"):
        decode(Message({}, b"", "application/cloudevents+avro"), KAFKA)


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-11))])))
def test_a_time_is_written_in_utc_as_the_standard_library_writes_it(time: datetime) -> None:
    assume(1 < time.year < 9999)
    assert written_time(time) == time.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
