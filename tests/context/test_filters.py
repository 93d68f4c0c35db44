"""Publish filters see what is published, at the call; handler filters are around every call of a handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import MailWanted, OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, effect_sync
from tidings import Publish, Retry, Subscriptions, context
from tidings.context import TENANT
from tidings.errors import ConfigurationError, InvalidEvent
from tidings.filters import Call, Publication, Vetoed

Next = Callable[[], Awaitable[None]]


def headers_of(world: World, name: str) -> list[dict[str, str]]:
    return [headers if isinstance(headers := row["headers"], dict) else json.loads(headers) for row in world.published(name)]


# Publish filters


async def test_publish_filters_see_an_event_in_turn_and_may_change_its_headers(world: World) -> None:
    seen: list[Publication] = []

    def stamp(publication: Publication) -> None:
        seen.append(publication)
        publication.headers["stamped"] = publication.headers.pop("given") + publication.name

    def stamp_again(publication: Publication) -> None:
        publication.headers["stamped"] += "!"

    service = world.service(publish_filters=[stamp, stamp_again])
    with context.bind(tenant="acme"):
        await world.publish(service, OrderPlaced("a", 3), headers={"given": "by "})
    (publication,) = seen
    assert (publication.event, publication.key, publication.tenant, publication.version) == (OrderPlaced("a", 3), "a", "acme", 1)
    assert headers_of(world, "order.placed") == [{"tenantid": "acme", "stamped": "by order.placed!"}]


async def test_a_publish_filter_refuses_an_event_with_an_error_that_the_caller_gets(world: World) -> None:
    def only_paying(publication: Publication) -> None:
        if publication.tenant == "demo":
            raise Vetoed("demo tenants publish nothing")

    service = world.service(publish_filters=[only_paying])
    with context.bind(tenant="demo"), pytest.raises(Vetoed, match="demo tenants"):
        await world.publish(service, OrderPlaced("a"))
    await world.publish(service, OrderPlaced("b"))
    assert [row["key"] for row in world.published("order.placed")] == ["b"]


async def test_publish_filters_see_what_handlers_publish(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    async with world.service(handlers, publish_filters=[lambda publication: publication.headers.update(by="filter")]) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: world.published("order.billed"))
    assert headers_of(world, "order.billed")[0]["by"] == "filter"


async def test_what_a_filter_writes_is_checked_like_what_a_user_gives(world: World) -> None:
    for headers, message in (({"tenantid": "x"}, "written by Tidings"), ({"x": 1}, "strings"), ({"x": "\0"}, "NUL")):
        service = world.service(publish_filters=[lambda publication, headers=headers: publication.headers.update(headers)])
        with pytest.raises(InvalidEvent, match=message):
            await world.publish(service, OrderPlaced("a"))
    assert world.published("order.placed") == []


async def test_a_publish_filter_that_would_have_to_be_awaited_is_refused(world: World) -> None:
    async def later(publication: Publication) -> None:
        """Nobody awaits it."""

    service = world.service(publish_filters=[later])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="never awaited"):
        await world.publish(service, OrderPlaced("a"))


@pytest.mark.parametrize("given", ["publish_filters", "handler_filters"])
async def test_filters_are_a_list_of_functions(world: World, given: str) -> None:
    for value in ("filter", print, ["filter"]):
        with pytest.raises(ConfigurationError, match=given):
            world.service(**{given: value})


# Handler filters


def subscribe(handlers: Subscriptions, kind: str, log: list[str], fail: Callable[[int], bool] = lambda _: False) -> None:
    """Subscribe a handler `handle` of this kind; it leaves a trace where it has a session, and one in the log."""

    def note(event: Any) -> None:
        log.append(f"handle {event.number} {TENANT.get()}")
        if fail(event.number):
            raise ValueError("no luck")

    async def transactional(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        note(event)

    async def plain(event: OrderPlaced) -> None:
        await asyncio.sleep(0)
        note(event)

    def thread(event: OrderPlaced) -> None:
        note(event)

    def session_thread(event: OrderPlaced, session: Session) -> None:
        effect_sync(session, "handle", event)
        note(event)

    async def batch(events: list[OrderPlaced], session: AsyncSession) -> None:
        for event in events:
            await effect(session, "handle", event)
            note(event)

    async def plain_batch(events: list[OrderPlaced]) -> None:
        for event in events:
            note(event)

    functions: dict[str, Any] = {
        "transactional": transactional, "plain": plain, "thread": thread, "session thread": session_thread, "batch": batch,
        "plain batch": plain_batch,
    }  # fmt: skip
    size = {"batch": 10} if "batch" in kind else {}
    handlers.subscribe(OrderPlaced, name="handle", concurrency=1, **size)(functions[kind])


KINDS = ["transactional", "plain", "thread", "session thread", "batch", "plain batch"]


@pytest.mark.parametrize("kind", KINDS)
async def test_handler_filters_are_around_every_kind_of_handler(world: World, kind: str) -> None:
    log: list[str] = []
    calls: list[Call] = []

    async def outer(call: Call, following: Next) -> None:
        calls.append(call)
        log.append(f"outer {call.event.number}")
        with context.bind(tenant="bound by a filter"):
            await following()
        log.append("outer ends")

    async def inner(call: Call, following: Next) -> None:
        log.append("inner")
        await following()
        log.append("inner ends")

    handlers = Subscriptions()
    subscribe(handlers, kind, log)
    async with world.service(handlers, handler_filters=[outer, inner]) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: service.counters.of("handled"), 1)
    assert log == ["outer 1", "inner", "handle 1 bound by a filter", "inner ends", "outer ends"]
    (call,) = calls
    assert (call.group, call.subscription, call.envelope.name, call.attempt) == ("shop", "handle", "order.placed", 1)
    assert (list(call.events), len(call.envelopes)) == ([OrderPlaced("a", 1)], 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_in_a_filter_is_a_failure_of_the_event(world: World, kind: str) -> None:
    log: list[str] = []
    handlers = Subscriptions()
    subscribe(handlers, kind, log)

    async def refuse(call: Call, following: Next) -> None:
        if call.attempt == 1:
            await following()
            raise PermissionError("not today")
        await following()

    async with world.service(handlers, handler_filters=[refuse], retry=Retry(base=0.01)) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: service.counters.of("handled"), 1)
        assert service.counters.of("failed") == 1
    if "plain" not in kind and kind != "thread":
        assert world.effects() == [("a", 1)]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_filter_cannot_make_a_failure_a_success(world: World, kind: str) -> None:
    log: list[str] = []
    handlers = Subscriptions()
    failing = {1}
    subscribe(handlers, kind, log, fail=lambda number: number in failing)

    async def swallow(call: Call, following: Next) -> None:
        try:
            await following()
        except ValueError:
            log.append("swallowed")

    async with world.service(handlers, handler_filters=[swallow], retry=Retry(base=0.01)) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until(lambda: service.counters.of("failed"))
        failing.clear()
        await until_equal(lambda: service.counters.of("handled"), 1)
    assert "swallowed" in log


async def test_a_filter_that_does_not_go_on_keeps_the_handler_from_being_called(world: World) -> None:
    log: list[str] = []
    handlers = Subscriptions()
    subscribe(handlers, "transactional", log)

    async def not_for_demo(call: Call, following: Next) -> None:
        if call.envelope.tenant != "demo":
            await following()

    async with world.service(handlers, handler_filters=[not_for_demo]) as service:
        with context.bind(tenant="demo"):
            await world.publish(service, OrderPlaced("a", 1))
        await world.publish(service, OrderPlaced("a", 2))
        await until_equal(lambda: service.counters.of("handled"), 2)
    assert world.effects() == [("a", 2)]


async def test_a_filter_must_not_call_a_handler_twice(world: World) -> None:
    log: list[str] = []
    handlers = Subscriptions()
    subscribe(handlers, "transactional", log)

    async def twice(call: Call, following: Next) -> None:
        await following()
        if call.attempt == 1:
            try:
                await following()
            except RuntimeError:
                log.append("swallowed")

    async with world.service(handlers, handler_filters=[twice], retry=Retry(base=0.01)) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: service.counters.of("handled"), 1)
        assert service.counters.of("failed") == 1
    assert world.effects() == [("a", 1)]
    assert log == ["handle 1 None", "swallowed", "handle 1 None"]


async def test_filters_see_each_event_of_a_shared_transaction(world: World) -> None:
    log: list[str] = []
    handlers = Subscriptions()
    subscribe(handlers, "transactional", log)
    seen: list[int] = []

    async def look(call: Call, following: Next) -> None:
        seen.append(call.event.number)
        await following()

    service = world.service(handlers, handler_filters=[look])
    await world.publish(service, *(OrderPlaced("a", number) for number in range(20)))
    await world.publish(service, MailWanted("x"))
    async with service:
        await until_equal(lambda: service.counters.of("handled"), 20)
    assert seen == list(range(20))


@pytest.mark.parametrize("how", ["forgotten", "left behind", "left behind by an error"])
async def test_a_filter_must_wait_for_what_it_calls(world: World, how: str) -> None:
    handlers = Subscriptions()
    ended: list[str] = []

    @handlers.subscribe(OrderPlaced)
    async def slow(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "slow", event)
        try:
            await asyncio.sleep(0.01)
        finally:
            ended.append(how)

    async def careless(call: Call, following: Next) -> None:
        if call.attempt > 1:
            await following()
            return
        going: Any = following()
        if how != "forgotten":
            task = asyncio.ensure_future(going)
            await asyncio.sleep(0)
            if "error" in how:
                raise ValueError(str(task))

    async with world.service(handlers, handler_filters=[careless], retry=Retry(base=0.01)) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(lambda: service.counters.of("handled"), 1)
        assert service.counters.of("failed") == 1
    assert world.effects() == [("a", 1)]
    assert len(ended) <= 2
