"""Handlers are plain functions: unit tests call them, with recorders and without a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.orm import Session

from tests.domain.shop import Base, Noted, Order, OrderPlaced, OrderSubmitted, Shop, StockReserved, orders
from tests.domain.test_transactions import Basket, Cart, Own, Saga
from tests.services.databases import Database
from tidings import Publish, Subscriptions
from tidings.domain import Execute, ExecuteSync, UnitOfWork
from tidings.errors import ContractError, NoTransaction
from tidings.testing import Harness, InMemoryUnitOfWork, RecordingExecute, RecordingPublish, recording


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


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_harness_takes_the_domain_side_along(sqlite: Database, asynchronous: bool) -> None:
    shop = Shop(sqlite, asynchronous=asynchronous)  # no tables here: whoever comes here fails
    handlers = Subscriptions()

    @handlers.handles(Pay)
    def pay(command: Pay, session: Session) -> None:
        session.add(Order(name=command.order_id).submit())

    @handlers.converts(OrderSubmitted)
    def public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name)

    @handlers.subscribe(OrderPlaced)
    def again(event: OrderPlaced, execute: ExecuteSync) -> None:
        if len(event.order_id) < 3:
            execute(Pay(event.order_id + "!"))

    service = shop.service(handlers)
    bind = shop.sessions.kw["bind"]
    async with Harness(service, tables=Base.metadata) as t:
        await service.execute(Pay("a"), idempotency_key="k")
        await t.drain()
        t.assert_published(OrderPlaced, order_id="a!!")
        if asynchronous:
            async with t.sessionmaker() as session, session.begin():
                session.add(Order(name="direct").submit())
        else:
            with t.sync_sessionmaker() as session, session.begin():
                session.add(Order(name="direct").submit())
        await t.drain()
        t.assert_published(OrderPlaced, order_id="direct")
    assert shop.sessions.kw["bind"] is bind
    assert service.domain.publisher is service.publisher
