"""The demo from beginning to end."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tidings import Service
from tidings.consume.outcome import Outcome
from tidings.demo.customers import Customers
from tidings.demo.ledger import Carrier, Ledger
from tidings.demo.lines import CHAPTER, console, narrated
from tidings.demo.place import Place, prepared
from tidings.demo.shop.app import create_service
from tidings.demo.sums import Facts, facts_of, lines, settled, show
from tidings.stores import SQLStore

__all__ = ["run_demo"]

logger = logging.getLogger(__name__)

#: Most seconds that the demo waits for something that has to happen.
_PATIENCE = 20.0


async def run_demo(url: URL | None, stop: asyncio.Event, *, once: bool) -> bool:
    """Tell the story, print the sums, and return whether they add up.

    Args:
        url: a database, with an asynchronous driver; None is a new SQLite file.
        stop: ends the orders that follow the story, and shortens the story's pauses.
        once: end after the story.

    Raises:
        ConfigurationError: the database has something that the demo has not made.
    """
    place = await prepared(url)
    out = console()
    try:
        with narrated(out):
            demo = Demo(place, stop)
            async with _dashboard(place) as sentence:
                out.print(f"Look at it from another terminal:  tidings status {place.options}")
                out.print(f"{sentence}\n", soft_wrap=True)
                await demo.tell(once=once)
        adds_up = show(out, lines(demo.ledger, demo.carrier, await demo.facts()))
        out.print("Everything adds up." if adds_up else "The sums do not add up: this is a defect of Tidings.")
        out.print(f"Look around:  tidings status {place.options}\n              tidings dead list {place.options}")
        return adds_up
    finally:
        await place.engine.dispose()


@asynccontextmanager
async def _dashboard(place: Place) -> AsyncIterator[str]:
    """Open the dashboard for this machine, if it is installed; gives what is said about it."""
    try:
        from tidings.dashboard.serving import serving
    except ImportError:
        yield "The dashboard is not installed: pip install 'tidings[dashboard]'"
        return
    from tidings.dashboard import Dashboard

    store = SQLStore(place.engine, schema=place.schema)
    async with serving(Dashboard(store), "127.0.0.1", 0) as address:
        yield f"Or in a browser on this machine:   {address}"


class Demo:
    """The story. It has a service, which is stopped and made anew once, and customers."""

    def __init__(self, place: Place, stop: asyncio.Event) -> None:
        self.place = place
        self.stop = stop
        self.ledger = Ledger()
        self.carrier = Carrier()
        self.service = self._service()
        sessions = async_sessionmaker(place.engine, class_=AsyncSession, expire_on_commit=False)
        self.customers = Customers(self.service, sessions, self.ledger, self.carrier)

    async def tell(self, *, once: bool) -> None:
        """Tell it, and stop everything that was started."""
        await self.before_opening()
        async with self.service:
            await self.a_day()
            await self.until(settled)
        await self.power_cut()
        async with self.service:
            await self.until(lambda _: self.service.counters.of("duplicates") >= self.ledger.repeated)
            logger.info("%d deliveries read again, all of them recognised", self.service.counters.of("duplicates"))
            await self.customers.order("Lagos")
            if not once:
                await self.every_other_day()
            await self.until(settled)

    async def before_opening(self) -> None:
        """Publish while nothing runs that could handle: it waits in the log."""
        _chapter("Orders come in before anybody is there to handle them")
        await self.customers.order("London")
        await self.customers.order_at_the_old_till()
        await self.customers.make_offer(timedelta(seconds=0.3))
        await asyncio.sleep(0.4)

    async def a_day(self) -> None:
        """Everything that can happen."""
        customers = self.customers
        _chapter("The handlers start")
        await self.pause(0.3)
        _chapter("Transactions that do not commit publish nothing")
        first = await customers.order("Helsinki")
        await customers.order_without_money()
        await customers.order_and_think_again()
        await customers.order_twice(first)
        await customers.order_with_an_extra()
        await self.pause(0.3)
        _chapter("Failures: Thule is hard to reach, Atlantis impossible; nobody else has to wait")
        await customers.order_from_thule()
        await customers.order_from_atlantis()
        await customers.order("Kyoto")
        await self.pause(0.5)
        _chapter("Later, or never")
        await customers.promise_to_pay(timedelta(seconds=1.0), pay=False)
        await customers.promise_to_pay(timedelta(seconds=30.0), pay=True)
        await self.pause(0.4)
        _chapter("A slow transaction, and many at once")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(customers.order_slowly(0.4))
            await asyncio.sleep(0.1)
            tasks.create_task(customers.order("Lima"))
        await customers.order_many(12)

    async def power_cut(self) -> None:
        """Set the checkpoints back, as if nothing had been noted since the beginning, and make the service anew."""
        _chapter("A restart that has forgotten how far it had come: every event is read again")
        facts = await self.facts()
        over = (Outcome.HANDLED, Outcome.EXPIRED)
        self.ledger.repeated = sum(count for (_, outcome), count in facts.inbox.items() if outcome in over)
        async with self.place.engine.begin() as connection:
            await connection.run_sync(_forget, self.service.store)
        self.service = self.customers.service = self._service()

    async def every_other_day(self) -> None:
        """Go on placing orders until asked to stop."""
        _chapter("The shop goes on; Ctrl-C ends it")
        customers = self.customers
        unusual = (
            customers.order_without_money, customers.order_and_think_again, customers.order_with_an_extra, customers.order_at_the_old_till,
            customers.order_from_thule, customers.order_from_atlantis,
        )  # fmt: skip
        while not self.stop.is_set():
            if random.random() < 0.75:
                await customers.order()
            else:
                await random.choice(unusual)()
            await self.pause(random.uniform(0.3, 1.2))
        _chapter("Closing: what is under way is finished")

    async def facts(self) -> Facts:
        """Ask the database."""
        async with self.place.engine.connect() as connection:
            # SQLite's transactions would take the write lock; these are only questions.
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return await connection.run_sync(facts_of, self.service.store)

    async def until(self, condition: Callable[[Facts], bool]) -> None:
        """Wait until something is so; after too long go on without, and let the sums tell."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not condition(await self.facts()):  # noqa: ASYNC110 - rows of a database give no sign
                    await asyncio.sleep(0.05)
        except TimeoutError:
            logger.error("waited %.0f s in vain", _PATIENCE)

    async def pause(self, seconds: float) -> None:
        """Let things happen, or go on at once when asked to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()

    def _service(self) -> Service:
        return create_service(self.place.engine, self.place.schema, self.carrier)


def _chapter(title: str) -> None:
    logger.info("%s", title, extra={CHAPTER: True})


def _forget(connection: Connection, store: SQLStore) -> None:
    windows = ", previous = '1:1:', current = null" if connection.dialect.name == "postgresql" else ""
    connection.execute(text(f"update {store.names.checkpoints} set position = 0{windows} where kind = 'log'"))
