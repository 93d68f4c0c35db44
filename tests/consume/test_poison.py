"""What cannot be handled ends as a dead delivery with its reason and its original bytes, and stops nothing else (invariant 6)."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderBilled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect, open_world
from tests.services.databases import Database
from tidings import Contract, Envelope, Publish, Service, Subscriptions
from tidings.service import Dead

#: The same event as in `shop`, as a newer deploy knows it.
newer = Contract("shop")
newest = Contract("shop")


@newer.event("order.placed", version=1, key="order_id")
@newest.event("order.placed", version=1, key="order_id")
@dataclass(frozen=True)
class OrderPlacedV1:
    order_id: str
    number: int = 0


@newer.event("order.placed", version=2, key="order_id")
@newest.event("order.placed", version=2, key="order_id")
@dataclass(frozen=True)
class OrderPlacedV2:
    order_id: str
    cents: int


newer.upcast(OrderPlacedV1, OrderPlacedV2)(lambda old: OrderPlacedV2(old.order_id, old.number * 100))
newest.upcast(OrderPlacedV1, OrderPlacedV2)(lambda old: OrderPlacedV2(old.order_id, old.number * 100))


def handlers_of(world: World, seen: list[Envelope] | None = None) -> Subscriptions:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        if seen is not None:
            seen.append(envelope)
        await effect(session, "handle", event)

    return handlers


def told(service: Service) -> list[Dead]:
    dead: list[Dead] = []
    service.on_dead(dead.append)
    return dead


UNDECODABLE = [
    '{"order_id": 5}',
    "{}",
    "null",
    '"text"',
    "[]",
    '{"order_id": "a", "number": 1.5}',
    '{"order_id": "\\ud800"}',
    "[" * 5000 + "]" * 5000,
]


@pytest.mark.parametrize("data", UNDECODABLE, ids=lambda data: data[:20])
async def test_data_that_cannot_be_understood_is_dead_at_once(world: World, data: str) -> None:
    service = world.service(handlers_of(world))
    dead = told(service)
    event_id = await world.insert_row(data=data)
    await world.insert_row(data='{"order_id":"a","number":2}')
    await world.insert_row(key="b", data='{"order_id":"b","number":3}')
    async with service:
        await until_equal(world.effects, [("b", 3)])
        await until_equal(world.lanes, [("a", "dead", 2, 1)])
        await until(lambda: len(dead) == 1)
    assert [(key, reason) for key, reason, *_ in world.deliveries()] == [("a", "undecodable"), ("a", "behind")]
    row = world.rows("select data, error_type, event_id from tidings_deliveries order by number limit 1")[0]
    assert (bytes(row[0]).decode(), row[1], row[2]) == (data, "tidings.errors.DecodeError", event_id)
    assert (dead[0].event_id, dead[0].message_type, dead[0].key, dead[0].subscription) == (event_id, "order.placed", "a", "shop/handle")
    assert service.counters.of("dead") == 1


async def test_text_that_is_not_json_is_dead_at_once(sqlite: Database) -> None:
    async with open_world(sqlite) as world:
        for number, (data, headers) in enumerate([("{", "{}"), ("", "{}"), ("{}x", "{}"), ("\0", "{}"), ("{}", "\0")]):
            await world.insert_row(key=f"k{number}", data=data, headers=headers)
        await world.insert_row(key="ok", data='{"order_id":"ok","number":1}')
        async with world.service(handlers_of(world)):
            await until_equal(world.effects, [("ok", 1)])
            await until(lambda: [lane[1] for lane in world.lanes()] == ["dead"] * 5)


async def test_poison_is_reported_once_however_often_it_is_read(world: World) -> None:
    await world.insert_row(data="[]")
    first = world.service(handlers_of(world))
    dead = told(first)
    async with first:
        await until(lambda: len(dead) == 1)
    await world.read_again()

    second = world.service(handlers_of(world))
    again = told(second)
    async with second:
        await world.publish(second, OrderPlaced("b", 1))
        await until_equal(world.effects, [("b", 1)])
        await until(lambda: world.checkpoint()["position"] or world.checkpoint().get("previous") != "1:1:")
    assert again == []
    assert len(world.deliveries()) == 1


async def test_a_version_newer_than_any_known_waits_for_newer_code(world: World) -> None:
    old = world.service(handlers_of(world))
    await world.insert_row(version=2, data='{"order_id":"a","cents":250}')
    await world.insert_row(data='{"order_id":"a","number":3}')
    await world.insert_row(key="b", data='{"order_id":"b","number":4}')
    async with old:
        await until_equal(world.effects, [("b", 4)])
        await until(lambda: len(world.deliveries()) == 2)
        assert world.deliveries() == [("a", "waiting for code", 0, None), ("a", "behind", 0, None)]
        assert world.lanes()[0][1:] == ("retrying", 2, 0)
        assert old.counters.of("failed") == old.counters.of("dead") == 0

    handlers = Subscriptions()
    seen: list[tuple[OrderPlacedV2, int]] = []

    @handlers.subscribe(OrderPlacedV2)
    async def handle(event: OrderPlacedV2, session: AsyncSession, envelope: Envelope) -> None:
        seen.append((event, envelope.attempt))

    async with world.service(handlers, contracts=[newer]):
        await until_equal(lambda: seen, [(OrderPlacedV2("a", 250), 1), (OrderPlacedV2("a", 300), 1)])
        await until_equal(world.lanes, [])


async def test_a_version_older_than_any_known_is_dead(world: World) -> None:
    only = Contract("shop")
    only.event("order.placed", version=2, key="order_id")(OrderPlacedV2)
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlacedV2)
    async def handle(event: OrderPlacedV2, session: AsyncSession) -> None: ...

    service = world.service(handlers, contracts=[only])
    dead = told(service)
    await world.insert_row(version=1)
    await world.insert_row(version=None, key="b")
    async with service:
        await until(lambda: [lane[:2] for lane in world.lanes()] == [("a", "dead"), ("b", "dead")])
        await until(lambda: len(dead) == 2)
    messages = [row[0] for row in world.rows("select error_message from tidings_deliveries order by key")]
    assert messages == [f"version {version} of 'order.placed' is unknown here; known: 2" for version in (1, None)]


HOSTILE_HEADERS = [
    "[]",
    "null",
    '"x"',
    "5",
    "{}",
    '{"hops": "many"}',
    '{"hops": -5}',
    '{"hops": 1e400}',
    '{"hops": [1]}',
    '{"hops": {"a": 1}}',
    '{"hops": 99999999999999999999999}',
    '{"expires": "soon"}',
    '{"expires": 5}',
    '{"expires": [1]}',
    '{"expires": "9999-12-31T23:59:59-23:59"}',
    '{"expires": "0001-01-01T00:00:00+23:59"}',
    '{"scheduledfor": "later"}',
    '{"causationid": 5, "correlationid": [1], "tenantid": {"a": 1}, "traceparent": null, "subject": true}',
    '{"who": {"a": [1]}, "x": null, "y": true}',
    '{"a": ' + "[" * 3000 + "]" * 3000 + "}",
]


@pytest.mark.parametrize("headers", HOSTILE_HEADERS, ids=lambda text: text[:40])
async def test_hostile_headers_stop_nothing(world: World, headers: str) -> None:
    """Such an event is handled with a sane envelope, has expired, or is dead; in any case the next one runs."""
    seen: list[Envelope] = []
    service = world.service(handlers_of(world, seen))
    await world.insert_row(key="bad", data='{"order_id":"bad","number":1}', headers=headers)
    await world.publish(service, OrderPlaced("good", 2))
    async with service:
        await until(lambda: ("good", 2) in world.effects())
        await until(
            lambda: service.counters.of("handled") + service.counters.of("dead") + service.counters.of("expired") == 2,
            f"{service.counters.total}",
        )
    for envelope in seen:
        assert isinstance(envelope.hops, int)
        assert 0 <= envelope.hops <= 1_000_000
        assert isinstance(envelope.correlation_id, str)
        for text in (envelope.causation_id, envelope.tenant, envelope.traceparent, envelope.subject):
            assert text is None or isinstance(text, str)
        assert all(isinstance(value, str) for value in envelope.headers.values())


async def test_what_a_handler_publishes_after_hostile_headers_is_sane(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    await world.insert_row(headers='{"correlationid": {"a": 1}, "tenantid": [1], "traceparent": {}, "tracestate": 5, "hops": "x"}')
    async with world.service(handlers):
        await until(lambda: world.published("order.billed") or world.deliveries())
    for row in world.published("order.billed"):
        headers = json.loads(row["headers"]) if isinstance(row["headers"], str) else row["headers"]
        assert all(isinstance(value, str) for value in headers.values())


async def test_an_id_that_is_no_uuid_gives_one_that_is(sqlite: Database) -> None:
    """Other producers' ids are any text: the envelope has a UUID made of it, the same one each time."""
    async with open_world(sqlite) as world:
        await world.insert_row(event_id="order-1")
        await world.insert_row(event_id="0190f5d2-7a3b-7c4d-8e5f-0123456789ax", key="b")
        await world.insert_row(key="ok", data='{"order_id":"ok","number":1}')
        async with world.service(handlers_of(world)):
            await until_equal(lambda: len(world.effects()), 3)
        assert world.deliveries() == []


