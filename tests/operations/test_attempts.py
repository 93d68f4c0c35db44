"""What was tried of an event that had failed is still known when it is over; of one that succeeds at once nothing more is written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import OrderPlaced
from tests.consume.waiting import until_equal
from tests.consume.world import World, effect
from tests.operations.test_retention import age, purge
from tidings import Retry, Service, Subscriptions
from tidings.stores.sql.remembered import Ended, Remembered

DAY = timedelta(days=1)


class Faltering:
    """A service whose handler fails so often for an order, and then succeeds."""

    def __init__(self, world: World, attempts: int = 10, **options: Any) -> None:
        self.failures: dict[str, int] = {}
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=attempts, base=0.01, max=0.01))
        async def bill(event: OrderPlaced, session: AsyncSession) -> None:
            await effect(session, "bill", event)
            if event.number == 0 and self.failures.get(event.order_id, 0):
                self.failures[event.order_id] -= 1
                raise ValueError(f"order {event.order_id} is not ready, {self.failures[event.order_id]} to go")

        self.service: Service = world.service(handlers, **options)


async def ended(world: World, order: str) -> list[Ended]:
    event_id, source = world.rows(
        "select id, source from tidings_outbox where key = :key order by position limit 1".replace(":key", f"'{order}'")
    )[0]
    remembered = Remembered(world.store.names, world.store.dialect)
    return await world.store.call(remembered.of, source, str(event_id))


def kept(world: World) -> int:
    return int(world.one("select count(*) from tidings_attempts"))


async def test_attempts_that_failed_are_known_when_the_event_was_handled(world: World) -> None:
    faltering = Faltering(world)
    faltering.failures = {"a": 2}
    async with faltering.service as service:
        await world.publish(service, *(OrderPlaced(key, number) for number in range(3) for key in "ab"))
        await until_equal(lambda: len(world.effects()), 6)
        await until_equal(world.lanes, [])
    (found,) = await ended(world, "a")
    assert found.word == "handled"
    assert [(each["attempt"], each["error"]) for each in found.attempts] == [
        (1, "ValueError: order a is not ready, 1 to go"),
        (2, "ValueError: order a is not ready, 0 to go"),
    ]
    assert all({"at", "worker"} <= set(each) for each in found.attempts)
    # Neither of what succeeded at once, nor of what only waited behind.
    assert kept(world) == 1
    assert [item.attempts for item in await ended(world, "b")] == [()]


async def test_an_event_that_succeeds_at_once_costs_no_statement_on_the_attempts(world: World) -> None:
    said: list[str] = []
    engine = getattr(world.engine, "sync_engine", world.engine)
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _u, sql, *_: said.append(sql))
    async with Faltering(world).service as service:
        said.clear()
        await world.publish(service, *(OrderPlaced("a", number) for number in range(5)))
        await until_equal(lambda: len(world.effects()), 5)
        assert not [sql for sql in said if "tidings_attempts" in sql and "purge" not in sql and "ended_at <" not in sql]


async def test_what_was_tried_of_a_discarded_event_is_known(world: World) -> None:
    faltering = Faltering(world, attempts=2, dead_retention=DAY)
    faltering.failures = {"a": 5, "b": 5}
    async with faltering.service as service:
        await world.publish(service, OrderPlaced("a", 0), OrderPlaced("b", 0))
        await until_equal(world.lanes, [("a", "dead", 1, 2), ("b", "dead", 1, 2)])
        assert kept(world) == 0
        assert await service.operations.discard(reason="a test", key="a") == 1
    (found,) = await ended(world, "a")
    assert (found.word, [each["attempt"] for each in found.attempts]) == ("discarded", [1, 2])
    await age(world, "deliveries", "failed_at", 2)
    await purge(faltering.service)
    (found,) = await ended(world, "b")
    assert (found.word, [each["attempt"] for each in found.attempts]) == ("discarded", [1, 2])


async def test_attempts_are_kept_as_long_as_the_inbox(world: World) -> None:
    faltering = Faltering(world, inbox_retention=10 * DAY)
    faltering.failures = {"a": 1}
    async with faltering.service as service:
        await world.publish(service, OrderPlaced("a", 0))
        await until_equal(world.effects, [("a", 0)])
        await until_equal(world.lanes, [])
    await age(world, "attempts", "ended_at", 9)
    await purge(faltering.service)
    assert kept(world) == 1
    await age(world, "attempts", "ended_at", 2)
    await purge(faltering.service)
    assert kept(world) == 0
