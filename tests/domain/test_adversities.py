"""Sessions and commands whose owner goes on where a failure should have ended everything, and whose parts outlive their transaction."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session

from tests.consume.waiting import until
from tests.domain.shop import Note, Noted, Order, OrderPlaced, OrderSubmitted, Shop
from tests.domain.test_audit import Register
from tests.domain.test_audit import handlers as registering
from tidings import Retry, Subscriptions, context
from tidings.context import TENANT
from tidings.domain import Audit, Execute, ExecuteSync, Idempotency, Transactional, Validation
from tidings.errors import ConfigurationError, NoTransaction, PublishError, TransactionEnded, UnitOfWorkRolledBack


def failing(phase: Any) -> Subscriptions:
    made = Subscriptions()

    @made.converts(OrderSubmitted)
    def public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name)

    @made.on(OrderSubmitted, phase=phase)
    def fail(event: OrderSubmitted) -> None:
        raise ZeroDivisionError

    return made


@pytest.mark.parametrize("phase", ["before_save", "before_commit"])
async def test_a_session_whose_handlers_failed_does_not_commit_when_it_is_told_to_once_more(lite: Shop, phase: Any) -> None:
    lite.service(failing(phase))
    with lite.sessions() as session:
        session.add(Order(name="a").submit())
        with pytest.raises(ZeroDivisionError):
            session.commit()
        with pytest.raises(PublishError, match="roll it back"):
            session.commit()
        session.rollback()
        session.add(Order(name="b"))
        session.commit()
    assert lite.log() == []
    assert lite.orders() == ["b"]


async def test_a_converter_that_failed_is_a_handler_that_failed(lite: Shop) -> None:
    made = Subscriptions()

    @made.converts(OrderSubmitted)
    def public(event: OrderSubmitted) -> OrderPlaced:
        raise ZeroDivisionError

    lite.service(made)
    with lite.sessions() as session:
        session.add(Order(name="a").submit())
        with pytest.raises(ZeroDivisionError):
            session.commit()
        with pytest.raises(PublishError):
            session.commit()
    assert lite.orders() == []


async def test_events_are_not_given_to_another_service_s_handlers(lite: Shop) -> None:
    heard: list[str] = []
    made = Subscriptions()

    @made.on(Noted)
    def hear(event: Noted) -> None:
        heard.append(event.text)

    lite.service()
    other = lite.service(made, attach=False)
    with lite.sessions() as session:
        session.add(Order(name="a").submit())
        with pytest.raises(ConfigurationError, match="another service"):
            other.record(session, Noted("lost"))
        session.commit()
    assert heard == []


async def test_two_services_record_in_one_session_one_after_the_other(lite: Shop) -> None:
    heard: list[str] = []

    def hearing(name: str) -> Subscriptions:
        made = Subscriptions()

        @made.on(Noted)
        def hear(event: Noted) -> None:
            heard.append(f"{name} {event.text}")

        return made

    one = lite.service(hearing("one"), attach=False)
    two = lite.service(hearing("two"), attach=False)
    with lite.sessions() as session:
        one.record(session, Noted("1"))
        session.commit()
        two.record(session, Noted("2"))
        session.commit()
    assert heard == ["one 1", "two 2"]


async def test_execute_ends_with_the_handler_that_asked_for_it(async_shop: Shop) -> None:
    kept: list[Execute] = []
    made = registering()

    @made.on(Noted)
    async def keep(event: Noted, execute: Execute) -> None:
        kept.append(execute)

    service = async_shop.service(made)
    async with async_shop.sessions() as session, session.begin():
        service.record(session, Noted("x"))
    with pytest.raises(NoTransaction):
        await kept[0](Register("late"))
    assert async_shop.notes() == []


async def test_a_command_that_fails_in_a_session_of_one_s_own_is_audited(shop: Shop) -> None:
    made = registering()

    if shop.asynchronous:

        @made.on(Noted)
        async def run(event: Noted, execute: Execute) -> None:
            await execute(Register("ok"))
            await execute(Register(event.text))

    else:

        @made.on(Noted)
        def run_sync(event: Noted, execute: ExecuteSync) -> None:
            execute(Register("ok"))
            execute(Register(event.text))

    service = shop.service(made, behaviours=[Audit(), Transactional(), Idempotency(), Validation()])
    with pytest.raises(ZeroDivisionError):
        await shop.transact(lambda session: service.record(session, Noted("raise")))
    assert shop.rows("select outcome from tidings_commands order by id") == [("rolled back",), ("failed",)]
    await shop.transact(lambda session: service.record(session, Noted("fine")))
    assert len(shop.rows("select outcome from tidings_commands where outcome = 'succeeded'")) == 2


async def test_a_handler_does_not_return_before_the_commands_that_it_executes(async_lite: Shop) -> None:
    made = Subscriptions()
    tasks: list[asyncio.Task[Any]] = []

    @made.handles(Register)
    async def register(command: Register, session: AsyncSession) -> None:
        session.add(Note(text=command.name))
        await asyncio.sleep(0)

    @made.on(Noted)
    async def forget_to_wait(event: Noted, execute: Execute) -> None:
        tasks.append(asyncio.ensure_future(execute(Register("half"))))  # type: ignore[arg-type]
        await asyncio.sleep(0)

    service = async_lite.service(made)
    with pytest.raises(UnitOfWorkRolledBack, match="await it"):
        async with async_lite.sessions() as session, session.begin():
            service.record(session, Noted("x"))
    await asyncio.wait(tasks)
    assert async_lite.notes() == []


@dataclass(frozen=True)
class Slow:
    name: str


async def test_commands_of_event_handlers_are_audited_however_their_transaction_ends(async_shop: Shop) -> None:
    made = registering()

    @made.subscribe(OrderPlaced, retry=Retry(attempts=1))
    async def place(event: OrderPlaced, execute: Execute) -> None:
        await execute(Register("ok"))
        await execute(Register(event.order_id))

    service = async_shop.service(made, behaviours=[Audit(), Transactional(), Idempotency(), Validation()])
    async with service:
        await async_shop.transact(lambda session: service.publish(session, OrderPlaced("raise")))
        await until(lambda: len(async_shop.rows("select outcome from tidings_commands")) == 2)
        assert async_shop.rows("select outcome from tidings_commands order by id") == [("rolled back",), ("failed",)]
        await async_shop.transact(lambda session: service.publish(session, OrderPlaced("fine")))
        await until(lambda: async_shop.notes() == ["ok", "fine"])
    assert async_shop.rows("select outcome from tidings_commands order by id")[2:] == [("succeeded",), ("succeeded",)]


async def test_commands_of_plain_event_handlers_are_audited_too(lite: Shop) -> None:
    made = registering()

    @made.subscribe(OrderPlaced, retry=Retry(attempts=1))
    def place(event: OrderPlaced, execute: ExecuteSync) -> None:
        execute(Register("ok"))
        execute(Register(event.order_id))

    service = lite.service(made, behaviours=[Audit(), Transactional(), Idempotency(), Validation()])
    async with service:
        await lite.transact(lambda session: service.publish(session, OrderPlaced("raise")))
        await until(lambda: len(lite.rows("select outcome from tidings_commands")) == 2)
    assert lite.rows("select outcome from tidings_commands order by id") == [("rolled back",), ("failed",)]


async def test_a_cancelled_command_is_audited_as_failed_and_has_done_nothing(async_shop: Shop) -> None:
    made = Subscriptions()
    begun = asyncio.Event()

    @made.handles(Slow)
    async def slow(command: Slow, session: AsyncSession) -> None:
        session.add(Note(text=command.name))
        await session.flush()
        begun.set()
        await asyncio.Event().wait()

    service = async_shop.service(made, behaviours=[Audit(), Transactional(), Idempotency(), Validation()])
    task = asyncio.create_task(service.execute(Slow("a"), idempotency_key="k"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert async_shop.rows("select outcome, error_type from tidings_commands") == [("failed", "asyncio.exceptions.CancelledError")]
    assert async_shop.notes() == []
    assert async_shop.rows("select key from tidings_command_keys") == []


async def test_a_best_effort_handler_has_the_context_of_the_event_that_led_to_it(async_shop: Shop) -> None:
    made = Subscriptions()
    seen: list[tuple[str, str | None]] = []

    @made.subscribe(OrderPlaced)
    async def place(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Order(name=event.order_id).submit())

    @made.on(OrderSubmitted, phase="after_commit", durable=False)
    async def tell(event: OrderSubmitted) -> None:
        await asyncio.sleep(0)
        seen.append((event.order.name, TENANT.get()))

    service = async_shop.service(made)

    def publish(session: Session) -> None:
        for name in "abcdef":
            with context.bind(tenant=f"t-{name}"):
                service.publish(session, OrderPlaced(name))

    async with service:
        await async_shop.transact(publish)
        await until(lambda: len(seen) == 6)
    assert sorted(seen) == [(name, f"t-{name}") for name in "abcdef"]
    assert TENANT.get() is None


@pytest.mark.parametrize("text", ["lone \ud800", "nul \0", "big"])
async def test_commands_whose_values_are_no_text_for_a_database_are_audited_all_the_same(async_shop: Shop, text: str) -> None:
    made = Subscriptions()

    @made.handles(Slow)
    async def quick(command: Slow, session: AsyncSession) -> str:
        session.add(Note(text="done"))
        return "done"

    service = async_shop.service(made, behaviours=[Audit(), Transactional(), Idempotency(), Validation()])
    value: Any = 10**30 if text == "big" else text
    assert await service.execute(Slow(value)) == "done"
    (row,) = await service.audited()
    assert (row.outcome, list(json.loads(row.data))) == ("succeeded", ["name"])


@pytest.mark.filterwarnings("ignore:transaction already deassociated")
@pytest.mark.parametrize("how", ["commit", "rollback", "error"])
async def test_a_handler_that_ends_the_transaction_behind_the_session_s_back_is_told_so(async_shop: Shop, how: str) -> None:
    made = Subscriptions()

    async def end(session: AsyncSession) -> None:
        if how == "error":
            session.add(Order(name="there"))
            with pytest.raises(IntegrityError):
                await session.flush()
        else:
            await getattr(await session.connection(), how)()

    @made.on(OrderSubmitted)
    async def behind(event: OrderSubmitted, session: AsyncSession) -> None:
        await end(session)

    @made.handles(Slow)
    async def slow(command: Slow, session: AsyncSession) -> OrderPlaced:
        session.add(Note(text="x"))
        await session.flush()
        await end(session)
        return OrderPlaced("a")

    made.converts(OrderSubmitted)(lambda event: OrderPlaced(event.order.name))
    service = async_shop.service(made)
    async with async_shop.sessions() as session, session.begin():
        session.add(Order(name="there"))
    with pytest.raises(TransactionEnded):
        async with async_shop.sessions() as session, session.begin():
            session.add(Order(name="a").submit())
    with pytest.raises((TransactionEnded, NoTransaction)):
        await service.execute(Slow("a"))
    assert async_shop.log() == []
    assert async_shop.orders() == (["a", "there"] if how == "commit" else ["there"])


async def test_a_block_of_the_wrong_kind_leaves_a_scoped_session_as_it_was(async_lite: Shop) -> None:
    service = async_lite.service(attach=False)
    assert isinstance(async_lite.engine, AsyncEngine)
    sessions = async_scoped_session(async_sessionmaker(async_lite.engine), scopefunc=asyncio.current_task)
    service.attach(sessions)
    with pytest.raises(ConfigurationError, match="asynchronous"), service.unit_of_work():
        pass
    async with service.unit_of_work() as unit:
        unit.session.add(Note(text="x"))
    await sessions.remove()
    assert async_lite.notes() == ["x"]
