"""A peer on the same work, if it is installed: faststream-outbox, the best of Python's outboxes. It is no dependency of ours.

The peer has no inbox and no order by key: its handler writes an inbox row by hand, as its users have to.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from benchmarks import handle, publish
from benchmarks.database import Database, fresh_database, warm
from benchmarks.handle import Bench
from benchmarks.measuring import interleave
from benchmarks.report import Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, LINES, check, contract, create_tables, orders
from tidings import Service
from tidings.stores import SQLStore

TABLE = "peer_outbox"
WORKERS = 16
BODY: dict[str, Any] = {"lines": [{"sku": line.sku, "qty": line.qty, "price": line.price} for line in LINES]}

_INBOX = "insert into raw_inbox (subscription, event_id) values ('bench', $1) on conflict do nothing returning event_id"


async def run(settings: Settings) -> list[Section]:
    """Publish and handle beside the peer."""
    if find_spec("faststream_outbox") is None:
        print("peers: faststream-outbox is not installed (pip install faststream-outbox): nothing to compare with.")
        return []
    async with fresh_database(settings.server, "peers_publish") as database:
        sections = [await publishing(settings, database)]
    events = settings.count(20_000, 1_000)
    async with fresh_database(settings.server, "peers_handle") as database, handle.benches(database, events) as (keyed, _):
        sections.append(await handling(settings, database, keyed))
    return sections


async def publishing(settings: Settings, database: Database) -> Section:
    """One event in each transaction, with SQLAlchemy."""
    await create_tables(database)
    engine = database.engine(publish.TASKS)
    service = Service("bench", contracts=[contract], store=SQLStore(engine))
    await service.store.upgrade()
    await warm(engine, publish.TASKS)
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)
    broker, _ = await make_broker(engine)

    async def peer(task: int) -> None:
        order_id = uuid4()
        async with sessions() as session, session.begin():
            await session.execute(orders.insert().values(id=order_id, customer="c", total=10))
            await broker.publish({"order_id": str(order_id), "customer": "c", **BODY}, queue="orders", session=session)

    bare, ours = [c for c in publish.core(service, sessions) if c.name in ("bare transaction", "1 event, no key")]
    contenders = [bare, ours, publish.Contender("faststream-outbox, 1 event", peer)]
    section = await publish.measure(settings, database, service, "beside faststream-outbox", contenders, TABLE)
    await engine.dispose()
    return section


async def handling(settings: Settings, database: Database, bench: Bench) -> Section:
    """A one-insert handler on asyncpg, effects once."""
    variant = handle.VARIANTS[0]
    engine = database.engine(40)
    await make_broker(engine)

    async def peer() -> float:
        await database.clear(TABLE, "effects", "raw_inbox")
        rate = await drain(engine, database, bench.events)
        found = await database.admin.fetchrow("select count(*) as rows, count(distinct event_id) as events from effects")
        check("faststream-outbox", rows=(found["rows"], bench.events), events=(found["events"], bench.events))
        return rate

    figures = await interleave("peers, handle", {"peer": peer, "ours": lambda: bench.ours(variant)}, settings.rounds)
    await engine.dispose()
    title = f"peers: handle {bench.events:,} events, effects once"
    remark = "Tidings keeps order by key, and its inbox is its own; the peer keeps no order, and its handler writes the inbox row."
    return Section(title, "events/s", "faststream-outbox, 16 workers", [Row(variant.name, figures["ours"], figures["peer"])], [remark])


async def make_broker(engine: AsyncEngine) -> tuple[Any, sa.Table]:
    """Return the peer's broker; its table is made if need be."""
    from faststream_outbox import OutboxBroker, make_outbox_table  # type: ignore[import-not-found,unused-ignore]

    table = make_outbox_table(sa.MetaData(), table_name=TABLE)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: table.create(sync, checkfirst=True))
    return OutboxBroker(engine, outbox_table=table, logger=None), table


async def drain(engine: AsyncEngine, database: Database, events: int) -> float:
    """Fill the peer's table and handle everything; return events a second."""
    broker, _ = await make_broker(engine)
    for first in range(0, events, 1000):
        async with engine.begin() as connection:
            bodies = [{"order_id": str(uuid4()), "customer": "c", **BODY} for _ in range(min(1000, events - first))]
            await broker.publish_batch(*bodies, queue="orders", session=connection)
    await database.settle(TABLE)
    done = asyncio.Event()
    handled = 0
    async with asyncpg.create_pool(database.dsn, min_size=WORKERS, max_size=WORKERS) as pool:

        async def effect(body: dict[str, Any]) -> None:
            nonlocal handled
            event_id = UUID(body["order_id"])
            async with pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_INBOX, event_id) is not None:
                    await connection.execute(INSERT_EFFECT, event_id)
            handled += 1
            if handled == events:
                done.set()

        broker.subscriber(
            "orders",
            max_workers=WORKERS,
            fetch_batch_size=1000,
            min_fetch_interval=0.01,
            max_fetch_interval=0.2,
            terminal_flush_batch_size=100,
        )(effect)
        started = perf_counter()
        await broker.start()
        async with asyncio.timeout(handle.PATIENCE):
            await done.wait()
        elapsed = perf_counter() - started
        await broker.stop()
    return events / elapsed
