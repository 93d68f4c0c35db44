"""Dead events: they block their key or are set aside, and operators put them right."""

from __future__ import annotations

from typing import Literal

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Retry, Service, Subscriptions
from tidings.errors import ConfigurationError


class Broken:
    """A service whose handler fails for some events until it is mended."""

    def __init__(self, world: World, on_dead: Literal["block", "continue"] = "block", attempts: int = 1) -> None:
        self.bad: set[tuple[str, int]] = set()
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=attempts, base=0.01, max=0.01), on_dead=on_dead)
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "bill", event)
            if (event.order_id, event.number) in self.bad:
                raise ValueError(f"order {event.order_id} is broken")

        self.service: Service = world.service(handlers)


async def test_a_dead_event_blocks_its_key_until_it_is_redriven_and_then_all_run_in_order(world: World) -> None:
    broken = Broken(world, attempts=2)
    broken.bad = {("a", 0)}
    async with broken.service as service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(3) for key in "ab"))
        await until_equal(world.lanes, [("a", "dead", 3, 2)])
        await until_equal(world.effects, [("b", 0), ("b", 1), ("b", 2)])
        (blocked,) = await service.operations.blocked()
        assert (blocked.key, blocked.depth, blocked.event, blocked.error) == ("a", 3, "order.placed", "ValueError: order a is broken")
        assert await service.operations.count(subscription="shop/bill") == (1, 3)
        assert await service.operations.count(subscription="other") == (0, 0)
        broken.bad.clear()
        assert await service.operations.redrive(event="order.placed", key="a", fingerprint=blocked.fingerprint) == 1
        await until_equal(world.lanes, [])
    assert world.effects()[3:] == [("a", 0), ("a", 1), ("a", 2)]


async def test_a_discarded_head_lets_the_rest_of_its_key_go_on_and_never_runs_again(world: World) -> None:
    broken = Broken(world)
    broken.bad = {("a", 0)}
    async with broken.service as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(3)))
        await until_equal(world.lanes, [("a", "dead", 3, 1)])
        with pytest.raises(ConfigurationError, match="reason"):
            await service.operations.discard(reason=" ")
        assert await service.operations.discard(reason="test order", key="a") == 1
        await until_equal(world.lanes, [])
    assert world.effects() == [("a", 1), ("a", 2)]
    broken.bad.clear()
    await world.read_again()
    async with broken.service as service:
        await until(lambda: service.counters.of("duplicates") >= 3)
    assert world.effects() == [("a", 1), ("a", 2)]


async def test_everything_of_a_dead_key_can_be_discarded(world: World) -> None:
    broken = Broken(world)
    broken.bad = {("a", 0)}
    async with broken.service as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(3)), OrderPlaced("b", 0))
        await until_equal(world.lanes, [("a", "dead", 3, 1)])
        assert await service.operations.discard(reason="customer left", whole=True) == 3
        assert world.lanes() == []
        assert world.deliveries() == []
    assert world.effects() == [("b", 0)]


async def test_with_on_dead_continue_a_dead_event_is_set_aside_and_its_key_goes_on(world: World) -> None:
    broken = Broken(world, on_dead="continue", attempts=2)
    broken.bad = {("a", 1)}
    async with broken.service as service:
        await world.publish(service, *(OrderPlaced("a", number) for number in range(4)))
        await until_equal(world.effects, [("a", 0), ("a", 2), ("a", 3)])
        await until_equal(world.lanes, [("a", "dead", 1, 2)])
    # A copy that is read again does not run out of order.
    broken.bad.clear()
    await world.read_again()
    async with broken.service as service:
        await until(lambda: service.counters.of("duplicates") >= 4)
        assert world.effects() == [("a", 0), ("a", 2), ("a", 3)]
        assert await service.operations.redrive() == 1
        await until_equal(world.lanes, [])
    assert world.effects() == [("a", 0), ("a", 2), ("a", 3), ("a", 1)]


async def test_a_copy_of_a_redriven_event_that_was_set_aside_leaves_it_to_its_lane(world: World) -> None:
    broken = Broken(world, on_dead="continue")
    broken.bad = {("a", 0)}
    async with broken.service as service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("a", 1))
        await until_equal(world.lanes, [("a", "dead", 1, 1)])
        await until_equal(world.effects, [("a", 1)])
    broken.bad.clear()
    # The lane is ready to run, and nobody has run it yet, when the reader comes to the event once more.
    assert await broken.service.operations.redrive() == 1
    await world.execute("update tidings_lanes set due_at = '9999-01-01 00:00:00'")
    await world.read_again()
    async with broken.service as service:
        await until(lambda: service.counters.of("duplicates") >= 2)
        assert world.effects() == [("a", 1)]
        await world.execute("update tidings_lanes set due_at = '2000-01-01 00:00:00'")
        await until_equal(world.lanes, [])
    assert world.effects() == [("a", 1), ("a", 0)]


async def test_lanes_that_are_redriven_at_a_rate_become_due_one_after_another(world: World) -> None:
    broken = Broken(world)
    broken.bad = {(f"k{number}", 0) for number in range(5)}
    async with broken.service as service:
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(5)))
        await until(lambda: [state for _, state, _, _ in world.lanes()] == ["dead"] * 5)
    broken.bad.clear()
    assert await broken.service.operations.redrive(rate=0.001) == 5
    clock = "julianday(due_at) * 86400" if world.kind == "sqlite" else "extract(epoch from due_at)"
    due = [float(row[0]) for row in world.rows(f"select {clock} from tidings_lanes order by due_at")]
    gaps = [after - before for before, after in zip(due, due[1:], strict=False)]
    assert all(gap == pytest.approx(1000, abs=5) for gap in gaps)


async def test_a_paused_subscription_takes_nothing_until_it_is_resumed_also_after_a_restart(world: World) -> None:
    broken = Broken(world)
    async with broken.service as service:
        assert await service.operations.pause("shop/bill")
        assert not await service.operations.pause("shop/nothing")
    async with broken.service as service:
        await world.publish(service, OrderPlaced("a"))
        # It is read, and held back.
        await until(lambda: service._runtime is not None and not service._runtime.receivers[0].idle)
        assert world.effects() == []
        assert await service.operations.resume("bill")
        await until_equal(world.effects, [("a", 0)])


async def test_a_subscription_that_has_parked_too_much_takes_nothing_more(world: World) -> None:
    broken = Broken(world)
    broken.bad = {(f"k{number}", 0) for number in range(3)}
    service = broken.service
    service.tuning.max_parked = 3
    async with service:
        await world.publish(service, *(OrderPlaced(f"k{number}") for number in range(3)))
        await until(lambda: len(world.lanes()) == 3)
        await until(lambda: service._runtime is not None and service._runtime.receivers[0].pools[0].paused)
        await world.publish(service, OrderPlaced("good"))
        await until(lambda: service._runtime is not None and not service._runtime.receivers[0].idle)
        assert world.effects() == []
        await service.operations.discard(reason="test", key="k0")
        await until_equal(world.effects, [("good", 0)])
