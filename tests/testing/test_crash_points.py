"""A process that dies leaves what it had committed, and nothing else; the next one finishes the work, and effects happen once."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from sqlalchemy import create_engine

from tests.testing.shop import Base, Bill, OrderBilled, OrderPlaced, Parcel, Shop
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure
from tidings.testing import Harness
from tidings.testing.crashes import At

POINTS = get_args(At)


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("subscription", ["bill", "pack"])
async def test_effects_happen_once_wherever_the_process_dies(t: Harness, shop: Shop, count: Any, at: At, subscription: str) -> None:
    with t.crash(at, subscription=subscription):
        await t.deliver(OrderPlaced("1"))
    table = Bill if subscription == "bill" else Parcel
    committed = at == "after_commit_before_checkpoint"
    assert await count(t, table, "1") == committed
    assert [item.subscription for item in t.handled if item.subscription == subscription] == [subscription] * committed
    assert shop.mails == []
    await t.drain()
    assert await count(t, Bill, "1") == await count(t, Parcel, "1") == 1
    assert t.published(OrderBilled) == [OrderBilled("1")]
    assert shop.mails == ["1"]
    # What was rolled back ran again, what was committed did not.
    assert len([call for call in shop.calls if call[0] == subscription]) == (1 if committed else 2)
    assert t.retrying == t.dead == t.blocked == []


@pytest.mark.parametrize("at", POINTS)
async def test_a_handler_without_transaction_is_repeated_unless_it_was_written_down(lite: Harness, shop: Shop, at: At) -> None:
    with lite.crash(at, subscription="mail"):
        await lite.deliver(OrderPlaced("1"))
    written = at == "after_commit_before_checkpoint"
    assert shop.mails == ["1"]
    assert ("mail" in [item.subscription for item in lite.handled]) is written
    await lite.drain()
    assert shop.mails == (["1"] if written else ["1", "1"])
    assert len(lite.handled) == 3


async def test_a_dead_process_does_not_tidy_up(lite: Harness, shop: Shop) -> None:
    # All three are in one portion: the process dies with two mails sent, and nobody writes the first one down for it.
    for order in "123":
        await lite.publish(OrderPlaced(order))
    with lite.crash("after_handler_before_close", subscription="mail", event=OrderBilled):
        await lite.drain()
    sent = list(shop.mails)
    assert [item for item in lite.handled if item.subscription == "mail"] == []
    await lite.drain()
    assert shop.mails == [*sent, "1", "2", "3"]


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize("name", ["bill", "mail"])
async def test_the_process_can_die_in_a_retry(lite: Harness, shop: Shop, count: Any, at: At, name: str) -> None:
    shop.failing[name, "1"] = 1
    await lite.deliver(OrderPlaced("1"))
    await lite.deliver(OrderPlaced("1", 2))
    with lite.crash(at, subscription=name):
        await lite.advance(seconds=10)
    await lite.drain()
    assert lite.retrying == lite.dead == lite.blocked == []
    assert await count(lite, Bill, "1") == 2
    assert lite.published(OrderBilled) == [OrderBilled("1"), OrderBilled("1", 2)]
    repeated = name == "mail" and at != "after_commit_before_checkpoint"
    assert shop.mails == ["1"] * (3 if repeated else 2)


async def test_other_handlers_of_the_dead_process_are_rolled_back_too(make: Any, shop: Shop, count: Any) -> None:
    async with make(concurrent=True) as t:
        for order in range(8):
            await t.publish(OrderPlaced(str(order)))
        with t.crash("before_commit", subscription="bill"):
            await t.drain()
        await t.drain()
        assert sorted(event.order_id for event in t.published(OrderBilled)) == sorted(map(str, range(8)))
        for order in range(8):
            assert await count(t, Bill, str(order)) == await count(t, Parcel, str(order)) == 1


async def test_several_deaths_one_after_the_other(lite: Harness, count: Any) -> None:
    with lite.crash("before_commit", subscription="bill"):
        await lite.deliver(OrderPlaced("1"))
    for at in POINTS:
        with lite.crash(at, subscription="pack"):
            await lite.drain()
        await lite.publish(OrderPlaced("2"))
    await lite.drain()
    assert await count(lite, Bill, "1") == await count(lite, Parcel, "1") == 1


async def test_with_a_synchronous_engine(tmp_path: Any) -> None:
    from tests.testing.test_blocking import sync_service

    engine = create_engine(f"sqlite:///{tmp_path / 'own.sqlite'}")
    configure(engine)
    for at in POINTS:
        async with Harness(sync_service(SQLStore(engine)), tables=Base.metadata) as t:
            with t.crash(at):
                await t.deliver(OrderPlaced("1"))
            await t.drain()
            with t.sync_sessionmaker() as session:
                assert session.query(Parcel).count() == 1
    engine.dispose()


async def test_a_crash_that_nobody_comes_to_fails_the_test(lite: Harness) -> None:
    with (
        pytest.raises(AssertionError, match=r"died at 'before_commit' of OrderBilled in 'bill', and no handler came so far"),
        lite.crash("before_commit", subscription="bill", event=OrderBilled),
    ):
        await lite.deliver(OrderPlaced("1"))
    # It does not lie in wait for the rest of the test.
    await lite.deliver(OrderPlaced("2"))
    assert len(lite.handled) == 6


async def test_without_a_block_the_harness_finds_out_in_the_end(shop: Shop) -> None:
    with pytest.raises(AssertionError, match="proves nothing"):
        async with Harness(shop.service(), tables=Base.metadata) as t:
            t.crash("before_commit")
    with pytest.raises(ZeroDivisionError):
        async with Harness(shop.service(), tables=Base.metadata) as t:
            t.crash("before_commit")
            raise ZeroDivisionError
    async with Harness(shop.service(), tables=Base.metadata) as t:
        point = t.crash("before_commit")
        await t.deliver(OrderPlaced("1"))
        assert point.reached
        assert t.handled == []


async def test_the_block_does_not_hide_an_error(lite: Harness) -> None:
    with pytest.raises(ZeroDivisionError), lite.crash("before_commit"):
        raise ZeroDivisionError
    await lite.drain()


async def test_points_are_checked(lite: Harness) -> None:
    with pytest.raises(ValueError, match="after_handler_before_close"):
        lite.crash("somewhere")  # type: ignore[arg-type]
    with lite.crash("before_commit"):
        with pytest.raises(RuntimeError, match="a process dies once"):
            lite.crash("before_commit")
        await lite.deliver(OrderPlaced("1"))


async def test_the_application_goes_on_publishing_while_its_consumers_are_dead(lite: Harness, shop: Shop) -> None:
    with lite.crash("before_commit"):
        await lite.deliver(OrderPlaced("1"))
    await lite.publish(OrderPlaced("2"))
    assert lite.published() == [OrderPlaced("2")]
    await lite.drain()
    assert sorted(shop.mails) == ["1", "2"]
