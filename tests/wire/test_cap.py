from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.wire.events import texts
from tidings.codecs import cap
from tidings.codecs.bindings import AMQP, KAFKA, NATS, REDIS, SNS
from tidings.codecs.message import CloudEvent, Message
from tidings.errors import Undecodable, Unsendable

BERLIN = timezone(timedelta(hours=2))
BODY = b'{"OrderId":42,"Total":9.90,"CreatedAt":"2026-07-01T19:44:38.123+02:00"}'

# What a .NET service sends, by all that is known of it.
SENT_BY_DOTNET = {
    "cap-callback-name": None,
    "cap-msg-id": "8378589804052043001",
    "cap-corr-id": "8378589804052043001",
    "cap-corr-seq": "0",
    "cap-msg-name": "order.created",
    "cap-msg-type": "OrderCreated",
    "cap-senttime": "07/01/2026 19:44:38",
}

CREATED = CloudEvent(
    "8378589804052043001",
    cap.SOURCE,
    "order.created",
    BODY,
    datetime(2026, 7, 1, 17, 44, 38, tzinfo=UTC),
    extensions={"correlationid": "8378589804052043001", "hops": "0"},
    headers={"cap-msg-type": "OrderCreated"},
)


@pytest.mark.parametrize("binding", [AMQP, KAFKA, REDIS, SNS], ids=lambda binding: binding.name)
def test_a_message_of_dotnet_is_read(binding: object) -> None:
    assert cap.decode(Message(SENT_BY_DOTNET, BODY), binding, zone=BERLIN) == CREATED  # type: ignore[arg-type]


def test_on_nats_null_is_empty() -> None:
    assert cap.decode(Message({**SENT_BY_DOTNET, "cap-callback-name": ""}, BODY), NATS, zone=BERLIN) == CREATED


def test_the_same_message_is_written_letter_for_letter() -> None:
    message = cap.encode(CREATED, "order.created", AMQP, zone=BERLIN)
    assert message.headers == {name: value for name, value in SENT_BY_DOTNET.items() if value is not None}
    assert message.body == BODY
    assert message.id == "8378589804052043001"
    assert message.content_type is None


def test_on_kafka_the_record_key_is_the_id_unless_a_key_is_there() -> None:
    assert cap.encode(CREATED, "order.created", KAFKA).key == CREATED.id
    assert cap.encode(replace(CREATED, key="42"), "order.created", KAFKA).key == "42"
    assert cap.encode(replace(CREATED, headers={"cap-kafka-key": "7"}), "order.created", KAFKA).key == "7"
    found = cap.decode(Message(SENT_BY_DOTNET, BODY, key="8378589804052043001"), KAFKA)
    assert found is not None
    assert found.key is None


def test_null_is_a_body_without_bytes() -> None:
    assert cap.encode(replace(CREATED, data=b"null"), "order.created", AMQP).body == b""
    found = cap.decode(Message(SENT_BY_DOTNET, b""), AMQP)
    assert found is not None
    assert found.data == b"null"


def test_what_tidings_knows_besides_comes_along() -> None:
    event = replace(CREATED, source="/shop", key="42", extensions={**CREATED.extensions, "sequence": "17", "tenantid": "acme"})
    message = cap.encode(event, "order.created", AMQP)
    assert message.headers["sequence"] == "17"
    assert cap.decode(message, AMQP) == event


def test_delayed_messages_and_leftovers_of_failures_are_read() -> None:
    headers = {**SENT_BY_DOTNET, "cap-delaytime": "00:00:30", "cap-exception": "Bad-->news", "cap-msg-group": "g", "my-header": "mine"}
    found = cap.decode(Message(headers, BODY), AMQP)
    assert found is not None
    assert found.headers == {"cap-msg-type": "OrderCreated", "my-header": "mine"}


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("07/01/2026 19:44:38", datetime(2026, 7, 1, 17, 44, 38, tzinfo=UTC)),
        ("2023/3/4 上午10:04:16", datetime(2023, 3, 4, 8, 4, 16, tzinfo=UTC)),
        ("2023/3/4 下午10:04:16", datetime(2023, 3, 4, 20, 4, 16, tzinfo=UTC)),
        ("3/4/2023 12:04:16 AM", datetime(2023, 3, 3, 22, 4, 16, tzinfo=UTC)),
        ("01.07.2026 19:44:38", datetime(2026, 7, 1, 17, 44, 38, tzinfo=UTC)),
        ("31/12/2026 19:44:38", datetime(2026, 12, 31, 17, 44, 38, tzinfo=UTC)),
        ("2026-07-01T17:44:38Z", datetime(2026, 7, 1, 17, 44, 38, tzinfo=UTC)),
        ("99/99/9999 99:99:99", None),
        ("01/01/0001 00:00:00", None),
        ("soon", None),
    ],
)
def test_times_are_read_as_servers_of_many_countries_have_written_them(text: str, time: datetime | None) -> None:
    found = cap.decode(Message({**SENT_BY_DOTNET, "cap-senttime": text}, BODY), AMQP, zone=BERLIN)
    assert found is not None
    assert found.time == time


