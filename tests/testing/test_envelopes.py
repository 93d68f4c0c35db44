"""Envelopes for unit tests."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from tests.testing.shop import OrderPlaced, orders
from tidings import Contract, Envelope
from tidings.errors import ContractError, InvalidEvent
from tidings.testing import envelope
from tidings.testing.envelopes import Attributes


def test_everything_has_a_default() -> None:
    made = envelope()
    assert isinstance(made, Envelope)
    assert made.correlation_id == str(made.id)
    assert (made.attempt, made.hops, made.headers, made.key) == (1, 0, {}, None)
    assert abs((datetime.now(UTC) - made.time).total_seconds()) < 10
    assert made.id != envelope().id


def test_everything_can_be_given() -> None:
    an_id = UUID(int=7)
    made = envelope(id=an_id, attempt=3, tenant="acme", headers={"a": "b"}, key="k", correlation_id="flow")
    assert (made.id, made.attempt, made.tenant, made.headers, made.key, made.correlation_id) == (an_id, 3, "acme", {"a": "b"}, "k", "flow")
    assert set(Attributes.__annotations__) == set(Envelope.__struct_fields__)


def test_an_event_fills_in_what_its_contract_knows() -> None:
    made = envelope(OrderPlaced("1"), orders, attempt=2)
    assert (made.name, made.version, made.topic, made.key, made.attempt) == ("order.placed", 1, "order.placed", "1", 2)
    assert envelope(OrderPlaced("1"), orders, key="2").key == "2"


def test_an_event_has_to_fit_its_contract() -> None:
    with pytest.raises(InvalidEvent):
        envelope(OrderPlaced(5), orders)  # type: ignore[arg-type]
    with pytest.raises(ContractError):
        envelope(OrderPlaced("1"), Contract("others"))
