"""Events that come through a broker, beside what its own client does for the same work: handled, from outbox to effect, and how late.

Each run has a topic of its own. The reference handles one hundred in a transaction, from four connections at once, without order by key; from outbox
to effect it has one relay and one consumer, and in a line of its own four.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import handlers, raw_inbound
from benchmarks.backlog import fill
from benchmarks.database import Database, fresh_database, warm
from benchmarks.handlers import Calls, Declare
from benchmarks.inbound_latency import latency
from benchmarks.measuring import Run, interleave
from benchmarks.raw_brokers import RAW
from benchmarks.raw_inbound import CLIENTS, TASKS, UNWRITTEN, Effects, drain, relay
from benchmarks.relay import transport_of
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from benchmarks.workload import INSERT_EFFECT, OrderPlaced, WrongResult, check, create_tables, raw_payload
from tidings import Contract, Service, Subscriptions
from tidings.cli.collector import settle
from tidings.codecs.message import Message
from tidings.contracts import EventType
from tidings.ids import uuid7
from tidings.relay.encoding import Encoder
from tidings.relay.encoding import Row as Event
from tidings.relay.routing import Routing
from tidings.stores import SQLStore

KEYS = 100
CONNECTIONS = 32
PATIENCE = 120.0
#: The best stack of peers from outbox to effect, in events a second: see the README. Nobody has been measured on Kafka.
BEST_PEERS = {"rabbitmq": 991, "nats": 1_445, "redis": 1_089}


def _topic(kind: EventType[Any], environment: str | None) -> str:
    return f"{kind.name}.{environment}"


contract = Contract("inbound", namer=_topic)
contract.event("order.placed", key="customer")(OrderPlaced)


@dataclass(slots=True)
class Bench:
    """One broker, and a database to handle in."""

    name: str
    url: str
    database: Database
    engine: AsyncEngine
    store: SQLStore
    events: int

    async def consume(self, declare: Declare, messages: Sequence[Message], *, effects: bool) -> float:
        """Handle messages that wait at the broker, with a new service; return events a second."""
        environment, group = uuid4().hex, f"bench-{uuid4().hex}"
        await self._publish(environment, group, messages)
        subscriptions, calls = Subscriptions(), Calls()
        declare(subscriptions, calls)
        transport = transport_of(self.name, self.url)
        service = Service(
            group, contracts=[contract], subscriptions=[subscriptions], store=self.store, transport=transport, environment=environment
        )
        took = await self._until_handled(service, group, joined=self.name == "kafka")
        check(self.name, inbox=(await self.database.admin.fetchval(f"select count(*) from {self.store.names.inbox}"), self.events))
        if effects:
            await self._check([message.id or "" for message in messages])
        else:
            check(self.name, calls=(calls.count, self.events))
        return self.events / took

    async def raw_consume(self, messages: Sequence[Message]) -> float:
        """Handle the same messages with the client."""
        topic = await self._raw_topic()
        await RAW[self.name].publish(self.url, topic, messages)
        await self._clear()
        async with self._pool() as pool:
            began = perf_counter()
            took = await drain(CLIENTS[self.name], self.url, topic, Effects(pool), self.events) - began
        await self._check()
        return self.events / took

    async def raw_receive(self, messages: Sequence[Message]) -> float:
        """Receive and acknowledge the same messages with the client, and do nothing."""
        topic = await self._raw_topic()
        await RAW[self.name].publish(self.url, topic, messages)
        began = perf_counter()
        if self.name == "kafka":
            # Not as a group: it would first agree about who reads what.
            return self.events / (await drain(CLIENTS[self.name], self.url, topic, None, self.events) - began)
        await RAW[self.name].receive(self.url, topic, self.events)
        return self.events / (perf_counter() - began)

    async def by_hand(self, messages: Sequence[Message]) -> float:
        """Call a function with the same messages, and keep our promise about how many calls a crash repeats, with the client."""
        topic = await self._raw_topic()
        await RAW[self.name].publish(self.url, topic, messages)
        await self._clear()
        async with self._pool() as pool:
            calls = raw_inbound.Calls(pool)
            began = perf_counter()
            took = await drain(CLIENTS[self.name], self.url, topic, calls, self.events, UNWRITTEN) - began
        inbox = await self.database.admin.fetchval("select count(*) from raw_inbox")
        check(f"{self.name}, by hand", calls=(calls.count, self.events), inbox=(inbox, self.events))
        return self.events / took

    async def end_to_end(self) -> float:
        """Relay the backlog of the outbox, and handle it, in this process; return events a second."""
        environment, group = uuid4().hex, f"bench-{uuid4().hex}"
        await self._clear()
        names, admin = self.store.names, self.database.admin
        await admin.execute(f"truncate {names.checkpoints}, {names.subscriptions} restart identity")
        await admin.execute(f"update {names.outbox} set topic = $1", f"order.placed.{environment}")
        await self.database.admin.execute(f"vacuum full analyze {names.outbox}")
        await admin.execute("checkpoint")
        subscriptions = Subscriptions()

        @subscriptions.subscribe(OrderPlaced, name="effect", group=group)
        async def effect(event: OrderPlaced, connection: asyncpg.Connection) -> None:
            await connection.execute(INSERT_EFFECT, event.order_id)

        service = Service(
            "bench", contracts=[contract], subscriptions=[subscriptions], store=self.store, transport=transport_of(self.name, self.url),
            environment=environment,
        )  # fmt: skip
        took = await self._until_handled(service, group)
        await self._check()
        return self.events / took

    async def raw_end_to_end(self, consumers: int = 1) -> float:
        """Do the same with the client: one relay, and so many that handle."""
        topic = await self._raw_topic()
        await self._clear()
        client = CLIENTS[self.name]
        async with self._pool() as pool:
            began = perf_counter()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(relay(client, self.url, topic, self.database.dsn, self.store.names.outbox))
                ended = tasks.create_task(drain(client, self.url, topic, Effects(pool), self.events, consumers=consumers))
            took = ended.result() - began
        await self._check()
        return self.events / took

    async def _publish(self, environment: str, group: str, messages: Sequence[Message]) -> None:
        """Let a group's messages wait at the broker."""
        topic = f"order.placed.{environment}"
        await transport_of(self.name, self.url).provision([topic], {group: [topic]})
        await RAW[self.name].publish(self.url, topic, messages)
        await self._clear()

    async def _raw_topic(self) -> str:
        """Make a topic with a group of the same name, whose messages everybody gets a part of."""
        topic = f"bench.{uuid4().hex}"
        transport: Any = transport_of(self.name, self.url)
        if self.name == "rabbitmq":
            transport = type(transport)(self.url, ordered=False)
        await transport.provision([topic], {topic: [topic]})
        return topic

    async def _until_handled(self, service: Service, group: str, *, joined: bool = False) -> float:
        """Return the seconds until all are handled.

        Args:
            joined: begin to count with the first one: a group of Kafka agrees about who reads what, which the raw loop is told.
        """
        async with service:
            subject = (f"{group}/effect", "handled")
            started = began = perf_counter()
            while service.counters.total[subject] < self.events:
                if joined and not service.counters.total[subject]:
                    began = perf_counter()
                await asyncio.sleep(0.002)
                if perf_counter() - started > PATIENCE:
                    raise WrongResult(f"{self.name}: after {PATIENCE:.0f} s only {dict(service.counters.total)} of {self.events:,} events")
            return perf_counter() - began

    async def _clear(self) -> None:
        await self.database.clear(self.store.names.inbox, "effects", "raw_inbox")

    async def _check(self, ids: Sequence[str] = ()) -> None:
        """Every event has its effect, once; those of a key in this order."""
        rows = [str(row[0]) for row in await self.database.admin.fetch("select event_id from effects order by id")]
        check(self.name, rows=(len(rows), self.events), events=(len(set(rows)), self.events))
        place = {event_id: number for number, event_id in enumerate(ids)}
        last: dict[int, int] = {}
        for row in rows if ids else ():
            number = place[row]
            check(self.name, out_of_order=(number < last.get(number % KEYS, -1), False))
            last[number % KEYS] = number

    @asynccontextmanager
    async def _pool(self) -> AsyncIterator[asyncpg.Pool]:
        async with asyncpg.create_pool(self.database.dsn, min_size=TASKS, max_size=TASKS) as pool:
            yield pool


