"""What goes in, what comes out, on both kinds of database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.testing.shop import Bill, OrderBilled, OrderCancelled, OrderPlaced, Parcel, ReminderDue, Shop
from tidings.errors import InvalidEvent
from tidings.testing import Harness


async def test_a_delivered_event_is_handled_by_every_subscription_and_so_is_what_that_causes(t: Harness, shop: Shop, count: Any) -> None:
    await t.deliver(OrderPlaced("1", 250))
    assert await count(t, Bill, "1") == 1
    assert await count(t, Parcel, "1") == 1
    assert t.published(OrderBilled) == [OrderBilled("1", 250)]
    assert shop.mails == ["1"]
    assert [(item.subscription, item.event) for item in t.handled] == [
        ("bill", OrderPlaced("1", 250)),
        ("pack", OrderPlaced("1", 250)),
        ("mail", OrderBilled("1", 250)),
    ]


async def test_a_second_copy_of_an_event_changes_nothing(t: Harness, shop: Shop, count: Any) -> None:
    await t.deliver(OrderPlaced("1"), times=3)
    assert await count(t, Bill, "1") == 1
    assert t.published(OrderBilled) == [OrderBilled("1")]
    assert shop.mails == ["1"]
    assert len(t.handled) == 3


async def test_the_same_event_delivered_twice_is_two_events(lite: Harness, shop: Shop) -> None:
    first, second = await lite.deliver(OrderPlaced("1")), await lite.deliver(OrderPlaced("1"))
    assert first != second
    assert shop.mails == ["1", "1"]


async def test_nothing_is_handled_before_it_is_drained(lite: Harness, shop: Shop) -> None:
    await lite.publish(OrderPlaced("1"))
    await asyncio.sleep(0.05)
    assert shop.calls == []
    assert lite.handled == []
    await lite.drain()
    assert len(lite.handled) == 3


async def test_published_has_what_the_application_published_and_not_what_was_delivered(lite: Harness) -> None:
    await lite.publish(OrderPlaced("1"))
    await lite.deliver(OrderPlaced("2"))
    assert lite.published(OrderPlaced) == [OrderPlaced("1")]
    assert lite.published() == [OrderPlaced("1"), OrderBilled("1"), OrderBilled("2")]


async def test_published_knows_the_envelopes(t: Harness) -> None:
    cause = await t.deliver(OrderPlaced("1"), headers={"channel": "web"})
    await t.publish(OrderPlaced("2"), key="another", headers={"channel": "shop"})
    (billed,) = t.published(OrderBilled).envelopes
    assert (billed.name, billed.version, billed.key, billed.source) == ("order.billed", 1, "1", "shop")
    assert (billed.causation_id, billed.correlation_id, billed.hops) == (str(cause), str(cause), 1)
    (placed,) = t.published(OrderPlaced).envelopes
    assert (placed.key, placed.headers) == ("another", {"channel": "shop"})


async def test_published_is_there_when_the_transaction_is_and_not_before(t: Harness) -> None:
    async with t.sessionmaker() as session:
        t.service.publish(session, OrderPlaced("1"))
        assert t.published() == []
        await session.commit()
        assert t.published() == [OrderPlaced("1")]
        t.service.publish(session, OrderPlaced("2"))
        await session.rollback()
    assert t.published() == [OrderPlaced("1")]
    await t.drain()
    assert t.published(OrderBilled) == [OrderBilled("1")]


async def test_an_invalid_event_fails_where_it_is_published(lite: Harness) -> None:
    with pytest.raises(InvalidEvent):
        await lite.publish(OrderPlaced(5))  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent):
        await lite.deliver(OrderPlaced("1", "much"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        await lite.deliver(OrderPlaced("1"), times=0)
    assert lite.published() == []


async def test_a_failing_event_holds_back_its_own_key_in_order(t: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 99
    for event in (OrderPlaced("1", 1), OrderPlaced("2", 1), OrderPlaced("1", 2)):
        await t.publish(event)
    await t.drain()
    assert t.published(OrderBilled) == [OrderBilled("2", 1)]
    (retrying,) = t.retrying
    assert (retrying.event, retrying.subscription, retrying.attempts) == (OrderPlaced("1", 1), "bill", 1)
    assert retrying.error == "RuntimeError: no luck with 1"
    assert retrying.envelope is not None
    assert retrying.envelope.key == "1"
    assert retrying.due_in is not None
    assert timedelta(0) < retrying.due_in <= timedelta(seconds=1)
    (blocked,) = t.blocked
    assert (blocked.event, blocked.state, blocked.reason) == (OrderPlaced("1", 2), "blocked", "behind")
    assert t.dead == []


async def test_a_dead_event_shows_its_error_and_the_callback_has_run(t: Harness, shop: Shop) -> None:
    await t.deliver(OrderCancelled("1"))
    await t.advance(hours=1)
    (dead,) = t.dead
    assert (dead.event, dead.subscription, dead.attempts, dead.state) == (ReminderDue("1"), "write", 1, "dead")
    assert dead.error == "RuntimeError: there is no mail server"
    assert dead.traceback is not None
    assert "send" in dead.traceback
    (told,) = shop.dead
    assert (told.message_type, told.subscription) == ("reminder.due", "reminders/write")


async def test_dead_events_can_be_redriven_as_an_operator_would(lite: Harness, shop: Shop) -> None:
    shop.failing["mail", "1"] = 2
    await lite.deliver(OrderPlaced("1"))
    await lite.advance(minutes=1)
    assert len(lite.dead) == 1
    assert await lite.service.operations.redrive(subscription="mail") == 1
    await lite.drain()
    assert lite.dead == []
    assert shop.mails == ["1"]


async def test_handlers_may_run_side_by_side_as_in_production(make: Any, shop: Shop) -> None:
    async with make(concurrent=True) as t:
        shop.failing["bill", "3"] = 99
        for number in range(30):
            await t.publish(OrderPlaced(str(number % 5), number))
        await t.drain()
        billed = t.published(OrderBilled)
        for key in "0124":
            assert [event.total for event in billed if event.order_id == key] == list(range(int(key), 30, 5))
        assert len(billed) == 24
        assert len(t.blocked) == 5


async def test_by_default_every_handler_runs_once_even_when_its_neighbour_fails(lite: Harness, shop: Shop) -> None:
    shop.failing["bill", "7"] = 1
    for number in range(20):
        await lite.publish(OrderPlaced(str(number)))
    await lite.drain()
    calls = [order for name, order, _ in shop.calls if name == "bill"]
    assert calls == [str(number) for number in range(20)]
