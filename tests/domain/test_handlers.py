"""Domain events are handled in the transaction that recorded them, before it commits."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from tests.domain.shop import Note, Noted, Order, OrderPlaced, OrderSubmitted, Shop, StockReserved
from tidings import Envelope, Publish, Subscriptions
from tidings.errors import ConfigurationError, DomainEventRecursion, DuplicatePublication, InvalidEvent, UnresolvedParameter


async def test_an_event_is_handled_and_converted_before_the_commit(shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.on(OrderSubmitted)
    def reserve(event: OrderSubmitted, session: Session, publish: Publish) -> None:
        session.add(Note(text=f"reserved for {event.order.name}"))
        publish(StockReserved(event.order.name))

    @handlers.converts(OrderSubmitted)
    def to_public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name, event.order.total)

    shop.service(handlers)
    await shop.transact(lambda session: session.add(Order(name="a", total=3).submit()))
    assert shop.notes() == ["reserved for a"]
    assert shop.log() == [("order.placed", {"order_id": "a", "total": 3}), ("stock.reserved", {"order_id": "a"})]


async def test_an_async_handler_is_awaited_in_the_commit_of_an_async_session(async_shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.on(OrderSubmitted)
    async def reserve(event: OrderSubmitted, session: AsyncSession, connection: AsyncConnection, publish: Publish) -> None:
        assert (await session.get_one(Order, event.order.name)) is event.order
        assert (await connection.exec_driver_sql("select count(*) from orders")).scalar_one() == 1
        session.add(Note(text="reserved"))
        await session.flush()
        publish(StockReserved(event.order.name))

    async_shop.service(handlers)
    await async_shop.transact(lambda session: session.add(Order(name="a").submit()))
    assert async_shop.notes() == ["reserved"]
    assert async_shop.log() == [("stock.reserved", {"order_id": "a"})]


async def test_what_a_handler_raises_rolls_everything_back(shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.converts(OrderSubmitted)
    def to_public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name)

    @handlers.on(OrderSubmitted)
    def refuse(event: OrderSubmitted, session: Session) -> None:
        session.add(Note(text="never"))
        raise ValueError("out of stock")

    shop.service(handlers)
    with pytest.raises(ValueError, match="out of stock") as caught:
        await shop.transact(lambda session: session.add(Order(name="a").submit()))
    assert "OrderSubmitted" in caught.value.__notes__[0]
    assert shop.orders() == []
    assert shop.notes() == []
    assert shop.log() == []


async def test_handlers_record_events_in_rounds_until_it_is_quiet(shop: Shop) -> None:
    handlers = Subscriptions()
    service: Any = None

    @handlers.on(Noted)
    def count_down(event: Noted, session: Session) -> None:
        session.add(Note(text=event.text))
        if (left := int(event.text)) > 1:
            service.record(session, Noted(str(left - 1)))

    service = shop.service(handlers)
    await shop.transact(lambda session: service.record(session, Noted("10")))
    assert shop.notes() == [str(number) for number in range(10, 0, -1)]
    with pytest.raises(DomainEventRecursion, match=r"Noted -> \(handler .*count_down\) -> Noted") as caught:
        await shop.transact(lambda session: service.record(session, Noted("11")))
    assert str(caught.value).count("count_down") == 10
    assert len(shop.notes()) == 10


async def test_before_save_comes_before_the_flush_and_before_commit_after_it(lite: Shop) -> None:
    handlers = Subscriptions()
    seen: list[tuple[str, bool]] = []

    @handlers.on(OrderSubmitted)
    def after(event: OrderSubmitted, session: Session) -> None:
        seen.append(("before_commit", event.order in session.new))

    @handlers.on(OrderSubmitted, phase="before_save")
    def before(event: OrderSubmitted, session: Session) -> None:
        seen.append(("before_save", event.order in session.new))

    lite.service(handlers)
    await lite.transact(lambda session: session.add(Order(name="a").submit()))
    assert seen == [("before_save", True), ("before_commit", False)]


async def test_a_handler_of_a_base_class_gets_all_and_the_nearest_converter_converts(lite: Shop) -> None:
    handlers = Subscriptions()

    @dataclass(frozen=True)
    class Loud(Noted):
        pass

    @handlers.on(object)
    def everything(event: object, session: Session) -> None:
        session.add(Note(text=type(event).__name__))

    @handlers.converts(Noted)
    def public(event: Noted) -> list[Any]:
        return [OrderPlaced(event.text), StockReserved(event.text)]

    @handlers.converts(Loud)
    def loud(event: Loud) -> None:
        return None

    service = lite.service(handlers)

    def work(session: Session) -> None:
        service.record(session, Noted("a"))
        service.record(session, Loud("b"))

    await lite.transact(work)
    assert lite.notes() == ["Noted", "Loud"]
    assert lite.log() == [("order.placed", {"order_id": "a", "total": 0}), ("stock.reserved", {"order_id": "a"})]


async def test_sessions_of_other_factories_are_left_alone(lite: Shop) -> None:
    handlers = Subscriptions()

    @handlers.on(OrderSubmitted)
    def never(event: OrderSubmitted) -> None:
        raise AssertionError

    lite.service(handlers)
    with sessionmaker(lite.engine)() as session, session.begin():  # type: ignore[arg-type]
        order = Order(name="a").submit()
        session.add(order)
    assert len(order.pull_events()) == 1


async def test_an_async_handler_on_a_synchronous_session_is_named(lite: Shop) -> None:
    handlers = Subscriptions()

    @handlers.on(OrderSubmitted)
    async def reserve(event: OrderSubmitted) -> None: ...

    service = lite.service(handlers)
    with pytest.raises(ConfigurationError, match="reserve is async"):
        await lite.transact(lambda session: session.add(Order(name="a").submit()))
    with pytest.raises(ConfigurationError, match="reserve is async"):
        await service.start()
    assert lite.orders() == []


async def test_what_a_converter_and_the_program_publish_alike_is_noticed(lite: Shop, caplog: pytest.LogCaptureFixture) -> None:
    lenient, strict = Subscriptions(), Subscriptions()

    def to_public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name)

    lenient.converts(OrderSubmitted)(to_public)
    strict.converts(OrderSubmitted, on_duplicate="error")(to_public)

    service = lite.service(lenient)

    def twice(session: Session) -> None:
        session.add(Order(name="a").submit())
        service.publish(session, OrderPlaced("a"))

    def different(session: Session) -> None:
        session.add(Order(name="b").submit())
        service.publish(session, OrderPlaced("b", 5))

    with caplog.at_level(logging.WARNING, "tidings.domain"):
        await lite.transact(different)
        assert not caplog.records
        await lite.transact(twice)
    assert "published twice" in caplog.text
    assert len(lite.log()) == 4
    other = Shop(lite.database, asynchronous=False)
    other.service(strict)

    def third(session: Session) -> None:
        session.add(Order(name="c").submit())
        service.publish(session, OrderPlaced("c"))

    with pytest.raises(DuplicatePublication, match=r"order\.placed c is published twice.*to_public"):
        await other.transact(third)
    assert lite.orders() == ["a", "b"]


class TestMistakesAtStart:
    """What is declared wrongly is found when the service starts, and the message names the fix."""

    @staticmethod
    async def refuse(shop: Shop, handlers: Subscriptions, match: str, kind: type[Exception] = ConfigurationError) -> None:
        service = shop.service(handlers)
        with pytest.raises(kind, match=match):
            await service.start()

    async def test_an_unknown_parameter(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(Noted)
        def wrong(event: Noted, mailer: dict[str, int]) -> None: ...

        await self.refuse(lite, handlers, "'mailer' cannot be resolved", UnresolvedParameter)

    async def test_an_envelope(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(Noted)
        def wrong(event: Noted, envelope: Envelope) -> None: ...

        await self.refuse(lite, handlers, "has no envelope", UnresolvedParameter)

    async def test_converters_in_a_circle(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.converts(Noted)
        def forth(event: Noted) -> OrderSubmitted: ...

        @handlers.converts(OrderSubmitted)
        def back(event: OrderSubmitted) -> Noted | None: ...

        await self.refuse(lite, handlers, r"cycle: Noted -> \(forth\) OrderSubmitted -> \(back\) Noted")

    async def test_an_integration_event_with_a_domain_handler(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(OrderPlaced)
        def wrong(event: OrderPlaced) -> None: ...

        await self.refuse(lite, handlers, r"subscribe to it with @handlers\.subscribe\(OrderPlaced\)")

    async def test_a_domain_event_with_a_subscription(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(Noted)
        def right(event: Noted) -> None: ...

        @handlers.subscribe(Noted)
        def wrong(event: Noted) -> None: ...

        await self.refuse(lite, handlers, r"Noted, which is a domain event.*@handlers\.on\(Noted\)")

    async def test_a_conversion_to_something_that_is_no_event(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.converts(OrderSubmitted)
        def wrong(event: OrderSubmitted) -> Noted: ...

        await self.refuse(lite, handlers, "none of the service's contracts")

    async def test_an_async_converter(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.converts(OrderSubmitted)
        async def wrong(event: OrderSubmitted) -> OrderPlaced: ...

        await self.refuse(lite, handlers, "write it with def")

    async def test_a_best_effort_handler_with_a_session(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(Noted, phase="after_commit", durable=False)
        def wrong(event: Noted, session: Session) -> None: ...

        await self.refuse(lite, handlers, "runs after the commit")

    async def test_a_durable_handler_of_what_cannot_be_encoded(self, lite: Shop) -> None:
        handlers = Subscriptions()

        @handlers.on(OrderSubmitted, phase="after_commit")
        def wrong(event: OrderSubmitted) -> None: ...

        await self.refuse(lite, handlers, r"OrderSubmitted.*cannot be encoded.*durable=False.*converts\(OrderSubmitted\)")

    async def test_a_factory_of_two_services(self, lite: Shop) -> None:
        lite.service()
        with pytest.raises(ConfigurationError, match="attached to service 'shop' already"):
            lite.service()

    async def test_something_that_is_no_factory(self, lite: Shop) -> None:
        service = lite.service(attach=False)
        with pytest.raises(ConfigurationError, match="async_sessionmaker"):
            service.attach(lite.engine)  # type: ignore[arg-type]


async def test_a_recorded_integration_event_is_refused(lite: Shop) -> None:
    service = lite.service()
    with pytest.raises(ConfigurationError, match="publish it, or record a domain event"):
        await lite.transact(lambda session: service.record(session, OrderPlaced("a")))


async def test_a_converter_that_returns_something_else_is_refused(lite: Shop) -> None:
    handlers = Subscriptions()

    @handlers.converts(Noted)
    def wrong(event: Noted) -> Any:
        return 42

    service = lite.service(handlers)
    with pytest.raises(InvalidEvent, match=r"wrong returned 42"):
        await lite.transact(lambda session: service.record(session, Noted("a")))


async def test_async_factories_keep_their_own_session_class(async_lite: Shop) -> None:
    class Mine(Session):
        pass

    service = async_lite.service(attach=False)
    factory = async_sessionmaker(async_lite.engine, sync_session_class=Mine)  # type: ignore[arg-type]
    service.attach(factory)
    service.attach(factory)
    async with factory() as session:
        assert isinstance(session.sync_session, Mine)
