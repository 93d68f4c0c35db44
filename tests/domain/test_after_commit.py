"""After the commit: durable through the log, or best effort with the object itself."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.waiting import until
from tests.domain.shop import Note, Noted, Order, OrderPlaced, OrderSubmitted, Shop
from tidings import Contract, Envelope, Retry, Service, Subscriptions
from tidings.ids import uuid7
from tidings.transports import RabbitMQ


async def test_a_durable_handler_is_a_subscription_with_retries(async_shop: Shop) -> None:
    handlers = Subscriptions()
    tries: list[str] = []

    @handlers.on(Noted, phase="after_commit", name="write-down", retry=Retry(attempts=3, immediate=3), event_name="noted")
    async def write_down(event: Noted, session: AsyncSession) -> None:
        tries.append(event.text)
        if len(tries) == 1:
            raise RuntimeError
        session.add(Note(text=event.text))

    service = async_shop.service(handlers)

    def rolled_back(session: Session) -> None:
        service.record(session, Noted("never"))
        raise ZeroDivisionError

    async with service:
        with pytest.raises(ZeroDivisionError):
            await async_shop.transact(rolled_back)
        await async_shop.transact(lambda session: service.record(session, Noted("a")))
        await until(lambda: async_shop.notes() == ["a"])
    assert tries == ["a", "a"]
    assert async_shop.log() == [("noted", {"text": "a"})]
    assert async_shop.rows("select name from tidings_subscriptions") == [("write-down",)]


async def test_a_durable_event_is_named_after_the_service_and_stays_inside(lite: Shop) -> None:
    handlers = Subscriptions()

    @handlers.on(Noted, phase="after_commit")
    def write_down(event: Noted, session: Session) -> None: ...

    service = lite.service(handlers)
    service.domain.compile()
    kind = service.domain.types[Noted]
    assert (str(kind), kind.internal) == ("shop.domain.Noted v1", True)


async def test_a_best_effort_handler_gets_the_object_once_it_is_committed(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    handlers = Subscriptions()
    seen: list[tuple[Order, list[str]]] = []

    @handlers.on(OrderSubmitted, phase="after_commit", durable=False)
    def broken(event: OrderSubmitted) -> None:
        raise RuntimeError("no mail today")

    @handlers.on(OrderSubmitted, phase="after_commit", durable=False)
    def tell(event: OrderSubmitted, mailer: list[str]) -> None:
        mailer.append(event.order.name)
        seen.append((event.order, shop.orders()))

    if shop.asynchronous:

        @handlers.on(OrderSubmitted, phase="after_commit", durable=False)
        async def tell_async(event: OrderSubmitted) -> None:
            seen.append((event.order, []))

    service = shop.service(handlers)
    mailer: list[str] = []
    service.provide(list[str], lambda: mailer)
    order = Order(name="a").submit()
    with caplog.at_level(logging.ERROR, "tidings.domain"):
        await shop.transact(lambda session: session.add(order))
    assert seen[0] == (order, ["a"])
    assert len(seen) == (2 if shop.asynchronous else 1)
    assert mailer == ["a"]
    assert "broken failed after the commit" in caplog.text
    assert service.counters.of("best_effort_failed") == 1

    def rolled_back(session: Session) -> None:
        session.add(Order(name="b").submit())
        session.flush()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await shop.transact(rolled_back)
    assert mailer == ["a"]


async def test_event_handlers_have_their_domain_events_handled_too(async_shop: Shop) -> None:
    handlers = Subscriptions()
    told: list[tuple[str, Any]] = []

    @handlers.subscribe(OrderPlaced)
    async def place(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Order(name=event.order_id).submit())

    @handlers.on(OrderSubmitted)
    async def note(event: OrderSubmitted, session: AsyncSession) -> None:
        session.add(Note(text=event.order.name))

    @handlers.on(OrderSubmitted, phase="after_commit", durable=False)
    async def tell(event: OrderSubmitted) -> None:
        # By now the next ones may have been handled, too.
        told.append((event.order.name, event.order.name in async_shop.orders()))

    @handlers.converts(OrderSubmitted)
    def again(event: OrderSubmitted) -> OrderPlaced | None:
        return OrderPlaced(event.order.name + "!") if len(event.order.name) < 3 else None

    service = async_shop.service(handlers, attach=False)
    async with service:
        async with AsyncSession(async_shop.engine) as session, session.begin():  # type: ignore[arg-type]
            service.publish(session, OrderPlaced("a"))
        await until(lambda: sorted(told) == [("a", True), ("a!", True), ("a!!", True)])
    assert async_shop.notes() == ["a", "a!", "a!!"]


async def test_a_plain_event_handler_has_its_domain_events_handled_too(shop: Shop) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    def place(event: OrderPlaced, session: Session) -> None:
        session.add(Order(name=event.order_id).submit())

    @handlers.on(OrderSubmitted)
    def note(event: OrderSubmitted, session: Session) -> None:
        session.add(Note(text=event.order.name))

    service = shop.service(handlers)
    async with service:
        await shop.transact(lambda session: service.publish(session, OrderPlaced("a")))
        await until(lambda: shop.notes() == ["a"])


async def test_beside_a_broker_internal_events_stay_in_the_log_and_are_handled_from_there(async_shop: Shop, rabbitmq_url: str) -> None:
    topic = f"orders-{uuid7()}"
    contract = Contract("orders", namer=lambda kind, _: topic)
    contract.event("order.placed", key="order_id")(OrderPlaced)
    handlers = Subscriptions()
    hops: list[tuple[str, int]] = []

    @handlers.on(Noted, phase="after_commit", event_name="noted")
    async def write_down(event: Noted, session: AsyncSession, envelope: Envelope) -> None:
        hops.append((envelope.name, envelope.hops))
        session.add(Note(text=event.text))
        session.add(Order(name=event.text).submit())

    @handlers.converts(OrderSubmitted)
    def public(event: OrderSubmitted) -> OrderPlaced:
        return OrderPlaced(event.order.name)

    @handlers.subscribe(OrderPlaced)
    async def receive(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        hops.append((envelope.name, envelope.hops))
        session.add(Note(text=f"received {event.order_id}"))

    service = Service("shop", contracts=[contract], subscriptions=[handlers], store=async_shop.store, transport=RabbitMQ(rabbitmq_url))
    service.attach(async_shop.sessions)
    async with service:
        await async_shop.transact(lambda session: service.record(session, Noted("a")))
        await until(lambda: "received a" in async_shop.notes(), seconds=60.0)
    assert async_shop.notes() == ["a", "received a"]
    assert hops == [("noted", 0), ("order.placed", 1)]
    assert service.counters.of("relayed") == 1
