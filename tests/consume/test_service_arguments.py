"""What a service is made of is looked at when it is made: each wrong value is named, with what to give instead."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from tests.services.databases import Database
from tidings import Contract, Service, Subscriptions
from tidings.errors import ConfigurationError, ContractError
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure
from tidings.transports import Local, RabbitMQ

shop = Contract("shop")


@shop.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


def handlers_of(**options: Any) -> Subscriptions:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, **options)
    async def charge(event: OrderPlaced) -> None: ...

    return handlers


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLStore]:
    engine = create_async_engine(Database.sqlite(tmp_path / "shop.sqlite").url)
    configure(engine)
    yield SQLStore(engine)
    await engine.dispose()


def made(store: SQLStore, **arguments: Any) -> Service:
    return Service("shop", **{"contracts": [shop], "store": store, **arguments})


SECONDS = "give a number of seconds, 0 or more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contracts": shop}, "contracts=<Contract shop: 1 event types>: give a list of contracts, e.g. [orders]"),
        ({"contracts": None}, "contracts=None: give a list of contracts"),
        ({"contracts": [OrderPlaced]}, "contracts has <class"),
        ({"contracts": (kind for kind in [shop])}, "contracts=<generator"),
        ({"subscriptions": Subscriptions()}, "give a list of Subscriptions, e.g. [handlers]"),
        ({"subscriptions": [OrderPlaced]}, "subscriptions has <class"),
        ({"context": 5}, "context=5: give a list of keys, e.g. [REGION]"),
        ({"context": ["region"]}, "context has 'region': give a list of keys"),
        ({"roles": "consume"}, "roles='consume': give a list of roles, e.g. ['consume']"),
        ({"roles": None}, "roles=None: give a list of roles"),
        ({"roles": [["consume"]]}, "roles has ['consume']: give a list of roles"),
        ({"roles": ["consumer", "relay"]}, "roles=['consumer']: there are consume, relay, schedule"),
        ({"routes": [shop]}, "routes=[<Contract shop: 1 event types>]: give a dictionary from contracts and topics to transports"),
        ({"same_database": "sqlite://"}, "same_database='sqlite://': give a list of SQLAlchemy engines"),
        ({"same_database": ["sqlite://"]}, "same_database has 'sqlite://': give a list of SQLAlchemy engines"),
        ({"retry": 3}, "retry=3: give a Retry(...), e.g. Retry(attempts=5), or nothing"),
        ({"retry": 0}, "retry=0: give a Retry(...)"),
        ({"environment": 5}, "environment=5: give printable characters without spaces, e.g. 'prod', or nothing"),
        ({"environment": ""}, "environment='': give printable characters"),
        ({"environment": "a b"}, "environment='a b': give printable characters"),
        ({"max_hops": True}, "max_hops=True: give a whole number from 1 to 1000"),
        ({"max_message_bytes": None}, "max_message_bytes=None: give a whole number of at least 1024"),
        ({"max_message_bytes": 1023}, "max_message_bytes=1023: give a whole number of at least 1024"),
        ({"grace": -1}, f"grace=-1: {SECONDS}"),
        ({"grace": "30"}, f"grace='30': {SECONDS}"),
        ({"grace": True}, f"grace=True: {SECONDS}"),
        ({"grace": float("nan")}, f"grace=nan: {SECONDS}"),
        ({"grace": float("inf")}, f"grace=inf: {SECONDS}"),
        ({"grace": timedelta(seconds=3)}, f"grace=datetime.timedelta(seconds=3): {SECONDS}"),
        ({"start": "later"}, "start='later': give 'earliest' or 'now', or those by group, e.g. {'billing': 'now'}"),
        ({"start": {"shop": "later"}}, "start['shop']='later': give 'earliest' or 'now'"),
    ],
)
async def test_a_wrong_argument_is_named(store: SQLStore, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        made(store, **arguments)
    assert str(caught.value).startswith("Service ")


async def test_values_at_the_edges_are_taken(store: SQLStore) -> None:
    made(
        store, contracts={shop}, roles=(), grace=0, max_message_bytes=1024, max_hops=1, same_database=(store.connections.engine,), start={}
    )


@pytest.mark.parametrize("group", [5, "", "a b", "a\nb", "a/b", "shop@canary", "x" * 101, b"shop"])
async def test_a_group_has_a_name_that_can_be_told_from_others(group: Any) -> None:
    message = f"subscription 'charge': group={group!r}: give 1 to 100 printable characters without '/', '@' or spaces"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        handlers_of(group=group)


BROKER = [RabbitMQ("amqp://broker"), Local()]


@pytest.mark.parametrize(
    ("start", "arguments", "message"),
    [
        ({"shopp": "now"}, {}, "Service start has 'shopp', and there is no such group: shop"),
        (
            {"shop": "now", "relay:rabbit": "now"},
            {"transport": BROKER},
            "Service start has 'relay:rabbit', and there is no such relay: relay:rabbitmq",
        ),
    ],
)
async def test_a_start_for_a_group_that_there_is_not_is_refused(
    store: SQLStore, start: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    await store.upgrade()
    service = made(store, subscriptions=[handlers_of()], start=start, **arguments)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        await service.start()
    async with store.connections.engine.connect() as connection:
        assert (await connection.execute(text("select name from tidings_subscriptions"))).all() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"subscriptions": [handlers_of()], "start": {"shop": "now", "relay:rabbitmq": "now"}},
        {"roles": (), "start": {"shop": "now"}},
        {"subscriptions": [handlers_of()], "start": {"shop": "now"}, "environment": "canary", "route_by_environment": True},
    ],
    ids=["development without the broker", "a process that publishes only", "another environment"],
)
async def test_one_start_serves_every_process(store: SQLStore, arguments: dict[str, Any]) -> None:
    await store.upgrade()
    async with made(store, **arguments):
        pass


NAIVE = datetime(2026, 11, 23, tzinfo=UTC).replace(tzinfo=None)
NO_ZONE = "since=2026-11-23 00:00:00 has no time zone: give an aware datetime"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda service: service.on_dead(5), "on_dead(5): give a function of one argument"),
        (lambda service: service.on_breaker(None), "on_breaker(None): give a function of one argument"),
        (lambda service: service.on_backlog(age=timedelta(minutes=5))("x"), "on_backlog('x'): give a function of one argument"),
        (lambda service: service.on_backlog(age=300), "on_backlog(age=300): give a timedelta of a second or more"),
        (lambda service: service.start(roles=["consumer"]), "Service roles=['consumer']: there are consume, relay, schedule"),
        (lambda service: service.start(roles="consume"), "Service roles='consume': give a list of roles, e.g. ['consume']"),
        (lambda service: service.health(timeout=0), "health(timeout=0): give seconds, more than 0"),
        (lambda service: service.health(timeout="2"), "health(timeout='2'): give seconds, more than 0"),
        (lambda service: service.health(stalled=60), "health(stalled=60): give a timedelta of 0 or more"),
        (lambda service: service.audited(limit=0), "audited(limit=0): give a whole number of at least 1"),
        (lambda service: service.audited(since=NAIVE), NO_ZONE),
        (lambda service: service.audited(until="today"), "until='today' is no time: give an aware datetime"),
        (lambda service: service.execute(OrderPlaced), "execute was given the class OrderPlaced: give a command, OrderPlaced(...)"),
        (lambda service: service.replay("charge", name=""), "replay(name=''): give 1 to 200 printable characters"),
        (lambda service: service.replay("charge", name="again", since=NAIVE), NO_ZONE),
        (lambda service: service.replay("chrage", name="again"), "there is no subscription 'chrage'; there are shop/charge"),
        (lambda service: service.operations.count(since=NAIVE), NO_ZONE),
        (lambda service: service.operations.redrive(number="17"), "number='17' is no number of a delivery: give a whole number"),
        (lambda service: service.operations.edit("17", b"{}"), "number='17' is no number of a delivery: give a whole number"),
        (lambda service: service.operations.edit(17, "{}"), "data='{}' is not bytes: give the new payload as JSON in UTF-8"),
        (lambda service: service.operations.cancel_scheduled("x"), "event_id='x' is no UUID: give the one that publish has returned"),
        (lambda service: service.operations.run_scheduled("x"), "event_id='x' is no UUID: give the one that publish has returned"),
    ],
)
async def test_a_wrong_argument_of_a_method_is_named(store: SQLStore, call: Any, message: str) -> None:
    await store.upgrade()
    service = made(store, subscriptions=[handlers_of()])
    async with service:
        pass
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        await call(service)


async def test_a_replay_where_nothing_subscribes(store: SQLStore) -> None:
    await store.upgrade()
    with pytest.raises(ConfigurationError, match="^there is no subscription 'charge'; there is none$"):
        await made(store).replay("charge", name="again")


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        (
            ContractError,
            lambda service, session: service.publish(session, OrderPlaced),
            "publish was given a class: give an event, an instance of it",
        ),
        (
            TypeError,
            lambda service, session: service.publish(session, OrderPlaced("o-1"), headers=[("a", "b")]),
            "order.placed v1: headers=[('a', 'b')] is not a dictionary of names and texts",
        ),
        (TypeError, lambda service, session: service.cancel(session, "o-1"), "cancel wants the UUID that publish has returned, not 'o-1'"),
    ],
)
async def test_what_cannot_be_published_or_cancelled_is_named(store: SQLStore, kind: type[Exception], call: Any, message: str) -> None:
    await store.upgrade()
    service = made(store)
    async with AsyncSession(store.connections.engine) as session:
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            call(service, session)
        await session.commit()
    assert [event async for event in service.read_log()] == []
