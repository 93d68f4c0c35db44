"""A small service for the tests of the command line: everything it is told to refuse is dead at once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.services.databases import Database
from tidings import Contract, Retry, Service, Subscriptions
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

#: Clears a screen, sets a window's title, rings the bell, turns the direction of text round, and breaks the line.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202eevil[bold red]\r\nsecond line\x9b31m"

till = Contract("till")


@till.event("sale.made", version=2, key="receipt")
@dataclass(frozen=True)
class SaleMade:
    receipt: str
    text: str = ""


@till.event("drawer.opened")
@dataclass(frozen=True)
class DrawerOpened:
    by: str


handlers = Subscriptions()


class Refused(Exception):
    """This sale cannot be booked."""


@handlers.subscribe(SaleMade, name="book", retry=Retry(attempts=1), concurrency=2)
async def book(event: SaleMade, session: AsyncSession) -> None:
    if event.receipt == "bad":
        raise Refused(HOSTILE)


@handlers.subscribe(DrawerOpened, name="watch", group="security", concurrency=2)
async def watch(event: DrawerOpened) -> None:
    pass


def make_engine(database: Database) -> AsyncEngine:
    engine = create_async_engine(database.url)
    if database.kind == "sqlite":
        configure(engine)
    return engine


def make_service(engine: AsyncEngine, name: str = "till") -> Service:
    return Service(name, contracts=[till], subscriptions=[handlers], store=SQLStore(engine))


async def publish(engine: AsyncEngine, *events: object, delay: timedelta | None = None) -> None:
    """Publish each event in a transaction of its own."""
    service = make_service(engine)
    for event in events:
        async with AsyncSession(engine) as session, session.begin():
            service.publish(session, event, delay=delay)


async def handled(engine: AsyncEngine, count: int, name: str = "till") -> None:
    """Run the service until so many deliveries were handled or parked."""
    service = make_service(engine, name)
    async with asyncio.timeout(20), service:
        while service.counters.of("handled") + service.counters.of("parked") < count:
            await asyncio.sleep(0.01)


async def fill(database: Database) -> None:
    """Make tables, two sales that were handled, one that is dead, two behind it, one scheduled, and one unread."""
    engine = make_engine(database)
    await SQLStore(engine).upgrade()
    sales = [SaleMade("a-1", "tea"), SaleMade("bad", HOSTILE), SaleMade("bad", "second"), SaleMade("a-2", "cup"), SaleMade("bad", "third")]
    await publish(engine, *sales, DrawerOpened("Ada"))
    await handled(engine, 6)
    await publish(engine, SaleMade("a-3", "late"))
    await publish(engine, DrawerOpened("Bob"), delay=timedelta(hours=1))
    await engine.dispose()
