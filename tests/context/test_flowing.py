"""Context flows from whoever publishes through events into handlers, and on to what these publish; and nowhere else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import MailWanted, OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tidings import Envelope, Publish, Retry, Subscriptions, context
from tidings.context import BAGGAGE, ENVIRONMENT, TENANT, ContextKey
from tidings.publish.context import current_envelope

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REGION = ContextKey("x-region")
USER = ContextKey("x-user", parse=int)


def headers_of(world: World, name: str) -> list[dict[str, str]]:
    return [headers if isinstance(headers := row["headers"], dict) else json.loads(headers) for row in world.published(name)]


async def test_context_flows_through_events_and_handlers(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Any] = []

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish, envelope: Envelope) -> None:
        seen.append(
            (TENANT.get(), ENVIRONMENT.get(), REGION.get(), USER.get(), BAGGAGE.get(), envelope.tenant, context.current().traceparent)
        )
        publish(OrderBilled(event.order_id))

    async with world.service(handlers, context=[REGION, USER]) as service:
        with context.bind(
            REGION.of("eu"), USER.of(7), tenant="acme", environment="canary", traceparent=TRACE, tracestate="a=1", baggage="b=2"
        ):
            await world.publish(service, OrderPlaced("a"))
        await until(lambda: world.published("order.billed"))
    assert seen == [("acme", "canary", "eu", 7, "b=2", "acme", TRACE)]
    expected = {
        "tenantid": "acme", "x-env": "canary", "x-region": "eu", "x-user": "7", "traceparent": TRACE, "tracestate": "a=1", "baggage": "b=2",
    }  # fmt: skip
    assert headers_of(world, "order.placed") == [expected]
    (billed,) = headers_of(world, "order.billed")
    (placed,) = world.published("order.placed")
    caused = {"correlationid": str(placed["id"]), "causationid": str(placed["id"]), "hops": "1"}
    assert billed == expected | caused


async def test_a_key_that_the_service_does_not_name_ends_at_the_handler(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Any] = []

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish) -> None:
        seen.append(REGION.get())
        publish(OrderBilled(event.order_id))

    async with world.service(handlers) as service:
        with context.bind(REGION.of("eu")):
            await world.publish(service, OrderPlaced("a"))
        await until(lambda: world.published("order.billed"))
    assert seen == ["eu"]
    assert "x-region" not in headers_of(world, "order.billed")[0]


@pytest.mark.parametrize("shape", ["shared", "plain", "thread", "session thread"])
async def test_context_never_leaks_between_events(any_world: World, shape: str) -> None:
    """Many concurrent handlers, each with bindings of its own inside, and failures among them."""
    world = any_world
    handlers = Subscriptions()
    wrong: list[str] = []
    count = 0

    def check(event: MailWanted) -> None:
        nonlocal count
        expected = None if event.number % 5 == 0 else f"t{event.number}"
        if TENANT.get() != expected or ENVIRONMENT.get() is not None:
            wrong.append(f"{event}: {TENANT.get()} {ENVIRONMENT.get()}")
        count += 1

    if shape in ("shared", "plain"):

        async def handle(event: MailWanted, envelope: Envelope) -> None:
            check(event)
            with context.bind(tenant="inner", environment="inner"):
                await asyncio.sleep(0)
                assert TENANT.get() == "inner"
            check(event)
            if event.number % 11 == 10 and envelope.attempt == 1:
                raise ValueError("no luck")

        async def handle_shared(event: MailWanted, envelope: Envelope, connection: sa.Connection) -> None:
            await handle(event, envelope)

        async def handle_publishing(event: MailWanted, envelope: Envelope, publish: Publish) -> None:
            await handle(event, envelope)
            publish(OrderBilled(str(event.number), event.number))

        handlers.subscribe(MailWanted, concurrency=8, name="handle")(handle if shape == "plain" else handle_publishing)
    else:

        def handle_in_thread(event: MailWanted) -> None:
            check(event)
            with context.bind(tenant="inner"):
                pass
            check(event)

        def handle_with_session(event: MailWanted, session: Session) -> None:
            session.execute(sa.text("select 1"))
            handle_in_thread(event)

        handlers.subscribe(MailWanted, concurrency=8, name="handle")(handle_in_thread if shape == "thread" else handle_with_session)

    service = world.service(handlers)
    # What is bound where the service starts must not get into its handlers either.
    with context.bind(tenant="starter", environment="starter"):
        await service.start()
    try:
        for number in range(60):
            with context.bind(*(() if number % 5 == 0 else (TENANT.of(f"t{number}"),))):
                await world.publish(service, MailWanted("x", number))
        await until(lambda: service.counters.total["shop/handle", "handled"] == 60)
        assert TENANT.get() is None
        assert current_envelope.get() is None
    finally:
        await service.stop()
    assert wrong == []
    assert count >= 120
    if shape == "shared":
        published = {
            row["data"]["number"] if isinstance(row["data"], dict) else json.loads(row["data"])["number"]
            for row in world.published("order.billed")
        }
        assert len(published) == 60
        for row, headers in zip(world.published("order.billed"), headers_of(world, "order.billed"), strict=True):
            number = (row["data"] if isinstance(row["data"], dict) else json.loads(row["data"]))["number"]
            assert headers.get("tenantid") == (None if number % 5 == 0 else f"t{number}")
            assert "x-env" not in headers


async def test_a_batch_has_the_context_that_all_its_events_have_in_common(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Any] = []

    @handlers.subscribe(OrderPlaced, batch=10, concurrency=1)
    async def report(events: list[OrderPlaced], envelopes: list[Envelope], session: AsyncSession, publish: Publish) -> None:
        seen.append((len(events), TENANT.get(), REGION.get()))
        publish(OrderBilled("whole batch"))
        for event, envelope in zip(events, envelopes, strict=True):
            with context.of(envelope):
                publish(OrderBilled(event.order_id))
        assert TENANT.get() is None
        await effect(session, "report", events[0])

    service = world.service(handlers, context=[REGION])
    for tenant in ("one", "two"):
        with context.bind(REGION.of("eu"), tenant=tenant):
            await world.publish(service, OrderPlaced(tenant))
    async with service:
        await until_equal(lambda: service.counters.of("handled"), 2)
    assert seen == [(2, None, "eu")]
    billed = {row["key"]: headers for row, headers in zip(world.published("order.billed"), headers_of(world, "order.billed"), strict=True)}
    assert "tenantid" not in billed["whole batch"]
    assert billed["whole batch"]["x-region"] == "eu"
    assert (billed["one"]["tenantid"], billed["two"]["tenantid"]) == ("one", "two")
    placed = {row["key"]: str(row["id"]) for row in world.published("order.placed")}
    assert (billed["one"]["causationid"], billed["two"]["causationid"]) == (placed["one"], placed["two"])


async def test_a_retry_has_the_context_of_its_event(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Any] = []

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        seen.append((envelope.attempt, TENANT.get(), REGION.get()))
        if envelope.attempt == 1:
            raise ValueError("no luck")

    async with world.service(handlers, context=[REGION], retry=Retry(base=0.01)) as service:
        with context.bind(REGION.of("eu"), tenant="acme"):
            await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled"))
    assert seen == [(1, "acme", "eu"), (2, "acme", "eu")]
