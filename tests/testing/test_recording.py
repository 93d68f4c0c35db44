"""Unit tests of code that publishes, without a database."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from tests.testing.shop import Mailer, OrderBilled, OrderCancelled, OrderPlaced, Shop, orders
from tidings import Envelope, Publish, Service
from tidings.errors import ContractError, InvalidEvent
from tidings.testing import RecordingPublish, envelope, recording


async def bill(event: OrderPlaced, publish: Publish, envelope: Envelope) -> None:
    """A handler as users write it."""
    if envelope.attempt == 1:
        publish(OrderBilled(event.order_id, event.total), headers={"by": "bill"})


async def welcome(event: OrderPlaced, mailer: Mailer) -> None:
    await mailer.send(event.order_id, "welcome")


def place(service: Service, session: Any, order_id: str) -> None:
    """Code of an application that publishes on its session."""
    service.publish(session, OrderPlaced(order_id, 3))


async def test_a_handler_is_a_function_and_its_publish_can_be_recorded() -> None:
    publish = RecordingPublish(orders)
    await bill(OrderPlaced("1", 250), publish, envelope())
    assert publish.events == [OrderBilled("1", 250)]
    assert publish.published(OrderBilled).envelopes[0].headers == {"by": "bill"}
    assert publish.published(OrderPlaced) == []
    assert publish.assert_published_once(OrderBilled, order_id="1") == OrderBilled("1", 250)
    publish.assert_nothing_published(OrderPlaced)
    with pytest.raises(AssertionError, match="not published: OrderBilled with total=1\npublished:\n  .*<- total is 250"):
        publish.assert_published(OrderBilled, total=1)


async def test_nothing_published_can_be_asserted() -> None:
    publish = RecordingPublish(orders)
    await bill(OrderPlaced("1", 250), publish, envelope(attempt=2))
    publish.assert_nothing_published()
    publish(OrderCancelled("1"))
    with pytest.raises(AssertionError, match="nothing should have been published"):
        publish.assert_nothing_published()


async def test_what_a_handler_calls_can_be_a_mock() -> None:
    mailer = Mock(spec=Mailer, send=AsyncMock())
    await welcome(OrderPlaced("1"), mailer)
    mailer.send.assert_awaited_once_with("1", "welcome")


def test_invalid_events_fail_as_in_production() -> None:
    publish = RecordingPublish(orders)
    with pytest.raises(InvalidEvent):
        publish(OrderPlaced(5))  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        publish(OrderPlaced("1"), headers={"id": "mine"})
    with pytest.raises(InvalidEvent):
        publish(OrderPlaced("1"), delay=timedelta(hours=-1))
    assert publish.events == []


def test_events_of_no_contract_are_refused() -> None:
    @dataclass(frozen=True)
    class Stranger:
        name: str

    with pytest.raises(ContractError, match=r"Stranger is in none of the contracts given: orders"):
        RecordingPublish(orders)(Stranger("me"))


def test_what_is_kept_is_what_a_subscriber_would_get() -> None:
    publish = RecordingPublish(orders, source="till")
    event_id = publish(OrderPlaced("1"), key="another", delay=timedelta(hours=1), expires=timedelta(hours=2))
    (seen,) = publish.published().envelopes
    assert (seen.id, seen.source, seen.name, seen.key, seen.correlation_id) == (event_id, "till", "order.placed", "another", str(event_id))
    assert seen.scheduled_for is not None
    assert seen.expires is not None
    assert timedelta(minutes=59) < seen.scheduled_for - datetime.now(UTC) < timedelta(minutes=61)
    assert publish.events[0] is not OrderPlaced("1")


def test_recording_takes_the_place_of_the_services_own_publishing(shop: Shop) -> None:
    service = shop.service()
    own = service.publish
    with recording(service) as published:
        place(service, None, "1")
        place(service, object(), "2")
    assert published.events == [OrderPlaced("1", 3), OrderPlaced("2", 3)]
    published.assert_published_once(OrderPlaced, lambda event: event.order_id == "2")
    assert service.publish == own
    with pytest.raises(TypeError, match="wants a SQLAlchemy session"):
        place(service, None, "3")


async def test_recording_takes_blocks_and_handlers_too(shop: Shop) -> None:
    service = shop.service()
    with recording(service) as published:
        with service.publishing(None) as publish:
            publish(OrderPlaced("1"))
        async with service.publishing(None) as publish:
            publish(OrderPlaced("2"))
        await bill(OrderPlaced("3"), published.publish, envelope())
    assert published.events == [OrderPlaced("1"), OrderPlaced("2"), OrderBilled("3")]


def test_recording_forgets_what_is_cancelled(shop: Shop) -> None:
    service = shop.service()
    session: Any = None
    with recording(service) as published:
        later = service.publish(session, OrderPlaced("1"), delay=timedelta(hours=1))
        now = service.publish(session, OrderPlaced("2"))
        assert service.cancel(session, later).cancelled is True
        assert service.cancel(session, later).cancelled is False
        assert service.cancel(session, now).cancelled is False
    assert published.events == [OrderPlaced("2")]


def test_recording_checks_events_and_ends_with_its_block(shop: Shop) -> None:
    service = shop.service()
    session: Any = None
    with pytest.raises(InvalidEvent), recording(service):
        service.publish(session, OrderPlaced("1", "much"))  # type: ignore[arg-type]
    with recording(service) as first, pytest.raises(RuntimeError, match="being recorded already"), recording(service):
        pass
    assert first.events == []
    assert not {"publish", "publishing", "cancel"} & set(vars(service))


def test_recorders_need_neither_sqlalchemy_nor_pytest() -> None:
    program = """
import sys
sys.modules["sqlalchemy"] = sys.modules["pytest"] = None
from dataclasses import dataclass
from tidings import Contract
from tidings.testing import RecordingPublish, envelope
shop = Contract("shop")
@shop.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
publish = RecordingPublish(shop)
publish(OrderPlaced("1"))
publish.assert_published_once(OrderPlaced, order_id="1")
print(envelope(OrderPlaced("1"), shop).key)
from tidings.errors import MissingExtra
try:
    from tidings.testing import Harness
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1", "tidings.testing.Harness needs an optional package: pip install 'tidings[testing]'"]
