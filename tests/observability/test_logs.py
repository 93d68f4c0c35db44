"""Log lines are stable, say which event they are about in fields, and do not repeat a traceback with every retry."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Retry, Subscriptions
from tidings.testing.memory import Memory


def fields(record: logging.LogRecord) -> dict[str, Any]:
    names = ("event_id", "event_name", "key", "subscription", "attempt", "state", "error_type", "group", "topic")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def failing(plain: bool) -> Subscriptions:
    handlers = Subscriptions()
    if plain:

        @handlers.subscribe(OrderPlaced, name="work", retry=Retry(attempts=3, base=0.01, max=0.01))
        async def call(event: OrderPlaced) -> None:
            raise ValueError("no such account\nand more")
    else:

        @handlers.subscribe(OrderPlaced, name="work", retry=Retry(attempts=3, base=0.01, max=0.01))
        async def work(event: OrderPlaced, session: AsyncSession) -> None:
            raise ValueError("no such account\nand more")

    return handlers


@pytest.mark.parametrize("plain", [False, True], ids=["transaction", "plain"])
async def test_each_attempt_that_fails_is_one_line_and_only_the_last_has_a_traceback(
    world: World, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    service = world.service(failing(plain))
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("dead") == 1)
    event_id = str(world.published("order.placed")[0]["id"])
    failed = [record for record in caplog.records if record.getMessage().startswith("failed processing")]
    assert [record.getMessage() for record in failed] == [
        f"failed processing order.placed {event_id} (attempt {n}, {state}): ValueError: no such account"
        for n, state in ((1, "retrying"), (2, "retrying"), (3, "dead"))
    ]
    assert [fields(record) for record in failed] == [
        {
            "event_id": event_id,
            "event_name": "order.placed",
            "key": "a",
            "subscription": "shop/work",
            "attempt": n,
            "state": state,
            "error_type": "ValueError",
        }
        for n, state in ((1, "retrying"), (2, "retrying"), (3, "dead"))
    ]
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert [record.getMessage() for record in with_traceback] == ["Event order.placed failed after 3 attempts: no such account"]
    assert {"event_id": event_id, "subscription": "shop/work"}.items() <= fields(with_traceback[0]).items()


async def test_details_have_the_traceback_of_each_attempt(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tidings.consume")
    service = world.service(failing(False))
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("dead") == 1)
    detailed = [record for record in caplog.records if record.levelno == logging.DEBUG and record.exc_info]
    assert [record.attempt for record in detailed] == [1, 2, 3]  # type: ignore[attr-defined]


@pytest.mark.parametrize("broker", [False, True], ids=["log", "broker"])
async def test_publishing_and_receiving_are_told_to_who_wants_details(world: World, caplog: pytest.LogCaptureFixture, broker: bool) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def work(event: OrderPlaced) -> None:
        pass

    service = world.service(handlers, **({"transport": Memory()} if broker else {}))
    async with service:
        await world.publish(service, OrderPlaced("quiet"))
        await until(lambda: service.counters.of("handled") == 1)
        assert not [record for record in caplog.records if record.levelno == logging.DEBUG and record.name.startswith("tidings")]
        caplog.set_level(logging.DEBUG, "tidings")
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: service.counters.of("handled") == 2)
    event_id = str(world.published("order.placed")[1]["id"])
    said = {record.getMessage(): fields(record) for record in caplog.records if record.levelno == logging.DEBUG}
    about = {"event_id": event_id, "event_name": "order.placed", "key": "a"}
    assert said["published order.placed"] == {**about, "topic": "order.placed"}
    assert said["received order.placed"] == {**about, "group": "shop"}


async def test_what_starts_and_stops_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidings.service")
    async with world.service(failing(plain=True)):
        pass
    told = [record.getMessage() for record in caplog.records if record.name == "tidings.service"]
    assert told == ["service shop started: 1 subscription, roles consume,relay,schedule", "service shop stopped"]
