"""One transaction for everything that belongs together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.domain.shop import Note, Noted, Order, OrderPlaced, OrderSubmitted, Shop
from tests.domain.test_transactions import Saga
from tidings import Service, Subscriptions
from tidings.errors import ConfigurationError, NoTransaction, TransactionEnded, UnitOfWorkRolledBack


def noting() -> Subscriptions:
    handlers = Subscriptions()

    @handlers.on(Noted)
    def note(event: Noted, session: Session) -> None:
        session.add(Note(text=event.text))

    return handlers


@pytest.fixture
async def service(async_shop: Shop) -> Service:
    return async_shop.service(noting())


async def test_it_commits_once_with_events_and_tracked_objects(async_shop: Shop, service: Service) -> None:
    saga = Saga()
    saga.step("before")
    async with service.unit_of_work() as uow:
        assert isinstance(uow.session, AsyncSession)
        uow.session.add(Order(name="a"))
        uow.track(saga)
        uow.record(Noted("by hand"))
        uow.publish(OrderPlaced("a"), key="other")
        assert async_shop.orders() == []
    assert async_shop.orders() == ["a"]
    assert async_shop.notes() == ["before", "by hand"]
    assert [name for name, _ in async_shop.log()] == ["order.placed"]
    with pytest.raises(NoTransaction, match="is over"):
        uow.publish(OrderPlaced("a"))


async def test_synchronous_sessions_have_an_ordinary_block(lite: Shop) -> None:
    service = lite.service(noting())
    with service.unit_of_work() as uow:
        uow.session.add(Order(name="a"))
        with service.unit_of_work() as inner:
            assert inner.session is uow.session
            inner.record(Noted("inner"))
    assert (lite.orders(), lite.notes()) == (["a"], ["inner"])
    with pytest.raises(ZeroDivisionError), service.unit_of_work() as uow:
        uow.session.add(Order(name="b"))
        raise ZeroDivisionError
    with pytest.raises(UnitOfWorkRolledBack, match="ZeroDivisionError"), service.unit_of_work() as uow:
        uow.session.add(Order(name="c"))
        with pytest.raises(ZeroDivisionError), service.unit_of_work():
            raise ZeroDivisionError
    with service.unit_of_work() as uow:
        uow.session.add(Order(name="d"))
        uow.rollback()
    assert lite.orders() == ["a"]


async def test_the_wrong_kind_of_block_is_refused(lite: Shop, async_shop: Shop, service: Service) -> None:
    with pytest.raises(ConfigurationError, match="async with"), service.unit_of_work():
        raise AssertionError
    blocking = lite.service(noting())
    with pytest.raises(ConfigurationError, match="`with service"):
        async with blocking.unit_of_work():
            raise AssertionError
    async with service.unit_of_work() as uow:  # nothing is left behind
        uow.record(Noted("a"))
    assert async_shop.notes() == ["a"]


async def test_an_exception_rolls_back(async_shop: Shop, service: Service) -> None:
    with pytest.raises(ZeroDivisionError):
        async with service.unit_of_work() as uow:
            uow.session.add(Order(name="a"))
            uow.publish(OrderPlaced("a"))
            await uow.session.flush()
            raise ZeroDivisionError
    assert (async_shop.orders(), async_shop.log()) == ([], [])


async def test_a_block_inside_another_joins_it(async_shop: Shop, service: Service) -> None:
    async with service.unit_of_work() as outer:
        outer.session.add(Order(name="a"))
        async with service.unit_of_work() as inner:
            assert inner.session is outer.session
            inner.session.add(Order(name="b"))
        assert async_shop.orders() == []
    assert async_shop.orders() == ["a", "b"]


async def test_an_inner_failure_that_is_caught_rolls_the_whole_back(async_shop: Shop, service: Service) -> None:
    with pytest.raises(UnitOfWorkRolledBack, match="ZeroDivisionError came out of an inner block") as caught:
        async with service.unit_of_work() as outer:
            outer.session.add(Order(name="a"))
            with pytest.raises(ZeroDivisionError):
                async with service.unit_of_work():
                    raise ZeroDivisionError
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert async_shop.orders() == []


async def test_a_rollback_on_purpose_is_no_error_for_who_asked(async_shop: Shop, service: Service) -> None:
    async with service.unit_of_work() as uow:
        uow.session.add(Order(name="a"))
        uow.rollback()
    with pytest.raises(UnitOfWorkRolledBack, match="asked for the rollback"):
        async with service.unit_of_work() as outer:
            outer.session.add(Order(name="b"))
            async with service.unit_of_work() as inner:
                inner.rollback()
    assert async_shop.orders() == []


async def test_a_domain_handler_joins_it_and_may_stop_it(async_shop: Shop) -> None:
    handlers = Subscriptions()
    service: Any = None

    @handlers.on(OrderSubmitted)
    async def check(event: OrderSubmitted, session: AsyncSession) -> None:
        async with service.unit_of_work() as uow:
            assert uow.session is session
            uow.session.add(Note(text=event.order.name))
            if event.order.name == "bad":
                uow.rollback()

    service = async_shop.service(handlers)
    async with service.unit_of_work() as uow:
        uow.session.add(Order(name="good").submit())
    with pytest.raises(UnitOfWorkRolledBack):
        async with service.unit_of_work() as uow:
            uow.session.add(Order(name="bad").submit())
    assert (async_shop.orders(), async_shop.notes()) == (["good"], ["good"])


async def test_other_tasks_and_threads_have_their_own(async_shop: Shop, service: Service) -> None:
    sessions: list[Any] = []
    ended = asyncio.Event()

    async def other() -> None:
        await ended.wait()
        async with service.unit_of_work() as uow:
            sessions.append(uow.session)
            uow.session.add(Order(name="b"))

    with pytest.raises(ZeroDivisionError):
        async with service.unit_of_work() as uow:
            sessions.append(uow.session)
            uow.session.add(Order(name="a"))
            task = asyncio.create_task(other())
            raise ZeroDivisionError
    ended.set()
    await task
    assert sessions[0] is not sessions[1]
    assert async_shop.orders() == ["b"]


async def test_a_commit_of_the_session_inside_the_block_is_found(async_shop: Shop, service: Service) -> None:
    with pytest.raises(TransactionEnded, match="begin_nested"):
        async with service.unit_of_work() as uow:
            await uow.session.commit()
            uow.session.add(Order(name="a"))
    assert async_shop.orders() == []


async def test_which_factory(lite: Shop) -> None:
    service = lite.service(attach=False)
    with pytest.raises(ConfigurationError, match="has no session factory"), service.unit_of_work():
        pass
    service.attach(lite.sessions)
    other = scoped_session(sessionmaker(lite.engine))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is not attached"), service.unit_of_work(other):
        pass
    service.attach(other)
    with pytest.raises(ConfigurationError, match="say which"), service.unit_of_work():
        pass
    with service.unit_of_work(other) as uow:
        uow.session.add(Order(name="a"))
        with pytest.raises(ConfigurationError, match="another session factory"), service.unit_of_work(lite.sessions):
            pass
    assert lite.orders() == ["a"]
    other.remove()
