"""From commit through a broker to the handler, at a steady rate: publisher, relay and handler in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks.database import Database
from benchmarks.latency import LEAD, RATE, Arrivals, Publish
from benchmarks.measuring import Series, interleave, percentile
from benchmarks.publishing_process import at_rate, place_order, raw_publisher
from benchmarks.raw_inbound import CLIENTS, Client, Source
from benchmarks.raw_loop import Data
from benchmarks.raw_path import LISTEN, NEWS
from benchmarks.relay import transport_of
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, RAW_INBOX, OrderPlaced, check
from tidings import Contract, Service, Subscriptions
from tidings.stores import SQLStore

__all__ = ["latency"]

#: What p50, p99 and max may be, in milliseconds.
GOALS = (("p50", 4.0), ("p99", 15.0), ("max", None))
HANDLERS = 8

_decode = msgspec.json.Decoder(Data).decode


async def latency(
    settings: Settings, name: str, url: str, database: Database, engine: AsyncEngine, store: SQLStore, contract: Contract
) -> Section:
    """Measure the client's path and ours in turn."""
    seconds = settings.choose(10.0, 2.0)
    found: dict[str, list[list[float]]] = {"raw": [], "ours": []}

    async def once(kind: str) -> float:
        await database.clear(store.names.outbox, store.names.inbox, store.names.checkpoints, "orders", "effects", "raw_outbox", "raw_inbox")
        arrivals = Arrivals()
        count = int((LEAD + seconds) * RATE)
        path = _ours(name, url, engine, store, contract, arrivals) if kind == "ours" else _raw(name, url, database, arrivals)
        async with path as publish:
            committed = await publish(count)
            await arrivals.wait(count)
        effects = await database.admin.fetchrow("select count(*) as rows, count(distinct event_id) as events from effects")
        check(f"{name}, latency, {kind}", rows=(effects["rows"], count), events=(effects["events"], count))
        begin = min(committed.values()) + LEAD
        latencies = [max(0.0, arrivals.at[order_id] - at) * 1e3 for order_id, at in committed.items() if at >= begin]
        found[kind].append([percentile(latencies, 0.5), percentile(latencies, 0.99), max(latencies)])
        return found[kind][-1][0]

    await interleave(f"{name}, latency", {"raw": lambda: once("raw"), "ours": lambda: once("ours")}, settings.rounds)
    rows = []
    for index, (what, bound) in enumerate(GOALS):
        ours, raw = (Series(tuple(shares[index] for shares in found[kind])) for kind in ("ours", "raw"))
        rows.append(Row(what, ours, raw, () if bound is None else (Goal("ours", "<=", bound),)))
    title = f"{name}, latency: commit to handler at {RATE} events/s for {seconds:.0f} s, one process"
    return Section(title, "ms", "LISTEN/NOTIFY in the publisher's transaction, the broker's own client, inbox row, effect", rows)


@asynccontextmanager
async def _ours(
    name: str, url: str, engine: AsyncEngine, store: SQLStore, contract: Contract, arrivals: Arrivals
) -> AsyncIterator[Publish]:
    subscriptions = Subscriptions()

    @subscriptions.subscribe(OrderPlaced, group=f"bench-{uuid4().hex}")
    async def ship(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        arrivals.note(event.order_id)
        await connection.execute(INSERT_EFFECT, event.order_id)

    service = Service(
        "shop", contracts=[contract], subscriptions=[subscriptions], store=store, transport=transport_of(name, url), environment=uuid4().hex
    )
    async with service:
        yield lambda count: at_rate(lambda order_id: place_order(service, AsyncSession(engine), order_id), RATE, count)


@asynccontextmanager
async def _raw(name: str, url: str, database: Database, arrivals: Arrivals) -> AsyncIterator[Publish]:
    topic = f"bench.{uuid4().hex}"
    transport: Any = transport_of(name, url)
    if name == "rabbitmq":
        transport = type(transport)(url, ordered=False)
    await transport.provision([topic], {topic: [topic]})
    client = CLIENTS[name]
    pool: Any
    async with asyncpg.create_pool(database.dsn, min_size=HANDLERS, max_size=HANDLERS) as pool, asyncio.TaskGroup() as tasks:
        sources = [await client.source(url, topic, HANDLERS) for _ in range(HANDLERS)]

        over = False

        async def handle(source: Source) -> None:
            while not over:
                for message in await source.take(1):
                    event_id = _decode(source.body(message)).order_id
                    async with pool.acquire() as connection, connection.transaction():
                        if await connection.fetchval(RAW_INBOX, [event_id]) is not None:
                            arrivals.note(event_id)
                            await connection.execute(INSERT_EFFECT, event_id)
                    await source.acknowledge([message])

        for source in sources:
            tasks.create_task(handle(source))
        relaying = tasks.create_task(_relay(client, url, topic, database.dsn))
        async with raw_publisher(database.dsn) as place:
            yield lambda count: at_rate(place, RATE, count)
        relaying.cancel()
        over = True
    for source in sources:
        await source.close()


async def _relay(client: Client, url: str, topic: str, dsn: str) -> None:
    """Send what the outbox gets."""
    news = asyncio.Event()
    listener = await asyncpg.connect(dsn)
    await listener.add_listener(LISTEN, lambda *_: news.set())
    reader = await asyncpg.connect(dsn)
    sender = await client.sender(url, topic)
    tx, position = "0", 0
    try:
        while True:
            news.clear()
            rows: list[Any] = await reader.fetch(NEWS, tx, position)
            if rows:
                await sender.send([(UUID(str(row["event_id"])), row["data"]) for row in rows])
                tx, position = rows[-1]["tx"], rows[-1]["position"]
                continue
            try:
                async with asyncio.timeout(0.02):
                    await news.wait()
            except TimeoutError:
                continue
    finally:
        await sender.close()
        await listener.close()
        await reader.close()
