from __future__ import annotations

import pytest
from msgspec.structs import replace

from tidings.codecs import servicebus
from tidings.codecs.message import CloudEvent, Message
from tidings.errors import Undecodable, Unsendable

OPENED = CloudEvent("m-1", "/accounts", "AccountOpened", b'{"owner":"Ada"}', subject="a-17", key="a-17", headers={"region": "eu"})


def test_the_aggregate_and_the_type_are_properties() -> None:
    message = servicebus.encode(OPENED)
    assert message.headers == {"aggregate": "a-17", "type": "AccountOpened", "region": "eu"}
    assert (message.correlation_id, message.key, message.body) == ("a-17", "a-17", b'{"owner":"Ada"}')


def test_what_is_written_is_read_back() -> None:
    assert servicebus.decode(servicebus.encode(OPENED), "/accounts", "topic/1") == OPENED


def test_a_message_without_an_id_gets_the_place_where_it_stands() -> None:
    found = servicebus.decode(Message({"aggregate": b"a-17", "type": "AccountOpened"}, b"{}"), "/accounts", "topic/4711")
    assert found is not None
    assert (found.id, found.key, found.subject) == ("topic/4711", "a-17", "a-17")


def test_an_event_of_no_aggregate_cannot_be_sent() -> None:
    with pytest.raises(Unsendable, match="neither a subject nor a key"):
        servicebus.encode(replace(OPENED, subject=None, key=None))


def test_other_messages_are_none() -> None:
    assert servicebus.decode(Message({"type": "x"}, b"{}"), "/accounts", "1") is None


def test_empty_names_are_refused() -> None:
    with pytest.raises(Undecodable):
        servicebus.decode(Message({"aggregate": "", "type": "x"}, b"{}"), "/accounts", "1")