async def run(settings: Settings) -> list[Section]:
    """Every broker whose URL is known: RabbitMQ, NATS, Redis, Kafka."""
    sections: list[Section] = []
    missing = []
    async with fresh_database(settings.server, "inbound") as database:
        await create_tables(database)
        engine = database.engine(CONNECTIONS)
        store = SQLStore(engine)
        await store.upgrade()
        await warm(engine, CONNECTIONS)
        # As `tidings run` does once it has started.
        settle()
        events = settings.count(20_000, 1_000)
        for name in CLIENTS:
            if url := os.environ.get(f"TIDINGS_TEST_{name.upper()}", ""):
                bench = Bench(name, url, database, engine, store, events)
                if rows := await _measure(settings, bench):
                    title = f"{name}: {events:,} events of 300 bytes, {KEYS} keys, one process"
                    sections.append(Section(title, "events/s", "the broker's own client; transactions of 100, bulk inbox", rows))
                if settings.wants(f"{name} latency"):
                    sections.append(await latency(settings, name, url, database, engine, store, contract))
            else:
                missing.append(name)
        await engine.dispose()
    if missing:
        remark = f"Left out, because `scripts/services run all --` did not start them: {', '.join(missing)}."
        sections.append(Section("inbound", "", "", (), (remark,)))
    return sections


