"""A drain ends when all is quiet, and says what is going on when that does not happen."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.testing.shop import OrderBilled, OrderCancelled, OrderPlaced, Shop, orders
from tidings import Publish, Retry, Service, Subscriptions
from tidings.errors import TidingsError
from tidings.testing import Harness, NotSettled


def service_of(lite: Harness, handlers: Subscriptions) -> Service:
    return Service("other", contracts=[orders], subscriptions=[handlers], store=lite.store)


async def test_events_that_cause_one_another_in_a_circle_are_found_out(lite: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.testing.harness._STEPS", 12)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def there(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    @handlers.subscribe(OrderBilled)
    async def back(event: OrderBilled, publish: Publish) -> None:
        publish(OrderPlaced(event.order_id))

    async with Harness(service_of(lite, handlers), timeout=60) as t:
        with pytest.raises(
            NotSettled, match=r"handlers go on publishing order\.(billed|placed) \(\d+ times\), order\.(billed|placed) \(\d+ times\)"
        ):
            await t.deliver(OrderPlaced("1"))


async def test_a_handler_that_hangs_is_named_and_rolled_back(lite: Harness) -> None:
    handlers = Subscriptions()
    gate = asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def stuck(event: OrderPlaced, session: AsyncSession) -> None:
        await gate.wait()

    async with Harness(service_of(lite, handlers), timeout=0.3) as t:
        with pytest.raises(NotSettled, match=r"not quiet after 0.3 s: other/stuck was handling OrderPlaced\(order_id='1', total=0\)"):
            await t.deliver(OrderPlaced("1"))
        assert t.handled == []
        gate.set()
        await t.drain()
        # An interrupted attempt is none.
        assert [item.envelope.attempt for item in t.handled] == [1]


async def test_it_is_a_failure_of_the_test_and_an_error_of_ours() -> None:
    assert issubclass(NotSettled, AssertionError)
    assert issubclass(NotSettled, TidingsError)


async def test_a_timeout_inside_a_handler_is_a_failure_of_the_handler(lite: Harness, shop: Shop) -> None:
    shop.failing["bill", "1"] = 1
    shop.errors["bill"] = TimeoutError("the bank does not answer")
    await lite.deliver(OrderPlaced("1"))
    assert [item.error for item in lite.retrying] == ["TimeoutError: the bank does not answer"]


async def test_many_failing_keys_do_not_hold_back_the_others(lite: Harness, shop: Shop) -> None:
    for number in range(25):
        shop.failing["bill", str(number)] = 99
        await lite.publish(OrderPlaced(str(number)))
    await lite.publish(OrderPlaced("healthy"))
    await lite.drain()
    assert len(lite.retrying) == 25
    assert lite.published(OrderBilled) == [OrderBilled("healthy")]


async def test_a_paused_subscription_is_left_alone_until_it_goes_on(lite: Harness, shop: Shop) -> None:
    assert await lite.service.operations.pause("mail")
    await lite.deliver(OrderPlaced("1"))
    await lite.advance(minutes=10)
    assert shop.mails == []
    assert lite.published(OrderBilled) == [OrderBilled("1")]
    assert await lite.service.operations.resume("mail")
    await lite.drain()
    assert shop.mails == ["1"]


async def test_retries_of_a_paused_subscription_wait(lite: Harness, shop: Shop) -> None:
    shop.failing["mail", "1"] = 1
    await lite.deliver(OrderPlaced("1"))
    await lite.service.operations.pause("mail")
    await lite.advance(minutes=10)
    assert shop.mails == []
    await lite.service.operations.resume("mail")
    await lite.drain()
    assert shop.mails == ["1"]


async def test_retries_without_delay_are_tried_out_at_once(lite: Harness) -> None:
    tried: list[str] = []
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=5, base=0))
    async def hasty(event: OrderPlaced, session: AsyncSession) -> None:
        tried.append(event.order_id)
        raise RuntimeError("no")

    async with Harness(service_of(lite, handlers)) as t:
        await t.deliver(OrderPlaced("1"))
        assert tried == ["1"] * 5
        assert len(t.dead) == 1


async def test_a_handler_cannot_drain(lite: Harness, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Subscriptions()
    inner: list[Harness] = []

    @handlers.subscribe(OrderCancelled)
    async def impatient(event: OrderCancelled) -> None:
        await inner[0].drain()

    async with Harness(service_of(lite, handlers)) as t:
        inner.append(t)
        with caplog.at_level(logging.CRITICAL):
            await t.deliver(OrderCancelled("1"))
        (failed,) = t.retrying
        assert failed.error == "RuntimeError: a handler cannot wait for all handlers to finish: drain in the test"


async def test_drains_at_the_same_time_follow_one_another(lite: Harness, shop: Shop) -> None:
    await asyncio.gather(*(lite.deliver(OrderPlaced(str(number))) for number in range(5)))
    assert sorted(shop.mails) == ["0", "1", "2", "3", "4"]


async def test_nothing_runs_on_between_two_steps(lite: Harness) -> None:
    before = asyncio.all_tasks()
    await lite.deliver(OrderPlaced("1"))
    await lite.advance(seconds=5)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_nothing_is_left_behind(shop: Shop) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with Harness(shop.service()) as t:
        await t.deliver(OrderCancelled("1"))
        path = t.store.connections.sync_engine.url.database
    assert path is not None
    assert asyncio.all_tasks() == tasks
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        assert not thread.is_alive(), thread


async def test_outside_of_its_block_it_does_nothing(shop: Shop) -> None:
    t = Harness(shop.service())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="inside its block"):
            _ = t.published()
        with pytest.raises(RuntimeError, match="inside its block"):
            await t.drain()
        with pytest.raises(RuntimeError, match="inside its block"):
            await t.publish(OrderPlaced("1"))
        with pytest.raises(RuntimeError, match="inside its block"):
            await t.advance(seconds=1)
        async with t:
            pass
