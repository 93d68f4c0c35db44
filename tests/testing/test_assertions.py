"""The assertions fail when they should, and say what is the matter."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.testing.shop import OrderBilled, OrderCancelled, OrderPlaced, Shop
from tidings.testing import Harness


async def test_what_was_published_is_returned(lite: Harness) -> None:
    await lite.deliver(OrderPlaced("1", 5))
    await lite.deliver(OrderPlaced("2", 7))
    assert lite.assert_published(OrderBilled) == OrderBilled("1", 5)
    assert lite.assert_published(OrderBilled, total=7) == OrderBilled("2", 7)
    assert lite.assert_published(OrderBilled, lambda event: event.total > 5, order_id="2") == OrderBilled("2", 7)
    assert lite.assert_published_once(OrderBilled, order_id="1") == OrderBilled("1", 5)
    lite.assert_nothing_published(OrderPlaced)
    lite.assert_nothing_failed()


async def test_the_message_says_what_there_is_instead(lite: Harness) -> None:
    await lite.deliver(OrderPlaced("1", 5))
    with pytest.raises(AssertionError) as caught:
        lite.assert_published(OrderBilled, order_id="2", total=5)
    assert str(caught.value) == (
        "not published: OrderBilled with order_id='2', total=5\npublished:\n  OrderBilled(order_id='1', total=5)  <- order_id is '1'"
    )


async def test_the_message_says_what_has_failed_and_what_is_scheduled(lite: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 1
    await lite.publish(OrderCancelled("9"), delay=timedelta(hours=2))
    await lite.deliver(OrderPlaced("1"))
    with pytest.raises(AssertionError) as caught:
        lite.assert_published(OrderBilled, lambda event: True)
    lines = str(caught.value).splitlines()
    assert lines[:3] == ["not published: OrderBilled that the predicate accepts", "published: nothing", "scheduled:"]
    assert lines[3] in ("  OrderCancelled(order_id='9'), due in 2:00:00", "  OrderCancelled(order_id='9'), due in 1:59:59")
    assert lines[4] == "not handled:"
    assert lines[5].startswith("  bill OrderPlaced(order_id='1', total=0), retrying after attempt 1 (failed), again in ")
    assert lines[5].endswith(" s: RuntimeError: no luck with 1")
    assert str(lite.picture()) == "\n".join(lines[1:]) or "again in" in lite.picture()


async def test_once_means_once(lite: Harness) -> None:
    await lite.deliver(OrderPlaced("1", 5))
    await lite.deliver(OrderPlaced("1", 7))
    with pytest.raises(AssertionError, match="2 times, not once: OrderBilled with order_id='1'"):
        lite.assert_published_once(OrderBilled, order_id="1")
    with pytest.raises(AssertionError, match="not published: OrderBilled with order_id='2'"):
        lite.assert_published_once(OrderBilled, order_id="2")


async def test_a_field_that_does_not_exist_is_a_mistake_of_the_test(lite: Harness) -> None:
    await lite.deliver(OrderPlaced("1"))
    with pytest.raises(TypeError, match="OrderBilled has no field 'order'"):
        lite.assert_published(OrderBilled, order="1")


async def test_nothing_published_counts_what_is_scheduled(lite: Harness) -> None:
    lite.assert_nothing_published()
    await lite.deliver(OrderCancelled("1"))
    with pytest.raises(AssertionError, match=r"nothing should have been published\npublished:\n  ReminderDue\(order_id='1'\)"):
        lite.assert_nothing_published()
    lite.assert_nothing_published(OrderBilled)
    await lite.publish(OrderBilled("1"))
    with pytest.raises(
        AssertionError, match=r"no OrderBilled should have been published\npublished:\n  OrderBilled\(order_id='1', total=0\)"
    ):
        lite.assert_nothing_published(OrderBilled)


async def test_what_was_published_a_moment_ago_is_not_overlooked(lite: Harness) -> None:
    async with lite.sessionmaker() as session, session.begin():
        lite.service.publish(session, OrderPlaced("1"))
    with pytest.raises(AssertionError, match="nothing should have been published"):
        lite.assert_nothing_published()


async def test_nothing_failed_shows_the_traceback(lite: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 1
    await lite.deliver(OrderPlaced("1"))
    await lite.deliver(OrderPlaced("1", 2))
    with pytest.raises(AssertionError) as caught:
        lite.assert_nothing_failed()
    message = str(caught.value)
    assert message.startswith("not everything was handled:\n  bill OrderPlaced(order_id='1', total=0), retrying after attempt 1 (failed)")
    assert "\n  bill OrderPlaced(order_id='1', total=2), blocked after attempt 0 (behind)\n" in message
    assert 'raise self.errors.get(name) or RuntimeError(f"no luck with {event.order_id}")' in message
    await lite.advance(seconds=1)
    lite.assert_nothing_failed()


async def test_a_long_list_is_cut(lite: Harness) -> None:
    for number in range(25):
        await lite.publish(OrderCancelled(str(number)))
    with pytest.raises(AssertionError, match="and 5 more"):
        lite.assert_published(OrderBilled)


async def test_what_cannot_be_understood_is_shown_by_its_name(lite: Harness) -> None:
    await lite.publish(OrderPlaced("1"))
    async with lite.sessionmaker() as session, session.begin():
        await (await session.connection()).exec_driver_sql("""update tidings_outbox set data = '{"order_id": 5}'""")
    await lite.drain()
    assert {(item.event, item.event_name, item.reason, item.state) for item in lite.dead} == {(None, "order.placed", "undecodable", "dead")}
    with pytest.raises(AssertionError, match=r"pack order\.placed, dead after attempt 1 \(undecodable\)"):
        lite.assert_nothing_failed()
    assert lite.published() == []
