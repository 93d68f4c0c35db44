"""What the audit says of an action in many transactions that does not come to its end."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Retry, Service, Subscriptions


@pytest.fixture
async def service(world: World, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service with three dead keys; its actions take them one by one."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, retry=Retry(attempts=1))
    async def bill(event: OrderPlaced, session: AsyncSession) -> None:
        raise ValueError(event.order_id)

    service = world.service(handlers)
    async with service:
        await world.publish(service, *(OrderPlaced(key) for key in "abc"))
        await until(lambda: [state for _, state, _, _ in world.lanes()] == ["dead"] * 3)
    monkeypatch.setattr("tidings.operations._BATCH", 1)
    return service


def audited(world: World) -> list[tuple[str, int, str]]:
    return [(row[0], row[1], row[2]) for row in world.rows("select action, count, outcome from tidings_audit")]


async def test_one_that_comes_to_its_end_is_done(world: World, service: Service) -> None:
    assert await service.operations.discard(reason="test") == 3
    assert audited(world) == [("discard", 3, "done")]


async def test_one_that_fails_has_done_what_it_has_done(world: World, service: Service) -> None:
    def progress(done: int) -> None:
        if done == 2:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await service.operations.discard(reason="test", progress=progress)
    assert audited(world) == [("discard", 2, "failed: BrokenPipeError")]
    assert len(world.lanes()) == 1


async def test_one_that_is_cancelled_says_so(world: World, service: Service) -> None:
    async def discard() -> None:
        task = asyncio.current_task()
        assert task is not None
        await service.operations.discard(reason="test", progress=lambda done: None if done < 2 else void(task.cancel()))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(discard())
    assert audited(world) == [("discard", 2, "cancelled")]
    assert len(world.lanes()) == 1


def void(_: object) -> None:
    """Return nothing."""