def test_a_reply_goes_to_the_topic_that_was_named_and_continues_the_count() -> None:
    asked = cap.decode(Message({**SENT_BY_DOTNET, "cap-callback-name": "order.replies", "cap-corr-seq": "3"}, BODY), AMQP)
    assert asked is not None
    reply = cap.reply_to(asked, allowed={"order.replies"})
    assert reply is not None
    message = cap.encode(reply.event("new-id", "/billing", b'{"Ok":true}'), reply.topic, AMQP)
    assert message.headers == {
        "cap-msg-id": "new-id",
        "cap-corr-id": "8378589804052043001",
        "cap-corr-seq": "4",
        "cap-msg-name": "order.replies",
        "source": "/billing",
    }


def test_no_reply_where_none_is_wanted_and_none_where_a_stranger_wants_it() -> None:
    assert cap.reply_to(CREATED, allowed=()) is None
    with pytest.raises(Undecodable, match="no topic that this service may reply to"):
        cap.reply_to(replace(CREATED, headers={cap.CALLBACK: "payments.refund"}), allowed={"order.replies"})


def test_a_reply_is_asked_for_by_a_header() -> None:
    message = cap.encode(replace(CREATED, headers={cap.CALLBACK: "order.replies"}), "order.created", AMQP)
    assert message.headers["cap-callback-name"] == "order.replies"


def test_on_redis_it_is_two_fields_of_json() -> None:
    fields = cap.to_redis(Message({"cap-msg-id": "1", "cap-callback-name": None}, b'{"a":1}'))
    assert fields == {"headers": b'{"cap-msg-id":"1","cap-callback-name":null}', "body": b'"' + base64.b64encode(b'{"a":1}') + b'"'}
    assert cap.from_redis(fields) == Message({"cap-msg-id": "1", "cap-callback-name": None}, b'{"a":1}')


@pytest.mark.parametrize(
    "fields",
    [{}, {"headers": b"[]"}, {"headers": b'{"a":1}'}, {"headers": b"{}", "body": b"plain"}, {"headers": b"{}", "body": b'"?"'}],
)
def test_other_fields_on_redis_are_refused(fields: dict[str, bytes]) -> None:
    with pytest.raises(Undecodable):
        cap.from_redis(fields)


def test_through_sns_it_is_an_envelope_without_nulls() -> None:
    text, attributes = cap.encode_sns(Message(SENT_BY_DOTNET, BODY))
    assert text == BODY.decode()
    assert attributes["cap-msg-name"] == {"DataType": "String", "StringValue": "order.created"}
    assert "cap-callback-name" not in attributes
    envelope = {"Message": text, "MessageAttributes": {n: {"Type": "String", "Value": v["StringValue"]} for n, v in attributes.items()}}
    assert cap.decode(cap.decode_sns(json.dumps(envelope).encode()), SNS, zone=BERLIN) == CREATED
    with pytest.raises(Undecodable):
        cap.decode_sns(b"[]")


def test_nats_carries_printable_ascii_only() -> None:
    with pytest.raises(Unsendable, match="printable ASCII"):
        cap.encode(replace(CREATED, headers={"cap-msg-type": "Grüße"}), "order.created", NATS)
    with pytest.raises(Unsendable, match="printable ASCII"):
        cap.encode(replace(CREATED, headers={"note": "two\nlines"}), "order.created", NATS)


def test_a_publisher_cannot_set_what_is_caps_own() -> None:
    with pytest.raises(Unsendable, match="choose another name"):
        cap.encode(replace(CREATED, headers={"cap-msg-id": "7"}), "order.created", AMQP)


def test_names_as_caps_transports_write_them() -> None:
    assert cap.normalized("cap.queue.orders.v1", NATS) == "cap_queue_orders_v1"
    assert cap.normalized("a.b:c", SNS) == "a-b_c"
    assert cap.normalized("a.b:c", KAFKA) == "a.b:c"


@pytest.mark.parametrize("missing", ["cap-msg-id", "cap-msg-name"])
def test_half_a_message_of_cap_is_refused(missing: str) -> None:
    with pytest.raises(Undecodable, match=missing):
        cap.decode(Message({**SENT_BY_DOTNET, missing: None}, BODY), AMQP)


def test_other_messages_are_none_of_caps() -> None:
    assert cap.decode(Message({"ce-id": "1"}, BODY), AMQP) is None


@pytest.mark.parametrize("count", ["-1", "1e9", "9" * 30, "", "۳"])
def test_a_count_that_is_no_small_number_counts_as_the_most(count: str) -> None:
    found = cap.decode(Message({**SENT_BY_DOTNET, "cap-corr-seq": count}, BODY), AMQP)
    assert found is not None
    assert found.extensions["hops"] == "1000000"


@given(
    event_id=texts.filter(bool),
    key=st.none() | texts.filter(bool),
    time=st.none() | st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC)),  # noqa: DTZ001
    body=st.binary(max_size=50).filter(bool),
    mine=texts,
)
def test_what_is_written_is_read_back(event_id: str, key: str | None, time: datetime | None, body: bytes, mine: str) -> None:
    event = CloudEvent(event_id, "/a", "t", body, time, None, key, extensions={"correlationid": event_id, "hops": "1"}, headers={"m": mine})
    for binding in (AMQP, KAFKA, SNS):
        assert cap.decode(cap.encode(event, "t", binding, zone=UTC), binding, zone=UTC) == event
    fields = cap.to_redis(cap.encode(event, "t", REDIS, zone=UTC))
    assert cap.decode(cap.from_redis(fields), REDIS, zone=UTC) == event
