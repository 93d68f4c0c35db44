"""The application: the only module that knows all the others.

`SHOP_DATABASE=sqlite+aiosqlite:///shop.db tidings run tidings.demo.shop.app:create_service` runs it in a process of its own.
"""

from __future__ import annotations

import logging
import os

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidings import Service
from tidings.demo.shop import contracts, inventory, mail, payments, receipts, sales, shipping
from tidings.demo.shop.shipping import Carrier
from tidings.service import Dead
from tidings.stores import SQLStore
from tidings.stores.sqlite import configure

logger = logging.getLogger(__name__)


class Reliable:
    """A carrier that takes everything."""

    async def collect(self, order_id: str, city: str) -> None:
        """Take a parcel."""


def create_engine(url: str, schema: str | None = None) -> AsyncEngine:
    """Return an engine; with a schema, the shop's tables are in that."""
    # What all subscriptions may do at once, and the readers.
    engine = create_async_engine(url, pool_size=5, max_overflow=25, execution_options={"schema_translate_map": {None: schema}})
    if engine.dialect.name == "sqlite":
        configure(engine)
    return engine


def create_service(engine: AsyncEngine | None = None, schema: str | None = None, carrier: Carrier | None = None) -> Service:
    """Put the shop together. Nothing is connected or started."""
    if engine is None:
        engine = create_engine(os.environ["SHOP_DATABASE"], schema)
    service = Service(
        "shop",
        contracts=[contracts.shop],
        subscriptions=[inventory.handlers, receipts.handlers, shipping.handlers, payments.handlers, mail.handlers, sales.handlers],
        store=SQLStore(engine, schema=schema),
    )
    service.provide(Carrier, carrier or Reliable())
    service.on_dead(call_for_help)
    return service


async def call_for_help(dead: Dead) -> None:
    """Tell a human: after the last attempt, once."""
    logger.error("%s: %s gave up on %s; somebody has to look", dead.key, dead.subscription, dead.message_type)
