"""A service that handles the shop's events until somebody kills it: `python -m tests.consume.mortal URL CALLS SEED`.

Prints a line when it reads. Its leases are short, so that the next process need not wait for long.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from tests.consume.shop import OrderBilled, OrderPlaced, shop
from tests.consume.world import effect, effect_sync
from tidings import Envelope, Publish, Retry, Service, Subscriptions
from tidings.consume import deliveries
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

handlers = Subscriptions()
chance = random.Random()
calls = -1


@handlers.subscribe(OrderPlaced)
async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
    publish(OrderBilled(event.order_id, event.number))
    await effect(session, "bill", event)
    await asyncio.sleep(chance.random() * 0.004)


@handlers.subscribe(OrderPlaced, concurrency=4)
def store(event: OrderPlaced, session: Session) -> None:
    effect_sync(session, "store", event)


@handlers.subscribe(OrderPlaced, retry=Retry(attempts=1000, base=0.01, max=0.05))
async def flaky(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
    await effect(session, "flaky", event)
    if envelope.attempt == 1 and event.number % 11 == 0:
        raise ValueError("no luck")


@handlers.subscribe(OrderPlaced)
async def mail(event: OrderPlaced) -> None:
    os.write(calls, f"{event.number}\n".encode())
    await asyncio.sleep(0.001)


@handlers.subscribe(OrderBilled)
async def receipt(event: OrderBilled, session: AsyncSession) -> None:
    await effect(session, "receipt", event)


async def main(url: str, path: str, seed: str) -> None:
    global calls  # noqa: PLW0603
    calls = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    chance.seed(seed)
    engine = create_async_engine(url, pool_size=20)
    if engine.dialect.name == "sqlite":
        configure(engine)
    deliveries._LEASE = 1.0
    service = Service("shop", contracts=[shop], subscriptions=[handlers], store=SQLStore(engine))
    service.tuning.lease = 1.5
    service.tuning.longest = 0.05
    async with service:
        print("reading", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
