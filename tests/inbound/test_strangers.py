"""Messages that nobody understands: dead deliveries with their bytes, listed, redriven by newer code; the others flow."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.cli.conftest import CommandLine
from tests.consume.shop import shop
from tests.consume.waiting import until, until_equal
from tests.consume.world import World, effect
from tests.inbound.shops import charging, fast, orders, put, receiving
from tests.relay.test_command_line import run
from tidings import Contract
from tidings.runtime import Dead
from tidings.testing.memory import Memory, MemoryLog

newer = Contract("newer")


@newer.event("order.shipped", key="order_id", topic="order.placed")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str
    number: int = 0


@pytest.fixture(params=[Memory, MemoryLog])
def broker(request: pytest.FixtureRequest) -> Memory:
    made: Memory = request.param()
    return made


def headers(kind: str, event_id: str = "01a1fdd5-3c23-733d-8027-1459f0e17dcd", source: str = "/elsewhere") -> dict[str, str | bytes | None]:
    return {"ce_specversion": "1.0", "ce_id": event_id, "ce_source": source, "ce_type": kind, "ce_partitionkey": "a"}


async def test_garbage_is_kept_with_its_bytes_and_everything_else_flows(world: World, broker: Memory) -> None:
    dead: list[Dead] = []
    service = receiving(world, broker)
    service.on_dead(dead.append)
    async with fast(world.service(name="shop", transport=broker)) as publisher, service:
        await world.publish(publisher, *orders(1, 3))
        await until_equal(lambda: len(world.effects()), 3)
        put(broker, b"\xff\x00not json", colour=b"\xfe\xff", name="text")
        await world.publish(publisher, *orders(4, 6))
        await until_equal(lambda: len(world.effects()), 6)
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
    ((data, kept),) = world.rows("select data, headers from tidings_deliveries")
    assert bytes(data) == b"\xff\x00not json"
    assert json.loads(bytes(kept))["headers"] == {"colour": {"base64": "/v8="}, "name": "text"}
    assert [(row[1], row[2], row[3]) for row in world.deliveries()] == [("undecodable", 1, "tidings.errors.Undecodable")]
    assert [one.subscription for one in dead] == ["billing/inbound:memory"]


async def test_the_same_garbage_is_kept_once_and_other_garbage_too(world: World, broker: Memory) -> None:
    async with receiving(world, broker) as service:
        for number in (1, 2, 3):
            put(broker, b"?%d" % number)
        await until_equal(lambda: len(world.deliveries()), 3)
    # Read again, as after a lost connection.
    await world.execute("update tidings_checkpoints set place = null")
    for cursor in broker._groups.values():
        cursor.next = 0
    async with receiving(world, broker) as service:
        await until(lambda: service.counters.of("dead") == 3)
    assert len(world.deliveries()) == 3


async def test_an_unknown_type_is_dead_until_a_deploy_knows_it(world: World, broker: Memory, cli: CommandLine) -> None:
    async with receiving(world, broker):
        put(broker, b'{"order_id":"a","number":7}', **headers("order.shipped.v1"))
        await until_equal(lambda: len(world.deliveries()), 1)
        listed = (await run(cli, world, "dead", "list", "--json")).json
        assert listed[0]["subscription"] == "inbound:memory"
        assert "order.shipped" in listed[0]["error_message"]
        shown = await run(cli, world, "dead", "show", str(listed[0]["number"]))
        assert '"ce_type": "order.shipped.v1"' in shown.out
        # Nobody knows it yet.
        assert (await run(cli, world, "dead", "redrive", "--subscription", "billing/inbound:memory", "--yes")).exit_code == 0
        await until_equal(lambda: world.one("select attempts from tidings_deliveries"), 1)
        await until_equal(lambda: world.one("select state from tidings_lanes"), "dead")
    handlers = charging()

    @handlers.subscribe(OrderShipped)
    async def ship(event: OrderShipped, session: AsyncSession) -> None:
        await effect(session, "ship", event)

    async with receiving(world, broker, handlers, contracts=[shop, newer]) as service:
        await service.operations.redrive(subscription="inbound:memory")
        await until_equal(lambda: world.effects("ship"), [("a", 7)])
        await until_equal(world.lanes, [])


async def test_types_that_nobody_subscribes_to_are_passed_over(world: World, broker: Memory) -> None:
    """The contract knows it: it is another subscriber's."""
    async with receiving(world, broker, contracts=[shop, newer]) as service:
        put(broker, b'{"order_id":"a","number":7}', **headers("order.shipped.v1"))
        await until_equal(lambda: service.counters.of("skipped"), 1)
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
    assert world.deliveries() == []


async def test_an_event_for_a_subscription_of_another_deploy_waits_for_it(world: World, broker: Memory) -> None:
    handlers = charging()

    @handlers.subscribe(OrderShipped)
    async def ship(event: OrderShipped, session: AsyncSession) -> None:
        await effect(session, "ship", event)

    async with receiving(world, broker, handlers, contracts=[shop, newer]):
        pass
    async with receiving(world, broker):
        put(broker, b'{"order_id":"a","number":7}', **headers("order.shipped.v1"))
        await until_equal(lambda: [row[1] for row in world.deliveries()], ["waiting for code"])
    async with receiving(world, broker, handlers, contracts=[shop, newer]):
        await until_equal(lambda: world.effects("ship"), [("a", 7)])