async def test_keys_of_any_length_and_character_can_be_parked(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        raise ValueError("\0 \ud800 " + "x" * 100_000)

    keys = ["x" * 100_000, "\x1b[31m", "\u202e", "\n", "ключ" * 1000, " "]
    for key in keys:
        await world.insert_row(key=key)
    async with world.service(handlers):
        await until(lambda: len(world.deliveries()) == len(keys))
    assert {error for *_, error in world.deliveries()} == {"ValueError"}


async def test_an_event_that_has_expired_is_finished_and_not_handled(world: World) -> None:
    await world.insert_row(headers='{"expires": "2001-01-01T00:00:00Z"}')
    await world.insert_row(key="b", data='{"order_id":"b","number":1}', headers='{"expires": "2901-01-01T00:00:00Z"}')
    service = world.service(handlers_of(world))
    async with service:
        await until_equal(world.effects, [("b", 1)])
        await until(lambda: service.counters.of("expired") == 1)
    assert sorted(row[0] for row in world.rows("select outcome from tidings_inbox")) == [0, 1]


async def test_an_expired_event_that_is_read_again_is_not_counted_again(world: World) -> None:
    await world.insert_row(headers='{"expires": "2001-01-01T00:00:00Z"}')
    async with world.service(handlers_of(world)) as service:
        await until(lambda: service.counters.of("expired") == 1)
    previous = "previous = '1:1:', " if world.kind == "postgresql" else ""
    await world.execute(f"update tidings_checkpoints set {previous}position = 0 where kind = 'log'")
    async with world.service(handlers_of(world)) as service:
        await until(lambda: service.counters.of("duplicates") == 1)
        assert service.counters.of("expired") == 0
