"""Turning an event into a row: everything about it is decided and checked at the call."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.publish.shop import OrderPlaced, PriceChanged, StockCounted, shop
from tidings import Contract
from tidings.envelope import RESERVED_HEADERS, Envelope
from tidings.errors import ContractError, InvalidEvent
from tidings.ids import slot_of
from tidings.publish.context import current_envelope
from tidings.publish.headers import MAX_HEADERS, MAX_NAME, MAX_VALUE
from tidings.publish.publisher import Publisher
from tidings.stores.sql.names import Names
from tidings.stores.sql.postgresql.publish import PublishStatements

STATEMENTS = PublishStatements(Names(None, "tidings_"))
HOUR = timedelta(hours=1)


def publisher(**options: Any) -> Publisher:
    return Publisher("shop", shop.type_of, STATEMENTS, **options)


def envelope(**fields: Any) -> Envelope:
    given: dict[str, Any] = {"correlation_id": "flow", "hops": 2} | fields
    return Envelope(id=uuid4(), source="web", name="cart.filled", version=1, topic="cart.filled", key=None, time=datetime.now(UTC), **given)


def test_an_event_becomes_a_row_of_its_type() -> None:
    outgoing = publisher().prepare(OrderPlaced("a", "ü"))
    assert (outgoing.source, outgoing.name, outgoing.version, outgoing.topic) == (
        "shop",
        "order.placed",
        1,
        shop.type_of(OrderPlaced).topic(),
    )
    assert (outgoing.key, outgoing.slot, outgoing.lock, outgoing.due) == ("a", slot_of("a"), True, None)
    assert json.loads(outgoing.data) == {"order": "a", "note": "ü"}
    assert outgoing.headers == "{}"
    assert outgoing.id.version == 7


def test_ids_rise() -> None:
    prepare = publisher().prepare
    ids = [prepare(StockCounted(number)).id for number in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_an_event_without_key_has_no_slot_and_locks_nothing() -> None:
    outgoing = publisher().prepare(StockCounted(1))
    assert (outgoing.key, outgoing.slot, outgoing.lock) == (None, None, False)


def test_a_contract_can_give_up_the_lock_of_its_keys() -> None:
    outgoing = publisher().prepare(PriceChanged("x"))
    assert (outgoing.key, outgoing.slot, outgoing.lock) == ("x", slot_of("x"), False)


@pytest.mark.parametrize(("key", "expected"), [("b", "b"), (7, "7"), (UUID(int=1), str(UUID(int=1))), (("a", 1), "a|1"), (None, None)])
def test_a_key_given_at_the_call_replaces_the_contract_s(key: object, expected: str | None) -> None:
    outgoing = publisher().prepare(OrderPlaced("a"), key=key)
    assert outgoing.key == expected
    assert outgoing.slot == (None if expected is None else slot_of(expected))


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 1025, 1.5, datetime.now(UTC)])
def test_a_key_that_is_no_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidEvent):
        publisher().prepare(OrderPlaced("a"), key=key)


def test_a_class_of_no_contract_and_a_wrong_field_are_refused() -> None:
    with pytest.raises(ContractError):
        publisher().prepare(object())
    with pytest.raises(InvalidEvent):
        publisher().prepare(StockCounted(math.nan))  # type: ignore[arg-type]


def test_the_topic_is_that_of_the_environment() -> None:
    contract = Contract("shop", namer=lambda kind, environment: f"{environment}.{kind.name}")
    contract.event("order.placed", version=1)(OrderPlaced)
    chosen = Publisher("shop", contract.type_of, STATEMENTS, environment="test")
    assert chosen.prepare(OrderPlaced("a")).topic == "test.order.placed"


# Times


def test_delay_and_at_schedule() -> None:
    at = datetime(2150, 1, 1, tzinfo=timezone(HOUR))
    assert publisher().prepare(OrderPlaced("a"), delay=HOUR).due == HOUR
    assert publisher().prepare(OrderPlaced("a"), at=at).due == at
    assert publisher().prepare(OrderPlaced("a"), delay=timedelta(0)).due is None
    past = datetime(2000, 1, 1, tzinfo=UTC)
    assert publisher().prepare(OrderPlaced("a"), at=past).due == past


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"delay": -HOUR}, "delay=-1 day, 23:00:00 is negative"),
        ({"delay": HOUR, "at": datetime.now(UTC)}, "two different times"),
        ({"at": datetime(2150, 1, 1)}, "at=2150-01-01 00:00:00 has no time zone"),  # noqa: DTZ001
        ({"at": datetime.max.replace(tzinfo=timezone(-HOUR))}, "beyond what a datetime in UTC can say"),
        ({"delay": timedelta.max}, "ends after the year 9999"),
        ({"expires": timedelta.max}, "ends after the year 9999"),
        ({"expires": datetime(2150, 1, 1)}, "expires=2150-01-01 00:00:00 has no time zone"),  # noqa: DTZ001
        ({"expires": timedelta(0)}, "expires=0:00:00 has passed already"),
        ({"expires": -HOUR}, "has passed already"),
        ({"expires": datetime(2000, 1, 1, tzinfo=UTC)}, "has passed already"),
        ({"expires": HOUR, "delay": 2 * HOUR}, "before the event is due"),
        ({"expires": HOUR, "at": datetime(2150, 1, 1, tzinfo=UTC)}, "before the event is due at 2150-01-01T00:00:00"),
    ],
)
def test_times_that_make_no_sense_are_refused(times: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidEvent, match=f"order.placed v1: .*{message}"):
        publisher().prepare(OrderPlaced("a"), **times)


@pytest.mark.parametrize("times", [{"delay": 5}, {"at": "2150-01-01"}, {"expires": 5}, {"expires": "tomorrow"}])
def test_times_of_another_type_are_a_type_error(times: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="is not a datetime"):
        publisher().prepare(OrderPlaced("a"), **times)


def test_the_expiry_is_a_header_in_utc() -> None:
    end = datetime(2150, 1, 1, 12, 0, 0, 5, tzinfo=timezone(HOUR))
    headers = json.loads(publisher().prepare(OrderPlaced("a"), expires=end, delay=HOUR).headers)
    assert headers == {"expires": "2150-01-01T11:00:00.000005Z"}
    soon = json.loads(publisher().prepare(OrderPlaced("a"), expires=HOUR).headers)["expires"]
    assert abs(datetime.fromisoformat(soon) - datetime.now(UTC) - HOUR) < timedelta(minutes=1)


# Causes


def test_an_event_that_starts_a_flow_carries_no_correlation() -> None:
    assert json.loads(publisher().prepare(OrderPlaced("a"), headers={"x": "1"}).headers) == {"x": "1"}


def test_an_event_published_while_another_is_handled_is_caused_by_it() -> None:
    cause = envelope(tenant="t1", traceparent="00-a-b-01", tracestate="v=1")
    token = current_envelope.set(cause)
    try:
        headers = json.loads(publisher().prepare(OrderPlaced("a"), headers={"mine": "1"}).headers)
    finally:
        current_envelope.reset(token)
    assert headers == {
        "correlationid": "flow",
        "causationid": str(cause.id),
        "hops": "3",
        "tenantid": "t1",
        "traceparent": "00-a-b-01",
        "tracestate": "v=1",
        "mine": "1",
    }


def test_a_cause_given_at_the_call_goes_before_the_one_being_handled() -> None:
    token = current_envelope.set(envelope())
    try:
        given = envelope(correlation_id="given")
        headers = json.loads(publisher().prepare(OrderPlaced("a"), context=given).headers)
    finally:
        current_envelope.reset(token)
    assert headers == {"correlationid": "given", "causationid": str(given.id), "hops": "3"}


# Headers


@pytest.mark.parametrize("name", sorted(RESERVED_HEADERS))
def test_names_that_tidings_writes_are_reserved(name: str) -> None:
    for spelling in (name, name.upper()):
        with pytest.raises(InvalidEvent, match=f"header '{spelling}' is written by Tidings itself"):
            publisher().prepare(OrderPlaced("a"), headers={spelling: "x"})


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"": "x"}, "header name ''"),
        ({"two words": "x"}, "header name 'two words'"),
        ({"größe": "x"}, "printable ASCII"),
        ({"a\n": "x"}, "printable ASCII"),
        ({"n" * (MAX_NAME + 1): "x"}, f"1 to {MAX_NAME} characters"),
        ({5: "x"}, "header name 5"),
        ({"count": 5}, r"header 'count' is 5 \(int\): header values are strings"),
        ({"nothing": None}, "header 'nothing' is None"),
        ({"long": "x" * (MAX_VALUE + 1)}, "header 'long' has 4,097 characters"),
        ({"nul": "a\0b"}, "header 'nul' contains a NUL"),
        ({"half": "\ud83e"}, "header 'half' contains a lone surrogate"),
        ({f"h{number}": "x" for number in range(MAX_HEADERS + 1)}, "65 headers are more than 64"),
    ],
)
def test_headers_that_cannot_be_carried_are_refused_by_name(headers: dict[Any, Any], message: str) -> None:
    with pytest.raises(InvalidEvent, match=f"order.placed v1: .*{message}"):
        publisher().prepare(OrderPlaced("a"), headers=headers)


@given(
    st.dictionaries(
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1).filter(
            lambda name: name.lower() not in RESERVED_HEADERS
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        max_size=MAX_HEADERS,
    )
)
def test_headers_are_ascii_json_of_what_was_given(headers: dict[str, str]) -> None:
    text = publisher().prepare(OrderPlaced("a"), headers=headers).headers
    assert text.isascii()
    assert json.loads(text) == headers


def test_header_values_may_be_of_a_subclass_of_str() -> None:
    class Region(str):
        pass

    assert json.loads(publisher().prepare(OrderPlaced("a"), headers={"region": Region("eu")}).headers) == {"region": "eu"}


# Size


def test_an_event_that_is_too_large_says_how_large_it_is() -> None:
    small = publisher(max_message_bytes=200)
    small.prepare(OrderPlaced("a", "x" * 150))
    with pytest.raises(
        InvalidEvent, match=r"order.placed v1: 2\d\d bytes \(2\d\d of data, 2 of headers\) are more than max_message_bytes=200"
    ):
        small.prepare(OrderPlaced("a", "x" * 200))
    with pytest.raises(InvalidEvent, match=r"of headers\) are more than"):
        small.prepare(OrderPlaced("a"), headers={"h": "x" * 200})


def test_the_size_is_counted_in_bytes() -> None:
    small = publisher(max_message_bytes=200)
    small.prepare(OrderPlaced("a", "ü" * 80))
    with pytest.raises(InvalidEvent):
        small.prepare(OrderPlaced("a", "ü" * 100))


def test_the_default_limit_is_one_mebibyte() -> None:
    publisher().prepare(OrderPlaced("a", "x" * ((1 << 20) - 100)))
    with pytest.raises(InvalidEvent, match="max_message_bytes=1,048,576"):
        publisher().prepare(OrderPlaced("a", "x" * (1 << 20)))
