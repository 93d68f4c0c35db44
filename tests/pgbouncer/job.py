"""What a service does all day, in small: handlers of every kind, failures, schedule, and publishers on every kind of connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from tests.consume.shop import MailWanted, OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import EFFECT, World, effect, effect_sync
from tests.pgbouncer.proxies import Behind
from tidings import Publish, Retry, Service, Subscriptions

__all__ = ["Job"]

KEYS = 4


class Job:
    """Handlers, and what must have come of them in the end.

    Every order is charged, which publishes that it was billed, which is noted; every tenth fails at first. Cancellations are scheduled.
    """

    def __init__(self, *, asynchronous: bool) -> None:
        self.mails: list[int] = []
        self.attempts: Counter[int] = Counter()
        self.subscriptions = self._async_handlers() if asynchronous else self._sync_handlers()

    def _fail_at_first(self, number: int) -> None:
        self.attempts[number] += 1
        if number % 10 == 3 and self.attempts[number] == 1:
            raise ValueError("not at the first attempt")

    def _async_handlers(self) -> Subscriptions:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(base=0.01), concurrency=4)
        async def charge(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
            await effect(session, "charge", event)
            publish(OrderBilled(event.order_id, event.number))
            self._fail_at_first(event.number)

        @handlers.subscribe(OrderBilled, concurrency=4)
        async def note(event: OrderBilled, connection: AsyncConnection) -> None:
            await connection.execute(EFFECT, {"subscription": "note", "key": event.order_id, "value": event.number})

        @handlers.subscribe(OrderCancelled, batch=10, concurrency=1)
        async def cancel(events: list[OrderCancelled], session: AsyncSession) -> None:
            for event in events:
                await effect(session, "cancel", event)

        @handlers.subscribe(MailWanted, concurrency=4)
        async def send(event: MailWanted) -> None:
            self.mails.append(event.number)

        return handlers

    def _sync_handlers(self) -> Subscriptions:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(base=0.01), concurrency=4)
        def charge(event: OrderPlaced, session: Session, publish: Publish) -> None:
            effect_sync(session, "charge", event)
            publish(OrderBilled(event.order_id, event.number))
            self._fail_at_first(event.number)

        @handlers.subscribe(OrderBilled, concurrency=4)
        def note(event: OrderBilled, connection: Connection) -> None:
            connection.execute(EFFECT, {"subscription": "note", "key": event.order_id, "value": event.number})

        @handlers.subscribe(OrderCancelled, batch=10, concurrency=1)
        def cancel(events: list[OrderCancelled], session: Session) -> None:
            for event in events:
                effect_sync(session, "cancel", event)

        @handlers.subscribe(MailWanted, concurrency=4)
        def send(event: MailWanted) -> None:
            self.mails.append(event.number)

        return handlers

    async def publish_everything(self, world: World, service: Service, behind: Behind, count: int) -> None:
        """Publish `count` orders from each of five publishers at once; each has keys of its own, numbered in order."""
        publishers: list[Callable[[int, Callable[[int], OrderPlaced]], Any]] = [
            lambda n, event: self._by_session(world, service, n, event),
            lambda n, event: self._by_session(world, service, n, event),
            lambda n, event: self._by_session(world, service, n, event),
            lambda n, event: self._by_asyncpg(service, behind, n, event),
            lambda n, event: self._by_psycopg(service, behind, n, event),
        ]

        def order(place: int) -> Callable[[int], OrderPlaced]:
            return lambda number: OrderPlaced(f"{place}-{number % KEYS}", 1000 * place + number)

        await asyncio.gather(*(publish(count, order(place)) for place, publish in enumerate(publishers)))

    async def _by_session(self, world: World, service: Service, count: int, order: Callable[[int], OrderPlaced]) -> None:
        for number in range(count):
            event = order(number)
            await world.publish(service, event, MailWanted("a@example.org", event.number))
        last = order(count)
        await world.publish(service, OrderCancelled(last.order_id, last.number), delay=timedelta(seconds=0.2))

    async def _by_asyncpg(self, service: Service, behind: Behind, count: int, order: Callable[[int], OrderPlaced]) -> None:
        connection = await asyncpg.connect(behind.proxied.dsn, statement_cache_size=0)
        try:
            for number in range(count):
                async with service.publishing(connection) as publish:
                    await connection.execute("select 1")
                    publish(order(number))
        finally:
            await connection.close()

    async def _by_psycopg(self, service: Service, behind: Behind, count: int, order: Callable[[int], OrderPlaced]) -> None:
        def run() -> None:
            with psycopg.connect(behind.proxied.dsn, prepare_threshold=None) as connection:
                for number in range(count):
                    with service.publishing(connection) as publish:
                        publish(order(number))

        await asyncio.to_thread(run)

    async def is_done(self, world: World, count: int) -> None:
        """Wait until everything was handled and nothing is parked; then check that it was handled once, and in order."""
        placed = sorted(1000 * place + number for place in range(5) for number in range(count))
        for subscription in ("charge", "note"):
            await until_equal(lambda: sorted(value for _, value in world.effects(subscription)), placed, 45)  # noqa: B023
        await until_equal(lambda: sorted(value for _, value in world.effects("cancel")), [1000 * place + count for place in range(3)])
        await until_equal(lambda: sorted(set(self.mails)), [number for number in placed if number < 3000])
        await until(lambda: world.lanes() == [] and world.deliveries() == [], "nothing is parked")
        for subscription in ("charge", "note"):
            by_key: dict[str, list[int]] = {}
            for key, value in world.effects(subscription):
                by_key.setdefault(key, []).append(value)
            assert by_key == {key: sorted(values) for key, values in by_key.items()}
        assert sum(1 for number, attempts in self.attempts.items() if attempts > 1) >= len([n for n in placed if n % 10 == 3])


@asynccontextmanager
async def running(*services: Service) -> AsyncIterator[None]:
    """Run services beside one another."""
    started: list[Service] = []
    try:
        for service in services:
            await service.start()
            started.append(service)
        yield
    finally:
        for service in started:
            await service.stop()
