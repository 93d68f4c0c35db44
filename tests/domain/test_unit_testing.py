"""Handlers are plain functions: unit tests call them, with recorders and without a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.domain.shop import Noted, OrderPlaced, Shop, StockReserved, orders
from tests.domain.test_transactions import Basket, Cart, Own, Saga
from tidings import Publish
from tidings.domain import Execute, UnitOfWork
from tidings.errors import ContractError, NoTransaction
from tidings.testing import InMemoryUnitOfWork, RecordingExecute, RecordingPublish, recording


@dataclass(frozen=True)
class Pay:
    order_id: str


async def place(command: Pay, publish: Publish, execute: Execute) -> str:
    publish(OrderPlaced(command.order_id))
    return str(await execute(Pay(command.order_id), idempotency_key="k"))


def work(uow: UnitOfWork | InMemoryUnitOfWork, *aggregates: Any) -> None:
    for aggregate in aggregates:
        uow.track(aggregate)
    uow.publish(StockReserved("a"))


async def test_a_command_handler() -> None:
    publish, execute = RecordingPublish(orders), RecordingExecute({Pay: lambda command: f"paid {command.order_id}"})
    assert await place(Pay("a"), publish, execute) == "paid a"
    publish.assert_published(OrderPlaced, order_id="a")
    execute.assert_executed(Pay, order_id="a")
    assert execute.keys == ["k"]
    with pytest.raises(AssertionError, match="not executed: Pay"):
        execute.assert_executed(Pay, order_id="b")
    with pytest.raises(AssertionError, match="executed: Pay"):
        execute.assert_nothing_executed()
    RecordingExecute().assert_nothing_executed()


async def test_a_unit_of_work_in_memory() -> None:
    aggregates = [Saga(), Basket(), Cart()]
    own = Own()
    with InMemoryUnitOfWork(orders) as uow:
        work(uow, *aggregates, own)
        aggregates[0].step("a")
        aggregates[1].put("b")
        aggregates[2].put("c")
        own.list.append(Noted("d"))
        uow.record(Noted("e"))
        assert uow.committed is None
    assert uow.committed
    assert {event.text for event in uow.events} == {"a", "b", "c", "d", "e"}
    uow.assert_recorded(Noted, text="a")
    uow.publish.assert_published_once(StockReserved)
    with pytest.raises(AssertionError, match="not recorded: Noted"):
        uow.assert_recorded(Noted, text="x")
    with pytest.raises(NoTransaction), uow:
        pass
    with pytest.raises(ContractError):
        InMemoryUnitOfWork().publish(StockReserved("a"))


async def test_a_unit_of_work_in_memory_that_rolls_back() -> None:
    saga = Saga()
    saga.step("a")
    uow = InMemoryUnitOfWork(orders)
    with pytest.raises(ZeroDivisionError):
        async with uow:
            uow.track(saga)
            raise ZeroDivisionError
    assert not uow.committed
    assert len(saga.pull_events()) == 1
    async with InMemoryUnitOfWork() as other:
        other.rollback()
    assert not other.committed


async def test_recording_a_service(async_lite: Shop) -> None:
    service = async_lite.service()
    with recording(service) as recorded:
        async with service.unit_of_work() as uow:
            work(uow, Saga())
            uow.record(Noted("a"))
        service.record(None, Noted("b"))  # type: ignore[arg-type]
        saga = Saga()
        saga.step("c")
        service.track(None, saga)  # type: ignore[arg-type]
        assert await service.execute(Pay("a")) is None
        service.execute_sync(Pay("b"))
    recorded.assert_published(StockReserved, order_id="a")
    assert [event.text for event in recorded.domain_events] == ["a", "b", "c"]
    recorded.execute.assert_executed(Pay, order_id="b")
    assert "execute" not in vars(service)
