"""The customers: each order is a transaction on the shop's database. Some of them do not go well, on purpose."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tidings import Service
from tidings.demo.ledger import ATLANTIS, THULE, Carrier, Ledger
from tidings.demo.shop import orders

__all__ = ["CardDeclined", "Customers"]

logger = logging.getLogger(__name__)

_CITIES = ("London", "Helsinki", "New York", "Kyoto", "Lima", "Nairobi")


class CardDeclined(Exception):
    """The bank says no."""


class Customers:
    """What customers do, one transaction each; the ledger notes what has to come of it."""

    def __init__(self, service: Service, sessions: async_sessionmaker[AsyncSession], ledger: Ledger, carrier: Carrier) -> None:
        self.service = service
        self.sessions = sessions
        self.ledger = ledger
        self.carrier = carrier
        self._orders = 0

    def number(self) -> str:
        """Return the number of the next order."""
        self._orders += 1
        return f"o-{self._orders}"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[tuple[AsyncSession, list[UUID]]]:
        """A transaction, and a list for the ids of its events: what is in it when it commits is committed, else it is gone."""
        ids: list[UUID] = []
        try:
            async with self.sessions.begin() as session:
                yield session, ids
        except BaseException:
            self.ledger.gone += ids
            raise
        self.ledger.committed += ids

    async def order(self, city: str | None = None, *, quiet: bool = False) -> str:
        """Order something."""
        number, where, (item, quantity) = self.number(), city or random.choice(_CITIES), _something()
        async with self.transaction() as (session, ids):
            ids.append(orders.place(self.service, session, number, where, item, quantity))
        if not quiet:
            logger.info("%s: placed, %d x %s to %s", number, quantity, item, where)
        return number

    async def order_at_the_old_till(self) -> None:
        """Order where the old version of the event is still published."""
        number = self.number()
        async with self.transaction() as (session, ids):
            ids.append(orders.ring_up(self.service, session, number, "cup"))
        self.ledger.old += 1
        logger.info("%s: placed at the old till, which publishes version 1 of the event", number)

    async def order_without_money(self) -> None:
        """Order, and have the card declined after the event was published: an exception ends the transaction."""
        number = self.number()
        try:
            async with self.transaction() as (session, ids):
                ids.append(orders.place(self.service, session, number, "Paris", "teapot", 1))
                raise CardDeclined
        except CardDeclined:
            logger.info("%s: card declined, rolled back by the exception; its event is gone", number)

    async def order_and_think_again(self) -> None:
        """Order, and roll back."""
        number = self.number()
        async with self.sessions() as session:
            self.ledger.gone.append(orders.place(self.service, session, number, "Oslo", "kettle", 2))
            await session.flush()
            await session.rollback()
        logger.info("%s: changed their mind, rolled back; its event is gone", number)

    async def order_twice(self, number: str) -> None:
        """Send an order off a second time: the database refuses it, and its event goes with it."""
        try:
            async with self.transaction() as (session, ids):
                ids.append(orders.place(self.service, session, number, "Rome", "cup", 6))
        except IntegrityError:
            logger.info("%s: sent off twice, refused by the database; the second event is gone", number)

    async def order_with_an_extra(self) -> None:
        """Order, with an extra in a savepoint that is rolled back: the order stays, the extra's event goes."""
        number, extra = self.number(), self.number()
        async with self.transaction() as (session, ids):
            ids.append(orders.place(self.service, session, number, "Vienna", "teapot", 1))
            savepoint = await session.begin_nested()
            self.ledger.gone.append(orders.place(self.service, session, extra, "Vienna", "tin of tea", 3))
            await session.flush()
            await savepoint.rollback()
        logger.info("%s: placed; its extra %s was sold out: only that savepoint is rolled back, with its event", number, extra)

    async def order_slowly(self, seconds: float) -> None:
        """Order in a transaction that stays open while others commit."""
        number = self.number()
        logger.info("%s: begun, and the bank takes its time ...", number)
        async with self.transaction() as (session, ids):
            ids.append(orders.place(self.service, session, number, "Lagos", "kettle", 1))
            await session.flush()
            await asyncio.sleep(seconds)
        logger.info("%s: ... placed after %.1f s; its event was not overlooked", number, seconds)

    async def order_many(self, count: int) -> None:
        """Order, all at once."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(self.order(quiet=True))
        logger.info("%d orders placed at once", count)

    async def order_from_thule(self) -> None:
        """Order to where the carrier gets at the third attempt."""
        await self.order(THULE)

    async def order_from_atlantis(self) -> None:
        """Order to where the carrier never gets, and cancel after its first refusal: the cancellation waits behind the parcel."""
        number = await self.order(ATLANTIS)
        async with asyncio.timeout(20):
            await self.carrier.refusal(number)
        async with self.transaction() as (session, ids):
            ids.append(await orders.cancel(self.service, session, number, "it takes too long"))
        self.ledger.blocked += 1
        self.ledger.behind += 1
        logger.info("%s: cancelled", number)

    async def promise_to_pay(self, within: timedelta, *, pay: bool) -> None:
        """Order and pay later: a reminder is scheduled, and cancelled by whoever pays before."""
        number = await self.order()
        async with self.transaction() as (session, ids):
            reminder = orders.pay_later(self.service, session, number, within)
            if not pay:
                ids.append(reminder)
        logger.info("%s: to be paid within %.1f s, or a reminder follows", number, within.total_seconds())
        if pay:
            async with self.sessions.begin() as session:
                cancellation = self.service.cancel(session, reminder)
            assert cancellation.cancelled
            self.ledger.cancelled.append(reminder)
            logger.info("%s: paid, the reminder is cancelled", number)

    async def make_offer(self, valid: timedelta) -> None:
        """Let the shop offer something that nobody will hear of in time."""
        async with self.transaction() as (session, ids):
            ids.append(orders.offer(self.service, session, "kettle", 20, valid))
        self.ledger.expired += 1
        logger.info("an offer is made; it expires in %.1f s", valid.total_seconds())


def _something() -> tuple[str, int]:
    return random.choice(list(orders.PRICES)), random.randint(1, 3)
