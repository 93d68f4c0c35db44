"""Commands go through the behaviours to their one handler, in the unit of work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.waiting import until
from tests.domain.shop import Note, Noted, Order, OrderPlaced, OrderSubmitted, Shop, StockReserved
from tidings import Publish, Subscriptions
from tidings.domain import (
    Audit,
    Call,
    Err,
    Execute,
    ExecuteSync,
    Logging,
    Ok,
    Proceed,
    Result,
    Transactional,
    Validation,
    ValidationError,
    ValidationFailed,
)
from tidings.errors import ConfigurationError, IdempotencyConflict, InvalidEvent, UnitOfWorkRolledBack


@dataclass(frozen=True)
class Place:
    name: str
    total: int = 1


@dataclass(frozen=True)
class Cancel:
    name: str


@dataclass(frozen=True)
class Summary:
    name: str
    total: int


def placing(result: Any = None) -> Subscriptions:
    """A handler of `Place` that adds an order, and returns what it is told to."""
    handlers = Subscriptions()

    @handlers.handles(Place)
    async def place(command: Place, session: AsyncSession) -> Any:
        session.add(Order(name=command.name, total=command.total))
        await session.flush()
        return result(command) if callable(result) else result

    return handlers


async def test_a_command_returns_its_value_and_commits(async_shop: Shop) -> None:
    service = async_shop.service(placing(lambda command: command.total * 2))
    assert await service.execute(Place("a", 4)) == 8
    assert async_shop.orders() == ["a"]


async def test_plain_handlers_work_with_each_kind_of_session(shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.handles(Place)
    def place(command: Place, session: Session, publish: Publish, execute: ExecuteSync) -> tuple[str, OrderPlaced | None]:
        session.add(Order(name=command.name).submit())
        session.flush()
        execute(Cancel(command.name))
        return command.name, OrderPlaced(command.name)

    @handlers.handles(Cancel)
    def cancel(command: Cancel, session: Session) -> Iterator[StockReserved]:
        session.add(Note(text=f"cancelled {command.name}"))
        yield StockReserved(command.name)

    @handlers.on(OrderSubmitted)
    def submitted(event: OrderSubmitted, session: Session) -> None:
        session.add(Note(text="submitted"))

    @handlers.validates(Place)
    def valid(command: Place, session: Session) -> Iterator[ValidationError]:
        if session.get(Order, command.name) is not None:
            yield ValidationError("name", f"{command.name!r} already exists")

    service = shop.service(handlers)
    assert await service.execute(Place("a")) == "a"
    with pytest.raises(ValidationFailed):
        await service.execute(Place("a"))
    assert shop.notes() == ["cancelled a", "submitted"]
    assert [name for name, _ in shop.log()] == ["stock.reserved", "order.placed"]
    if not shop.asynchronous:
        assert service.execute_sync(Place("b")) == "b"
        return
    with pytest.raises(ConfigurationError, match="session factory is asynchronous: `await service.execute"):
        service.execute_sync(Place("b"))


@dataclass
class Ping:
    name: str


async def test_a_command_without_a_unit_of_work_is_executed_here_and_now(async_shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.handles(Ping)
    def ping(command: Ping) -> str:
        return f"pong {command.name}"

    assert async_shop.service(handlers, behaviours=[Logging(), Validation()]).execute_sync(Ping("a")) == "pong a"
    with pytest.raises(ConfigurationError, match=r"Audit\(\) writes to a store with an asynchronous engine: `await service.execute"):
        async_shop.service(handlers, attach=False, behaviours=[Audit(), Logging()]).execute_sync(Ping("a"))


class TestEventsOfTheReturnValue:
    """What a handler returns or yields is published, if it is an event of a contract."""

    @pytest.mark.parametrize(
        ("returned", "value", "events"),
        [
            (("v", OrderPlaced("a")), "v", ["order.placed"]),
            (("v", OrderPlaced("a"), None, StockReserved("a")), "v", ["order.placed", "stock.reserved"]),
            (("v", [OrderPlaced("a"), StockReserved("a")]), "v", ["order.placed", "stock.reserved"]),
            ((OrderPlaced("a"), StockReserved("a")), None, ["order.placed", "stock.reserved"]),
            (OrderPlaced("a"), None, ["order.placed"]),
            ((1, 2), (1, 2), []),
            ((Ok("v"), OrderPlaced("a")), Ok("v"), ["order.placed"]),
        ],
    )
    async def test_a_tuple(self, async_lite: Shop, returned: Any, value: Any, events: list[str]) -> None:
        service = async_lite.service(placing(returned))
        assert await service.execute(Place("a")) == value
        assert [name for name, _ in async_lite.log()] == events

    async def test_an_annotated_tuple_with_none_for_the_event(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession) -> tuple[str, OrderPlaced | None]:
            return "v", None

        assert await async_lite.service(handlers).execute(Place("a")) == "v"
        assert async_lite.log() == []

    @pytest.mark.parametrize("nothing", [(None,), ([],), ()])
    async def test_a_tuple_that_begins_with_an_err_is_rolled_back_whatever_its_annotation(self, async_lite: Shop, nothing: Any) -> None:
        service = async_lite.service(placing((Err("no"), *nothing)))
        assert await service.execute(Place("a")) == Err("no")
        assert async_lite.orders() == []

    async def test_an_annotation_with_a_result_can_be_resolved(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession) -> tuple[Result[tuple[int, None], str], OrderPlaced | None]:
            return Ok((1, None)), None

        assert get_type_hints(place)["return"] == tuple[Result[tuple[int, None], str], OrderPlaced | None]
        assert await async_lite.service(handlers).execute(Place("a")) == Ok((1, None))

    async def test_an_async_generator(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession) -> AsyncIterator[OrderPlaced | str]:
            yield OrderPlaced(command.name)
            session.add(Order(name=command.name))
            await session.flush()
            yield "the value"

        assert await async_lite.service(handlers).execute(Place("a")) == "the value"
        assert async_lite.log() == [("order.placed", {"order_id": "a", "total": 0})]

    async def test_something_among_the_events_that_is_none(self, async_lite: Shop) -> None:
        service = async_lite.service(placing(("v", OrderPlaced("a"), 42)))
        with pytest.raises(InvalidEvent, match="returned 42 among the events"):
            await service.execute(Place("a"))
        assert (async_lite.orders(), async_lite.log()) == ([], [])

    async def test_a_failure_publishes_nothing(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession) -> AsyncIterator[OrderPlaced]:
            yield OrderPlaced(command.name)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await async_lite.service(handlers).execute(Place("a"))
        assert async_lite.log() == []


class TestResults:
    """`Err` rolls back, publishes nothing, and is returned."""

    async def test_err(self, async_shop: Shop) -> None:
        service = async_shop.service(placing((Err("sold out"), OrderPlaced("a"))))
        result = await service.execute(Place("a"))
        assert result == Err("sold out")
        assert not result.is_ok
        assert (async_shop.orders(), async_shop.log()) == ([], [])

    async def test_commit_on_err(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place, commit_on_err=True)
        async def place(command: Place, session: AsyncSession) -> tuple[Result[str, str], StockReserved]:
            session.add(Order(name=command.name))
            return Err("noted"), StockReserved("a")

        assert await async_lite.service(handlers).execute(Place("a")) == Err("noted")
        assert async_lite.orders() == ["a"]
        assert [name for name, _ in async_lite.log()] == ["stock.reserved"]


class TestValidation:
    """All validators speak, and nothing is touched when one of them finds something."""

    @staticmethod
    def handlers() -> Subscriptions:
        handlers = placing("done")

        @handlers.validates(Place)
        def positive(command: Place) -> ValidationError | None:
            return ValidationError("total", "must be positive") if command.total <= 0 else None

        @handlers.validates(object)
        def named(command: Any) -> list[ValidationError]:
            return [] if command.name else [ValidationError("name", "is missing"), ValidationError("name", "is too short")]

        @handlers.validates(Place)
        async def unique(command: Place, session: AsyncSession) -> AsyncIterator[ValidationError]:
            if await session.scalar(select(func.count()).where(Order.name == command.name)):
                yield ValidationError(context="name", message=f"{command.name!r} already exists")

        return handlers

    @pytest.mark.parametrize("behaviours", [None, [Validation(), Transactional()], [Transactional(), Validation()]])
    async def test_all_errors_at_once(self, async_lite: Shop, behaviours: Any) -> None:
        service = async_lite.service(self.handlers(), **({} if behaviours is None else {"behaviours": behaviours}))
        with pytest.raises(ValidationFailed, match="Place is not valid; total: must be positive; name: is missing") as caught:
            await service.execute(Place("", 0))
        assert [error.context for error in caught.value.errors] == ["total", "name", "name"]
        assert async_lite.orders() == []
        assert await service.execute(Place("a")) == "done"
        with pytest.raises(ValidationFailed, match="'a' already exists"):
            await service.execute(Place("a"))

    async def test_a_validator_that_says_something_else(self, async_lite: Shop) -> None:
        handlers = placing()

        @handlers.validates(Place)
        def wrong(command: Place) -> Any:
            return "no"

        with pytest.raises(ConfigurationError, match="wrong returned 'no'"):
            await async_lite.service(handlers).execute(Place("a"))


class TestInside:
    """Commands that are executed inside something join its transaction."""

    @staticmethod
    def handlers(*, swallow: bool = False) -> Subscriptions:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession, execute: Execute) -> Result[str, str]:
            session.add(Order(name=command.name))
            if swallow:
                try:
                    await execute(Cancel(command.name))
                except ValueError:
                    return Ok("swallowed")
            result = await execute(Cancel(command.name))
            return Ok("placed") if result.is_ok else Ok("went on")

        @handlers.handles(Cancel)
        async def cancel(command: Cancel, session: AsyncSession) -> Result[str, str]:
            session.add(Note(text=command.name))
            await session.flush()
            if command.name == "raise":
                raise ValueError
            return Err("no") if command.name == "err" else Ok("cancelled")

        return handlers

    async def test_a_nested_command(self, async_shop: Shop) -> None:
        service = async_shop.service(self.handlers())
        assert await service.execute(Place("a")) == Ok("placed")
        assert (async_shop.orders(), async_shop.notes()) == (["a"], ["a"])

    @pytest.mark.parametrize("name", ["raise", "err"])
    async def test_a_nested_failure_that_is_swallowed(self, async_shop: Shop, name: str) -> None:
        service = async_shop.service(self.handlers(swallow=True))
        with pytest.raises(UnitOfWorkRolledBack):
            await service.execute(Place(name))
        assert (async_shop.orders(), async_shop.notes()) == ([], [])

    async def test_an_event_handler(self, async_shop: Shop) -> None:
        handlers = self.handlers()
        tries: list[str] = []

        @handlers.subscribe(OrderPlaced)
        async def on_placed(event: OrderPlaced, execute: Execute) -> None:
            tries.append(event.order_id)
            if event.order_id == "err" and len(tries) > 2:
                return
            await execute(Cancel(event.order_id))

        service = async_shop.service(handlers)
        async with service:
            await async_shop.transact(lambda session: service.publish(session, OrderPlaced("a")))
            await until(lambda: async_shop.notes() == ["a"])
            await async_shop.transact(lambda session: service.publish(session, OrderPlaced("err")))
            await until(lambda: async_shop.rows("select error_type from tidings_deliveries") != [])
        assert async_shop.rows("select error_type from tidings_deliveries") == [("tidings.errors.UnitOfWorkRolledBack",)]
        assert async_shop.notes() == ["a"]

    async def test_a_plain_event_handler(self, shop: Shop) -> None:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced)
        def on_placed(event: OrderPlaced, session: Session, execute: ExecuteSync) -> None:
            execute(Cancel(event.order_id))
            assert session.scalar(select(func.count()).select_from(Note)) == 1

        @handlers.handles(Cancel)
        def cancel(command: Cancel, session: Session) -> StockReserved:
            session.add(Note(text=command.name))
            return StockReserved(command.name)

        service = shop.service(handlers)
        async with service:
            await shop.transact(lambda session: service.publish(session, OrderPlaced("a")))
            await until(lambda: shop.notes() == ["a"])
        assert [name for name, _ in shop.log()] == ["order.placed", "stock.reserved"]

    async def test_a_domain_handler(self, async_lite: Shop) -> None:
        handlers = self.handlers()

        @handlers.on(Noted)
        async def noted(event: Noted, execute: Execute) -> None:
            await execute(Cancel(event.text))

        service = async_lite.service(handlers)
        await async_lite.transact(lambda session: service.record(session, Noted("a")))
        with pytest.raises(UnitOfWorkRolledBack):
            await async_lite.transact(lambda session: service.record(session, Noted("err")))
        assert async_lite.notes() == ["a"]


class TestIdempotency:
    """A command under a key has its effect once."""

    @staticmethod
    def handlers(result: Any, seen: list[str]) -> Subscriptions:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def place(command: Place, session: AsyncSession) -> tuple[Summary, OrderPlaced]:
            seen.append(command.name)
            session.add(Order(name=command.name, total=command.total))
            await session.flush()
            return Summary(command.name, command.total), OrderPlaced(command.name)

        @handlers.validates(Place)
        async def unique(command: Place, session: AsyncSession) -> ValidationError | None:
            return ValidationError("name", "exists") if await session.get(Order, command.name) else None

        @handlers.handles(Cancel)
        async def cancel(command: Cancel, session: AsyncSession) -> Result[int, str]:
            seen.append(command.name)
            return Ok(1) if command.name == "good" else Err("no")

        return handlers

    async def test_the_second_call_gets_the_stored_result(self, async_shop: Shop) -> None:
        seen: list[str] = []
        service = async_shop.service(self.handlers(None, seen))
        first = await service.execute(Place("a", 3), idempotency_key="k")
        again = await service.execute(Place("a", 3), idempotency_key="k")
        assert first == again == Summary("a", 3)
        assert seen == ["a"]
        assert len(async_shop.log()) == 1
        with pytest.raises(IdempotencyConflict, match="Place with other values"):
            await service.execute(Place("a", 4), idempotency_key="k")
        with pytest.raises(IdempotencyConflict, match="command Place"):
            await service.execute(Cancel("a"), idempotency_key="k")

    @pytest.mark.parametrize("key", ["", "a\nb", "k" * 201, "k" * 100_000])
    async def test_a_key_that_cannot_be_is_refused_and_repeated_in_short(self, async_shop: Shop, key: str) -> None:
        seen: list[str] = []
        service = async_shop.service(self.handlers(None, seen))
        with pytest.raises(ConfigurationError, match=r"idempotency_key='.* is not a text of 1 to 200 printable characters") as refused:
            await service.execute(Place("a", 3), idempotency_key=key)
        assert len(str(refused.value)) < 150
        assert not seen

    async def test_results_come_back_as_results_and_an_err_is_tried_again(self, async_shop: Shop) -> None:
        seen: list[str] = []
        service = async_shop.service(self.handlers(None, seen))
        for _ in range(2):
            assert await service.execute(Cancel("good"), idempotency_key="good") == Ok(1)
            assert await service.execute(Cancel("bad"), idempotency_key="bad") == Err("no")
        assert seen == ["good", "bad", "bad"]

    async def test_of_two_at_once_one_wins_and_the_other_gets_its_result(self, async_shop: Shop) -> None:
        seen: list[str] = []
        service = async_shop.service(self.handlers(None, seen))
        results = await asyncio.gather(*(service.execute(Place("a", 3), idempotency_key="k") for _ in range(5)))
        assert results == [Summary("a", 3)] * 5
        assert seen == ["a"]
        assert len(async_shop.log()) == 1

    async def test_a_failure_frees_the_key(self, async_shop: Shop) -> None:
        seen: list[str] = []
        service = async_shop.service(self.handlers(None, seen))
        await service.execute(Place("a", 3))
        with pytest.raises(ValidationFailed):
            await service.execute(Place("a", 3), idempotency_key="k")
        assert await service.execute(Place("b"), idempotency_key="k") == Summary("b", 1)

    async def test_without_the_behaviour_a_key_is_refused(self, async_lite: Shop) -> None:
        service = async_lite.service(placing(), behaviours=[Transactional()])
        with pytest.raises(ConfigurationError, match=r"Idempotency\(\)"):
            await service.execute(Place("a"), idempotency_key="k")


async def test_behaviours_run_from_the_outside_inward(async_lite: Shop) -> None:
    seen: list[str] = []

    async def mine(call: Call, proceed: Proceed) -> Any:
        seen.append(f"before {call.name}")
        result = await proceed()
        seen.append("after")
        return result + "!"

    service = async_lite.service(placing("done"), behaviours=[mine, Transactional()])
    assert await service.execute(Place("a")) == "done!"
    assert seen == ["before Place", "after"]


async def test_the_log_tells_of_each_command(async_lite: Shop, caplog: pytest.LogCaptureFixture) -> None:
    service = async_lite.service(placing("done"), behaviours=[Logging(), Transactional()])
    with caplog.at_level(logging.INFO, "tidings.commands"):
        await service.execute(Place("a"))
        with pytest.raises(Exception, match="UNIQUE"):
            await service.execute(Place("a"))
    assert [record.outcome for record in caplog.records] == ["succeeded", "failed"]  # type: ignore[attr-defined]


class TestMistakes:
    """Found at start, or at the first use."""

    async def test_two_handlers(self, async_lite: Shop) -> None:
        with pytest.raises(ConfigurationError, match="Place has two handlers"):
            await async_lite.service(placing(), placing()).start()

    async def test_no_handler(self, async_lite: Shop) -> None:
        with pytest.raises(ConfigurationError, match=r"@handlers\.handles\(Cancel\)"):
            await async_lite.service(placing()).execute(Cancel("a"))

    async def test_an_integration_event(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(OrderPlaced)
        def wrong(command: OrderPlaced) -> None: ...

        with pytest.raises(ConfigurationError, match="subscribe to it"):
            await async_lite.service(handlers).start()

    async def test_an_unknown_parameter(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        def wrong(command: Place, what: Summary) -> None: ...

        with pytest.raises(ConfigurationError, match="'what' cannot be resolved"):
            await async_lite.service(handlers).start()

    async def test_a_return_annotation_that_cannot_be_read(self, async_lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.handles(Place)
        async def wrong(command: Place) -> tuple[int, Elsewhere | None]: ...  # type: ignore[name-defined]  # noqa: F821

        with pytest.raises(ConfigurationError, match=r"'tuple\[int, Elsewhere \| None\]' of what it returns cannot be resolved"):
            await async_lite.service(handlers).start()

    async def test_an_async_handler_with_synchronous_sessions(self, lite: Shop) -> None:
        with pytest.raises(ConfigurationError, match="attach an async_sessionmaker"):
            await lite.service(placing()).start()

    async def test_a_class_instead_of_a_behaviour(self, async_lite: Shop) -> None:
        with pytest.raises(ConfigurationError, match="give instances"):
            async_lite.service(placing(), behaviours=[Validation])

    async def test_no_transaction(self, async_lite: Shop) -> None:
        with pytest.raises(ConfigurationError, match=r"put Transactional\(\)"):
            await async_lite.service(placing(), behaviours=[]).execute(Place("a"))
