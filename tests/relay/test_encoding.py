"""What leaves the service for each binding, and that the fast way writes what the plain one does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import Contract
from tidings.codecs.bindings import AMQP, HTTP, KAFKA, NATS, REDIS, Binding
from tidings.codecs.cloudevents import Template, encode_binary
from tidings.codecs.message import CloudEvent
from tidings.errors import Unsendable
from tidings.relay.encoding import Encoder, Row
from tidings.relay.routing import Routing
from tidings.testing.memory import Memory

orders = Contract("orders", source="https://example.com/orders", type_prefix="com.example.", schema_base="https://example.com/schemas/")
ID = UUID("01a1ff1c-86cb-77b9-82c6-29cc1ee0e7a9")


@orders.event("order.placed", version=2, key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


def encoder(**options: object) -> Encoder:
    broker = Memory(**options)  # type: ignore[arg-type]
    return Encoder("shop", Routing(broker, {}, [orders], list(orders), None), broker)


def row(headers: str = "{}", version: int | None = 2, name: str = "order.placed") -> Row:
    return Row(17, ID, "shop", name, version, "order.placed", "k", headers, '{"order_id":"k"}', datetime(2026, 1, 2, 3, 4, 5, 6, UTC))


text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=30)


@pytest.mark.parametrize("binding", [AMQP, HTTP, KAFKA, NATS, REDIS], ids=lambda binding: binding.name)
@given(st.none() | text, st.none() | st.integers(0, 1 << 60), st.none() | st.datetimes(timezones=st.just(UTC)), st.none() | text)
def test_the_fast_way_writes_what_the_plain_one_does(
    binding: Binding, key: str | None, sequence: int | None, time: datetime | None, schema: str | None
) -> None:
    extensions = {} if sequence is None else {"sequence": str(sequence)}
    event = CloudEvent(str(ID), "/Grüße", "order.placed.v1", b"{}", time, None, key, dataschema=schema, extensions=extensions)
    assert Template(binding, "/Grüße", "order.placed.v1", schema).message(str(ID), time, key, sequence, b"{}") == encode_binary(
        event, binding
    )


def test_what_the_contract_says_is_written() -> None:
    message = encoder().outgoing(row()).message
    assert message.headers == {
        "ce_specversion": "1.0", "ce_id": str(ID), "ce_source": "https://example.com/orders", "ce_type": "com.example.order.placed.v2",
        "ce_time": "2026-01-02T03:04:05.000006Z", "ce_dataschema": "https://example.com/schemas/order.placed.v2.json",
        "ce_partitionkey": "k", "ce_sequence": "17",
    }  # fmt: skip
    assert (message.body, message.content_type, message.key, message.id) == (b'{"order_id":"k"}', "application/json", "k", str(ID))


def test_headers_become_attributes_or_stay_the_publishers_own() -> None:
    given_headers = '{"correlationid":"c","hops":"2","tenantid":"t","subject":"s","mine":"x"}'
    headers = encoder().outgoing(row(given_headers)).message.headers
    assert {name: headers[f"ce_{name}"] for name in ("correlationid", "hops", "tenantid", "subject", "sequence")} == {
        "correlationid": "c", "hops": "2", "tenantid": "t", "subject": "s", "sequence": "17",
    }  # fmt: skip
    assert headers["mine"] == "x"


def test_a_version_that_this_process_does_not_know_is_sent_as_what_it_is() -> None:
    assert encoder().outgoing(row(version=9)).message.headers["ce_type"] == "com.example.order.placed.v9"


@pytest.mark.parametrize("headers", ["[]", '{"a":1}', "{", '{"a":{}}'])
def test_headers_that_are_none_cannot_be_sent(headers: str) -> None:
    with pytest.raises(Unsendable, match="not a JSON object of strings"):
        encoder().outgoing(row(headers))


def test_structured_mode_is_written_where_the_transport_says_so() -> None:
    message = encoder(wire="structured").outgoing(row('{"mine":"x","tenantid":"t"}')).message
    assert message.body == (
        f'{{"specversion":"1.0","id":"{ID}","source":"https://example.com/orders","type":"com.example.order.placed.v2",'
        '"time":"2026-01-02T03:04:05.000006Z","dataschema":"https://example.com/schemas/order.placed.v2.json","partitionkey":"k",'
        '"tenantid":"t","sequence":"17","datacontenttype":"application/json","data":{"order_id":"k"}}'
    ).encode()  # fmt: skip
    assert (message.headers, message.content_type, message.key) == ({"mine": "x"}, "application/cloudevents+json", "k")
    assert encoder(wire="structured").outgoing(row()).message.headers == {}


def test_cap_is_written_where_the_transport_says_so() -> None:
    headers = encoder(wire="cap").outgoing(row()).message.headers
    assert headers["cap-msg-name"] == "order.placed"
    assert headers["sequence"] == "17"
