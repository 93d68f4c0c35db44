"""A circle of handlers ends: an event that too many handlers led to is dead, and says by which way it came."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.consume.shop import OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until
from tests.consume.world import World
from tidings import Envelope, Publish, Subscriptions
from tidings.errors import CircularChain, ConfigurationError
from tidings.service import Dead


def circle() -> tuple[Subscriptions, Subscriptions, list[int]]:
    """Return the handlers of two services that answer each other's events for ever, and the hops that they have seen."""
    sales, billing = Subscriptions(), Subscriptions()
    hops: list[int] = []

    @sales.subscribe(OrderBilled)
    async def place(event: OrderBilled, publish: Publish, envelope: Envelope) -> None:
        hops.append(envelope.hops)
        publish(OrderPlaced(event.order_id))

    @billing.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish, envelope: Envelope) -> None:
        hops.append(envelope.hops)
        publish(OrderBilled(event.order_id))

    return sales, billing, hops


async def test_a_circle_of_two_services_ends_dead_with_its_chain(world: World) -> None:
    sales_handlers, billing_handlers, hops = circle()
    dead: list[Dead] = []
    sales = world.service(sales_handlers, name="sales")
    billing = world.service(billing_handlers, name="billing", engine=world.another_engine())
    for service in (sales, billing):
        service.on_dead(dead.append)
    async with sales, billing:
        await world.publish(sales, OrderPlaced("a"))
        await until(lambda: dead)
    assert hops == list(range(11))
    (ended,) = dead
    assert isinstance(ended.exception, CircularChain)
    assert ended.exception.chain[-4:] == ("order.placed", "order.billed", "order.placed", "order.billed")
    ((key, reason, _, error_type),) = world.deliveries()
    assert (key, reason, error_type) == ("a", "cycle", "tidings.errors.CircularChain")
    message = world.one("select error_message from tidings_deliveries")
    assert message.startswith("11 handlers led here one by one, more than max_hops=10: ... -> order.")
    assert message.count("order.placed -> order.billed") >= 3
    rows = [row for name in ("order.placed", "order.billed") for row in world.published(name)]
    deepest = max((_json(row["headers"]) for row in rows), key=lambda headers: int(headers.get("hops", "0")))
    assert (deepest["hops"], len(rows)) == ("11", 12)
    assert "chain" not in _json(rows[0]["headers"])


@pytest.mark.parametrize("most", [1, 3])
async def test_the_limit_is_the_services(world: World, most: int) -> None:
    handlers, others, hops = circle()
    async with world.service(handlers, others, max_hops=most) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(world.deliveries)
    assert hops == list(range(most + 1))


async def test_a_redrive_under_a_higher_limit_goes_on(world: World) -> None:
    handlers, others, hops = circle()
    async with world.service(handlers, others, max_hops=2) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(world.deliveries)
    async with world.service(handlers, others, max_hops=5) as service:
        await service.operations.redrive()
        await until(lambda: len(hops) == 6)
    assert hops == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("hops", ["11", "999999999999999999999", "nonsense", "-1"])
async def test_hops_and_chains_from_outside_are_not_trusted(world: World, hops: str) -> None:
    handlers = Subscriptions()
    seen: list[Any] = []

    @handlers.subscribe(OrderPlaced)
    async def look(event: OrderPlaced, envelope: Envelope) -> None:
        seen.append((envelope.hops, envelope.chain))

    headers = {"hops": hops, "chain": "\x1b[31mred order.placed " + "x" * 100_000}
    async with world.service(handlers) as service:
        await world.insert_row(headers=json.dumps(headers))
        await until(lambda: seen or world.deliveries())
        await until(lambda: service.counters.total)
    if hops == "-1":
        ((number, chain),) = seen
        assert number == 0
        assert all(name.isprintable() and len(name) <= 128 for name in chain)
    else:
        assert seen == []
        assert [(reason, error) for _, reason, _, error in world.deliveries()] == [("cycle", "tidings.errors.CircularChain")]
        assert "\x1b" not in world.one("select error_message from tidings_deliveries")


async def test_a_batch_passes_on_the_most_hops_of_its_events(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, batch=10, concurrency=1)
    async def report(events: list[OrderPlaced], publish: Publish) -> None:
        publish(OrderCancelled(str(len(events))))

    service = world.service(handlers)
    await world.publish(service, OrderPlaced("a"))
    await world.insert_row(key="b", headers=json.dumps({"hops": "7", "tenantid": "t"}))
    async with service:
        await until(lambda: world.published("order.cancelled"))
    headers = _json(world.published("order.cancelled")[0]["headers"])
    assert headers["hops"] == "8"
    assert "tenantid" not in headers


async def test_a_limit_that_is_none_is_refused(world: World) -> None:
    for most in (0, 1001, "3"):
        with pytest.raises(ConfigurationError, match="max_hops"):
            world.service(max_hops=most)


def _json(value: Any) -> Any:
    return value if isinstance(value, dict) else json.loads(value)