async def test_a_new_subscription_fences_those_who_do_not_know_it(world: World, broker: Memory) -> None:
    """A rolling deploy: the old process goes on with the queue, and must not acknowledge what the new subscription wants."""
    old = receiving(world, broker)
    handlers = charging()

    @handlers.subscribe(OrderShipped)
    async def ship(event: OrderShipped, session: AsyncSession) -> None:
        await effect(session, "ship", event)

    async with old:
        await until(lambda: old._runtime is not None and old._runtime.subscribers[0].session)
        new = receiving(world, broker, handlers, contracts=[shop, newer], engine=world.another_engine())
        await new.start(["relay"])
        put(broker, b'{"order_id":"a","number":7}', **headers("order.shipped.v1"))
        await until_equal(lambda: [row[1] for row in world.deliveries()], ["waiting for code"])
        await new.stop()


async def test_data_that_does_not_fit_is_dead_in_its_subscription_and_blocks_its_key(world: World, broker: Memory) -> None:
    async with receiving(world, broker):
        put(broker, b'{"order_id":5}', **headers("order.placed.v1"))
        put(broker, b'{"order_id":"a","number":2}', **headers("order.placed.v1", "01a1fdd5-3c23-733d-8027-1459f0e17dce"))
        await until_equal(lambda: [row[1] for row in world.deliveries()], ["undecodable", "behind"])
    assert world.lanes()[0][:3] == ("a", "dead", 2)


@pytest.mark.parametrize(
    ("body", "given"),
    [
        (b"[" * 100_000, headers("order.placed.v1")),
        (b"{}", {**headers("order.placed.v1"), "ce_id": "x" * 70_000}),
        (b"{}", {**headers("order.placed.v1"), "ce_time": "yesterday"}),
        (b"{}", {**headers("order.placed.v1"), "ce_specversion": "9"}),
        (None, {}),
        (b"x" * 2_000_000, headers("order.placed.v1")),
        (b"{}", {f"h{number}": "x" for number in range(300)}),
    ],
)
async def test_hostile_messages_stop_nothing(
    world: World, broker: Memory, body: bytes | None, given: dict[str, str | bytes | None]
) -> None:
    async with receiving(world, broker) as service:
        put(broker, body, **given)
        put(broker, b'{"order_id":"b","number":2}', **{**headers("order.placed.v1"), "ce_partitionkey": "b"})
        await until_equal(world.effects, [("b", 2)])
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].idle)
    assert len(world.deliveries()) == 1
    assert world.one("select max(length(data)) from tidings_deliveries") <= 1 << 20


async def test_the_ids_of_one_producer_suppress_nothing_of_another(world: World, broker: Memory) -> None:
    async with receiving(world, broker):
        for number, source in enumerate(("/one", "/two", "urn:three", "/one")):
            body = json.dumps({"order_id": "a", "number": number}).encode()
            put(broker, body, **headers("order.placed.v1", "4711", source))
        await until_equal(lambda: len(world.effects()), 3)
    assert [number for _, number in world.effects()] == [0, 1, 2]


async def test_too_much_that_nobody_understands_stays_at_the_broker(world: World, broker: Memory) -> None:
    service = receiving(world, broker)
    service.tuning.max_parked = 20
    async with service:
        await until(lambda: service._runtime is not None and service._runtime.subscribers[0].session)
        for first in range(0, 60, 20):
            for number in range(first, first + 20):
                put(broker, b"?%d" % number)
            await until_equal(lambda: len(world.deliveries()) >= 20, True)
        await until(lambda: service._runtime.subscribers[0].session._full)  # type: ignore[union-attr]
        await service.operations.discard(reason="garbage", subscription="inbound:memory")
        await until_equal(lambda: service.counters.of("dead"), 60)


async def test_a_gap_is_told(world: World, cli: CommandLine) -> None:
    broker = MemoryLog()
    async with fast(world.service(name="shop", transport=broker)) as publisher:
        async with receiving(world, broker):
            await world.publish(publisher, *orders(1, 5))
            await until_equal(lambda: len(world.effects()), 5)
        await world.publish(publisher, *orders(6, 10))
        await until_equal(lambda: len(broker.topics["order.placed"]), 10)
        broker.trim("order.placed", 8)
        async with receiving(world, broker):
            await until_equal(lambda: sorted(number for _, number in world.effects()), [1, 2, 3, 4, 5, 9, 10])
            (item,) = (await run(cli, world, "dead", "list", "--json")).json
            assert item["reason"] == "gap"
            assert "5 to 7 are gone" in item["error_message"]
        (shown,) = (await run(cli, world, "status", "--json")).json["inbound"]
        assert shown["gaps"] == 1