async def _measure(settings: Settings, bench: Bench) -> list[Row]:
    """Run ours and the client's in turn."""
    messages = _messages(bench)
    path = [Goal("ratio", ">=", 0.8)]
    if bench.name in BEST_PEERS:
        path.append(Goal("ours", ">=", 3 * BEST_PEERS[bench.name]))
    contenders: list[tuple[str, Run, Run, tuple[Goal, ...]]] = [
        (
            "consume, asyncpg connection", lambda: bench.consume(handlers.driver, messages, effects=True),
            lambda: bench.raw_consume(messages), (Goal("ratio", ">=", 0.7),),
        ),
        (
            "consume, plain", lambda: bench.consume(handlers.plain, messages, effects=False),
            lambda: bench.raw_receive(messages), (Goal("ratio", ">=", 0.6),),
        ),
        ("end to end", bench.end_to_end, bench.raw_end_to_end, tuple(path)),
    ]  # fmt: skip
    rows = []
    for what, ours, raw, goals in contenders:
        if not settings.wants(f"{bench.name} {what}"):
            continue
        if what == "end to end":
            names = bench.store.names
            await bench.database.admin.execute(f"truncate {names.outbox} restart identity")
            await fill(bench.database, names.outbox, bench.events, keys=KEYS, transaction=10)
        runs: dict[str, Run] = {"raw": raw, "ours": ours}
        others: dict[str, str] = {}
        if what == "consume, plain":
            runs["hand"] = lambda: bench.by_hand(messages)
            others["hand"] = "reference that keeps the promise"
        if what == "end to end":
            runs["four"] = lambda: bench.raw_end_to_end(TASKS)
            others["four"] = "reference with four consumers"
        if not settings.quick:
            await interleave(f"{bench.name}, warming up {what}", runs, 1)
        figures = await interleave(f"{bench.name}, {what}", runs, settings.rounds)
        rows.append(Row(what, figures["ours"], figures["raw"], goals))
        rows += [Row(f"{what}, {name}", figures["ours"], figures[other]) for other, name in others.items()]
        if what == "end to end":
            await bench.database.admin.execute(f"truncate {bench.store.names.outbox} restart identity")
    return rows


def _messages(bench: Bench) -> list[Message]:
    """Return what a relay would send."""
    transport = transport_of(bench.name, bench.url)
    encoder = Encoder("bench", Routing(transport, {}, [contract], list(contract), "bench"), transport)
    messages = []
    for number in range(bench.events):
        event_id, key = uuid7(), f"customer-{number % KEYS}"
        data = raw_payload(event_id, key)
        row = Event(number + 1, event_id, "bench", "order.placed", 1, "", key, "{}", data, datetime.now(UTC))
        messages.append(encoder.outgoing(row).message)
    return messages
