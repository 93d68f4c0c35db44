"""The relay: a backlog from PostgreSQL to each broker, confirmed, beside the rate at which the broker's own client publishes the same messages."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from time import perf_counter, process_time
from typing import Any
from uuid import uuid4

from benchmarks.backlog import fill
from benchmarks.child import child
from benchmarks.database import Database, fresh_database
from benchmarks.event_loop import run_loop
from benchmarks.measuring import interleave
from benchmarks.raw_brokers import RAW
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import check, contract
from tidings import Service
from tidings.cli.collector import settle
from tidings.relay.encoding import Encoder
from tidings.relay.encoding import Row as Event
from tidings.relay.routing import Routing
from tidings.stores import SQLStore
from tidings.stores.base import Mark
from tidings.transports.base import Transport

BROKERS = ("rabbitmq", "nats", "redis", "kafka")
KEYS = 10_000


async def run(settings: Settings) -> list[Section]:
    """Every broker whose URL is known."""
    events = settings.count(200_000, 3_000)
    missing = []
    sections: list[Section] = []
    async with fresh_database(settings.server, "relay") as database:
        engine = database.engine(2)
        store = SQLStore(engine)
        await store.upgrade()
        await fill(database, store.names.outbox, events, keys=KEYS)
        await engine.dispose()
        size = await database.admin.fetchval(f"select avg(length(data::text))::int from {store.names.outbox}")
        for name in BROKERS:
            if not settings.wants(name):
                continue
            url = os.environ.get(f"TIDINGS_TEST_{name.upper()}", "")
            if not url:
                missing.append(name)
                continue
            sections.append(await _broker(name, url, database, events, size, settings.rounds))
    if missing:
        remark = f"Left out, because `scripts/services run all --` did not start them: {', '.join(missing)}."
        sections.append(Section("relay", "", "", (), (remark,)))
    return sections


async def _broker(name: str, url: str, database: Database, events: int, size: int, rounds: int) -> Section:
    memory: list[float] = []
    used: dict[str, list[float]] = {"raw": [], "relay": []}

    async def measured(kind: str) -> float:
        topic = f"bench.{uuid4().hex}"
        await transport_of(name, url).provision([topic], {topic: [topic]})
        await database.admin.execute("truncate tidings_checkpoints, tidings_subscriptions restart identity")
        # The log says where events go; every run has a topic of its own.
        await database.admin.execute("update tidings_outbox set topic = $1", topic)
        await database.admin.execute("vacuum full analyze tidings_outbox")
        await database.admin.execute("checkpoint")
        found = await child("benchmarks.relay", kind, name, url, database.dsn, topic, str(events))
        check(f"{name}, {kind}", messages=(found["messages"], events))
        used[kind].append(found["used"] / events * 1e6)
        if kind == "relay":
            memory.append(found["peak"] / 2**20)
        return events / float(found["seconds"])

    figures = await interleave(name, {"raw": lambda: measured("raw"), "relay": lambda: measured("relay")}, rounds)
    goal = Goal("ours", ">=", 40_000) if name == "kafka" else Goal("ratio", ">=", 0.8)
    remark = f"{min(used['relay']):.1f} µs of processor time an event, its client {min(used['raw']):.1f}; peak {max(memory):.0f} MiB"
    return Section(
        f"relay to {name}: backlog of {events:,} events of {size} bytes, {KEYS:,} keys", "events/s", "its client publishes the same messages",
        [Row("relay", figures["relay"], figures["raw"], (goal,), remark)],
    )  # fmt: skip


def transport_of(name: str, url: str) -> Transport:
    from tidings.transports import NATS, Kafka, RabbitMQ, Redis

    kinds: dict[str, Any] = {"rabbitmq": RabbitMQ, "nats": NATS, "redis": Redis}
    made: Transport = Kafka(url, partitions=4) if name == "kafka" else kinds[name](url)
    return made


async def relay(name: str, url: str, dsn: str, topic: str, events: int) -> dict[str, Any]:
    """Relay the backlog as `tidings run --roles relay` does; return how many were confirmed, and in how many seconds."""
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"postgresql+asyncpg://{dsn.partition('://')[2]}", pool_size=10)
    service = Service("bench", contracts=[contract], store=SQLStore(engine), transport=transport_of(name, url), provision="off")
    began, used = perf_counter(), process_time()
    await service.start(["relay"])
    # As `tidings run` does.
    settle()
    while service.counters.of("relayed") < events:  # noqa: ASYNC110 - the counters tell nobody
        await asyncio.sleep(0.002)
    took, used = perf_counter() - began, process_time() - used
    failed = service.counters.of("failed")
    await service.stop()
    await engine.dispose()
    return {"messages": service.counters.of("relayed") - failed, "seconds": took, "used": used}


async def raw(name: str, url: str, dsn: str, topic: str, events: int) -> dict[str, Any]:
    """Publish the same messages, written before the clock runs, with the client's own loop."""
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"postgresql+asyncpg://{dsn.partition('://')[2]}", pool_size=1)
    store = SQLStore(engine)
    await store.open()
    transport = transport_of(name, url)
    encoder = Encoder("bench", Routing(transport, {}, [contract], list(contract), None), transport)
    messages = []
    mark = Mark("1:1:", None, 0)
    async with store.connections.autocommit() as held:
        while True:
            batch = await held.run(store.log.read, mark, 1000)
            messages += [encoder.outgoing(Event(*row[:10])).message for row in batch.rows]
            mark = batch.end
            if not batch.more:
                break
    await engine.dispose()
    began, used = perf_counter(), process_time()
    # The queue of Kafka's client holds 100,000 messages, and its loop does not wait for room.
    share = 50_000 if name == "kafka" else len(messages)
    for first in range(0, len(messages), share):
        await RAW[name].publish(url, topic, messages[first : first + share])
    return {"messages": len(messages), "seconds": perf_counter() - began, "used": process_time() - used}


def main() -> None:
    """Run one of the two, and print what was found as JSON."""
    from benchmarks.reading import resident

    kind, name, url, dsn, topic, events = sys.argv[1:]
    found = run_loop({"raw": raw, "relay": relay}[kind], name, url, dsn, topic, int(events))
    print(json.dumps({**found, "peak": resident("VmHWM")}))


if __name__ == "__main__":
    main()
