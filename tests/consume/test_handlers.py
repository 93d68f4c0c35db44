"""What handlers are given, and that their effects, their inbox row and what they publish are one transaction (invariant 4)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiosqlite
import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.consume.shop import MailWanted, OrderBilled, OrderCancelled, OrderPlaced
from tests.consume.waiting import until, until_equal
from tests.consume.world import EFFECT, World, effect, effect_sync
from tidings import Envelope, Publish, Service, Subscriptions
from tidings.errors import NoTransaction
from tidings.publish.context import current_envelope


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effects"

    number: Mapped[int] = mapped_column(primary_key=True)
    subscription: Mapped[str]
    key: Mapped[str]
    value: Mapped[int]


def inbox(world: World) -> int:
    return int(world.one("select count(*) from tidings_inbox"))


# --- sessions and connections


async def test_an_async_session(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(subscription="handle", key=event.order_id, value=event.number))

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(lambda: sorted(world.effects()), [("a", 1), ("b", 2)])
    assert inbox(world) == 2


async def test_a_session_in_a_plain_def_runs_in_a_thread_on_any_engine(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()
    threads = set()

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, session: Session) -> None:
        threads.add(threading.current_thread())
        session.add(Effect(subscription="handle", key=event.order_id, value=event.number))
        session.flush()
        seen = session.scalars(sa.select(Effect).where(Effect.key == event.order_id)).all()
        assert [each.value for each in seen] == [event.number]

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 2))
        await until_equal(lambda: sorted(world.effects()), [("a", 1), ("b", 2)])
    assert inbox(world) == 2
    assert threading.current_thread() not in threads


async def test_an_async_connection(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, connection: AsyncConnection) -> None:
        await connection.execute(EFFECT, {"subscription": "handle", "key": event.order_id, "value": event.number})

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert inbox(world) == 1


async def test_a_connection_in_a_plain_def(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, connection: Connection) -> None:
        effect_sync(connection, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert inbox(world) == 1


async def test_the_connection_of_asyncpg(pg_world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        assert type(connection) is asyncpg.Connection
        async with connection.transaction():
            await connection.execute("insert into effects (key, value) values ($1, $2)", event.order_id, event.number)

    async with pg_world.service(handlers) as service:
        await pg_world.publish(service, OrderPlaced("a", 1))
        await until_equal(pg_world.effects, [("a", 1)])
    assert inbox(pg_world) == 1


@pytest.mark.parametrize("kind", ["aiosqlite", "sqlite3", "psycopg"])
async def test_the_connection_of_other_drivers(kind: str, request: pytest.FixtureRequest) -> None:
    from tests.consume.world import open_world

    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, name="aiosqlite")
    async def on_aiosqlite(event: OrderPlaced, connection: aiosqlite.Connection) -> None:
        assert isinstance(connection, aiosqlite.Connection)
        await connection.execute("insert into effects (key, value) values (?, ?)", (event.order_id, event.number))

    @handlers.subscribe(OrderPlaced, name="sqlite3")
    def on_sqlite3(event: OrderPlaced, connection: sqlite3.Connection) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.execute("insert into effects (key, value) values (?, ?)", (event.order_id, event.number))

    @handlers.subscribe(OrderPlaced, name="psycopg")
    def on_psycopg(event: OrderPlaced, connection: psycopg.Connection) -> None:
        assert isinstance(connection, psycopg.Connection)
        with connection.transaction():
            connection.execute("insert into effects (key, value) values (%s, %s)", (event.order_id, event.number))

    handlers.subscriptions[:] = [each for each in handlers.subscriptions if each.name == kind]
    database = request.getfixturevalue("postgresql" if kind == "psycopg" else "sqlite")
    async with open_world(database, asynchronous=kind == "aiosqlite") as world:
        async with world.service(handlers) as service:
            await world.publish(service, OrderPlaced("a", 1))
            await until_equal(world.effects, [("a", 1)])
        assert inbox(world) == 1


async def test_everything_in_one_handler_is_one_transaction(world: World) -> None:
    handlers = Subscriptions()
    seen: list[list[tuple[str, int]]] = []

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, connection: AsyncConnection, publish: Publish) -> None:
        await connection.execute(EFFECT, {"subscription": "c", "key": "through the connection", "value": 1})
        seen.append([(each.key, each.value) for each in await session.scalars(sa.select(Effect))])
        session.add(Effect(subscription="s", key="through the session", value=2))
        publish(OrderBilled(event.order_id))
        assert world.effects() == []

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"))
        await until_equal(world.effects, [("through the connection", 1), ("through the session", 2)])
    assert seen == [[("through the connection", 1)]]
    assert len(world.published("order.billed")) == 1


# --- all or nothing


async def test_effects_inbox_row_and_published_events_commit_together(world: World) -> None:
    handlers = Subscriptions()
    entered, leave = asyncio.Event(), asyncio.Event()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        await effect(session, "handle", event)
        entered.set()
        await leave.wait()

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await entered.wait()
        assert (world.effects(), inbox(world), world.published("order.billed")) == ([], 0, [])
        leave.set()
        await until_equal(world.effects, [("a", 1)])
        assert (inbox(world), len(world.published("order.billed"))) == (1, 1)


@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_handler_that_raises_leaves_nothing(world: World, kind: str) -> None:
    handlers = Subscriptions()

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        session.add(Effect(subscription="handle", key=event.order_id, value=event.number))
        await session.flush()
        raise ValueError("no luck")

    def handle_in_thread(event: OrderPlaced, session: Session, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))
        session.add(Effect(subscription="handle", key=event.order_id, value=event.number))
        session.flush()
        raise ValueError("no luck")

    handlers.subscribe(OrderPlaced, name="handle")(handle if kind == "async def" else handle_in_thread)  # type: ignore[arg-type]
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "ValueError")])
        assert (world.effects(), inbox(world), world.published("order.billed")) == ([], 0, [])


# --- publishing inside a handler


@pytest.mark.parametrize("given", ["", "a\nb", "\u202e", "x" * 5000])
async def test_a_correlation_from_outside_that_cannot_travel_is_not_handed_on(world: World, given: str) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def bill(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id))

    async with world.service(handlers):
        await world.insert_row(headers=json.dumps({"correlationid": given}))
        await until(lambda: world.published("order.billed"))
    headers = world.published("order.billed")[0]["headers"]
    headers = headers if isinstance(headers, dict) else json.loads(headers)
    assert headers["correlationid"] == headers["causationid"]


async def test_published_events_inherit_correlation_and_causation(world: World) -> None:
    handlers = Subscriptions()
    seen: dict[str, Envelope] = {}

    @handlers.subscribe(OrderPlaced)
    async def first(event: OrderPlaced, envelope: Envelope, publish: Publish) -> None:
        seen["placed"] = envelope
        publish(OrderBilled(event.order_id))

    @handlers.subscribe(OrderBilled)
    async def second(event: OrderBilled, envelope: Envelope, publish: Publish) -> None:
        seen["billed"] = envelope
        publish(MailWanted("ada@example.com"))

    @handlers.subscribe(MailWanted)
    async def third(event: MailWanted, envelope: Envelope) -> None:
        seen["mail"] = envelope

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"), headers={"who": "ada"})
        await until(lambda: "mail" in seen)
    placed, billed, mail = seen["placed"], seen["billed"], seen["mail"]
    assert (placed.correlation_id, placed.causation_id, placed.hops) == (str(placed.id), None, 0)
    assert (billed.correlation_id, billed.causation_id, billed.hops) == (str(placed.id), str(placed.id), 1)
    assert (mail.correlation_id, mail.causation_id, mail.hops) == (str(placed.id), str(billed.id), 2)
    assert (placed.headers, billed.headers) == ({"who": "ada"}, {})


async def test_service_publish_on_the_handlers_session_is_the_handlers_publishing(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()
    service: Service

    def handle(event: OrderPlaced, session: Session) -> None:
        service.publish(session, OrderBilled(event.order_id, 1))
        session.execute(EFFECT, {"subscription": "handle", "key": event.order_id, "value": 1})
        service.publish(session, OrderBilled(event.order_id, 2))

    handlers.subscribe(OrderPlaced)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until_equal(world.effects, [("a", 1)])
    (placed,) = world.published("order.placed")
    billed = world.published("order.billed")
    assert [_json(row["data"])["number"] for row in billed] == [1, 2]
    assert {_json(row["headers"])["causationid"] for row in billed} == {str(UUID(str(placed["id"])))}


async def test_publish_and_service_publish_keep_the_order_of_their_calls(world: World) -> None:
    handlers = Subscriptions()
    service: Service

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        service.publish(session, OrderBilled(event.order_id, 1))
        publish(OrderBilled(event.order_id, 2))
        service.publish(session, OrderBilled(event.order_id, 3))
        publish(OrderBilled(event.order_id, 4))

    handlers.subscribe(OrderPlaced)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: len(world.published("order.billed")) == 4)
    assert [_json(row["data"])["number"] for row in world.published("order.billed")] == [1, 2, 3, 4]


async def test_a_rolled_back_savepoint_takes_what_was_published_in_it(world: World) -> None:
    handlers = Subscriptions()
    service: Service

    async def handle(event: OrderPlaced, session: AsyncSession, publish: Publish) -> None:
        publish(OrderBilled("before"))
        async with session.begin_nested() as savepoint:
            publish(OrderBilled("taken back"))
            service.publish(session, OrderBilled("taken back too"))
            await savepoint.rollback()
        async with session.begin_nested():
            publish(OrderBilled("kept"))

    handlers.subscribe(OrderPlaced)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: inbox(world))
    assert [row["key"] for row in world.published("order.billed")] == ["before", "kept"]


async def test_a_savepoint_of_the_connection_takes_what_was_published_in_it(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, connection: AsyncConnection, publish: Publish) -> None:
        publish(OrderBilled("before"))
        async with connection.begin_nested() as savepoint:
            publish(OrderBilled("taken back"))
            await savepoint.rollback()
        publish(OrderBilled("after"))

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: inbox(world))
    assert [row["key"] for row in world.published("order.billed")] == ["before", "after"]


async def test_publish_cannot_be_kept_for_later(world: World) -> None:
    handlers = Subscriptions()
    kept: list[Publish] = []

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, publish: Publish) -> None:
        kept.append(publish)

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: inbox(world))
        with pytest.raises(NoTransaction, match="this Publish belongs to a handler that has returned"):
            kept[0](OrderBilled("a"))
    assert world.published("order.billed") == []


async def test_a_delayed_event_of_a_handler_is_scheduled_in_its_transaction(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, publish: Publish) -> None:
        publish(OrderBilled(event.order_id), delay=timedelta(hours=1))
        if event.number:
            raise ValueError("no luck")

    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a", 1), OrderPlaced("b", 0))
        await until(lambda: inbox(world) == 1 and world.deliveries())
    assert world.rows("select key from tidings_scheduled") == [("b",)]


# --- the envelope


async def test_the_envelope(world: World) -> None:
    handlers = Subscriptions()
    seen: list[Envelope] = []

    @handlers.subscribe(OrderPlaced)
    async def charge(event: OrderPlaced, envelope: Envelope) -> None:
        seen.append(envelope)

    before = datetime.now(UTC) - timedelta(seconds=1)
    async with world.service(handlers) as service:
        await world.publish(service, OrderPlaced("a"), headers={"who": "köln"}, expires=timedelta(hours=1))
        await until(lambda: seen)
    (envelope,) = seen
    (row,) = world.published("order.placed")
    assert str(envelope.id) == str(row["id"])
    assert (envelope.source, envelope.name, envelope.version, envelope.topic, envelope.key) == (
        "shop", "order.placed", 1, row["topic"], "a",
    )  # fmt: skip
    assert (envelope.sequence, envelope.attempt, envelope.subscription) == (row["position"], 1, "charge")
    assert envelope.headers == {"who": "köln"}
    assert before < envelope.time < datetime.now(UTC) + timedelta(seconds=1)
    assert envelope.expires is not None
    assert envelope.scheduled_for is None


async def test_a_plain_handler_publishes_on_sessions_of_its_own_with_the_right_cause(world: World) -> None:
    handlers = Subscriptions()
    service: Service

    async def handle(event: OrderPlaced) -> None:
        await world.publish(service, OrderBilled(event.order_id))

    handlers.subscribe(OrderPlaced)(handle)
    service = world.service(handlers)
    async with service:
        await world.publish(service, OrderPlaced("a"))
        await until(lambda: world.published("order.billed"))
    (placed,), (billed,) = world.published("order.placed"), world.published("order.billed")
    assert _json(billed["headers"])["causationid"] == str(placed["id"])


async def test_the_event_being_handled_never_leaks(world: World) -> None:
    handlers = Subscriptions()
    wrong: list[str] = []
    count = 0

    async def look(event: OrderPlaced, envelope: Envelope) -> None:
        nonlocal count
        for _ in range(3):
            current = current_envelope.get()
            if current is not envelope:
                wrong.append(f"{event}: {current}")
            await asyncio.sleep(0)
        if event.number % 7 == 0:
            raise ValueError("no luck")
        count += 1

    def look_in_thread(event: OrderPlaced, envelope: Envelope, session: Session) -> None:
        session.execute(sa.text("select 1"))
        if current_envelope.get() is not envelope:
            wrong.append(f"in thread: {event}")

    handlers.subscribe(OrderPlaced)(look)
    handlers.subscribe(OrderPlaced)(look_in_thread)
    async with world.service(handlers) as service:
        await world.publish(service, *(OrderPlaced(f"k{number % 10}", number) for number in range(1, 50)))
        await until(lambda: service.counters.total["shop/look_in_thread", "handled"] == 49 and world.deliveries())
        await world.publish(service, OrderPlaced("after", 1))
        assert current_envelope.get() is None
    (row,) = [row for row in world.published("order.placed") if row["key"] == "after"]
    assert _json(row["headers"]) == {}
    assert wrong == []


# --- what the user provides


class Clock:
    def __init__(self, now: str = "noon") -> None:
        self.now = now


class Mailer:
    def __init__(self, clock: Clock, log: list[str]) -> None:
        self.clock = clock
        self.log = log


class Repository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session


async def test_values_factories_and_context_managers(world: World) -> None:
    handlers = Subscriptions()
    log: list[str] = []

    @asynccontextmanager
    async def mailer(clock: Clock, envelope: Envelope) -> AsyncIterator[Mailer]:
        log.append(f"enter {envelope.key}")
        yield Mailer(clock, log)
        log.append("leave")

    def repository(session: AsyncSession) -> Repository:
        return Repository(session)

    async def words(repository: Repository) -> list[str]:
        await asyncio.sleep(0)
        return [type(repository.session).__name__]

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, mailer: Mailer, repository: Repository, session: AsyncSession, words: list[str]) -> None:
        log.append(f"handle at {mailer.clock.now} with {words}")
        assert repository.session is session
        await effect(repository.session, "handle", event)

    service = world.service(handlers)
    service.provide(Clock, Clock("midnight"))
    service.provide(Mailer, mailer)
    service.provide(Repository, repository)
    service.provide(list[str], words)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert log == ["enter a", "handle at midnight with ['AsyncSession']", "leave"]


async def test_providers_of_a_plain_def(any_world: World) -> None:
    world = any_world
    handlers = Subscriptions()
    log: list[str] = []

    @contextmanager
    def mailer(clock: Clock, session: Session) -> Iterator[Mailer]:
        log.append("enter")
        session.execute(sa.text("select 1"))
        yield Mailer(clock, log)
        log.append("leave")

    @handlers.subscribe(OrderPlaced)
    def handle(event: OrderPlaced, mailer: Mailer, session: Session) -> None:
        mailer.log.append("handle")
        effect_sync(session, "handle", event)

    service = world.service(handlers)
    service.provide(Clock, Clock)
    service.provide(Mailer, mailer)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
    assert log == ["enter", "handle", "leave"]


async def test_a_context_manager_sees_the_handlers_error(world: World) -> None:
    handlers = Subscriptions()
    seen: list[BaseException] = []

    @asynccontextmanager
    async def mailer() -> AsyncIterator[Mailer]:
        try:
            yield Mailer(Clock(), [])
        except ValueError as error:
            seen.append(error)
            raise

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, mailer: Mailer, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        raise ValueError("no luck")

    service = world.service(handlers)
    service.provide(Mailer, mailer)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "ValueError")])
    assert [str(error) for error in seen] == ["no luck"]
    assert world.effects() == []


async def test_a_provider_that_raises_fails_the_event(world: World) -> None:
    handlers = Subscriptions()

    def mailer() -> Mailer:
        raise ConnectionError("no mail today")

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, mailer: Mailer) -> None: ...

    service = world.service(handlers)
    service.provide(Mailer, mailer)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "ConnectionError")])


async def test_a_context_manager_that_swallows_the_error_does_not_make_it_a_success(world: World) -> None:
    handlers = Subscriptions()

    @asynccontextmanager
    async def mailer() -> AsyncIterator[Mailer]:
        try:
            yield Mailer(Clock(), [])
        except ValueError:
            pass

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, mailer: Mailer, session: AsyncSession) -> None:
        await effect(session, "handle", event)
        raise ValueError("no luck")

    service = world.service(handlers)
    service.provide(Mailer, mailer)
    async with service:
        await world.publish(service, OrderPlaced("a", 1))
        await until_equal(world.deliveries, [("a", "failed", 1, "ValueError")])
    assert world.effects() == []


# --- several handlers


async def test_every_subscription_handles_every_event_once(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def one(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "one", event)

    @handlers.subscribe(OrderPlaced, OrderCancelled)
    async def two(event: OrderPlaced | OrderCancelled, session: AsyncSession) -> None:
        await effect(session, "two", event)

    @handlers.subscribe(OrderPlaced, group="reporting")
    def three(event: OrderPlaced, session: Session) -> None:
        effect_sync(session, "three", event)

    placed = [OrderPlaced(f"k{number % 3}", number) for number in range(30)]
    async with world.service(handlers) as service:
        for start in range(0, 30, 10):
            await world.publish(service, *placed[start : start + 10], OrderCancelled("k0", 100 + start))
        await until(lambda: service.counters.of("handled") == 93)
    expected = [(event.order_id, event.number) for event in placed]
    for name in ("one", "three"):
        assert sorted(world.effects(name)) == sorted(expected)
    assert sorted(world.effects("two")) == sorted([*expected, ("k0", 100), ("k0", 110), ("k0", 120)])


async def test_order_by_key_holds_across_the_handlers_of_a_subscription(world: World) -> None:
    handlers = Subscriptions()
    view = handlers.subscription("order-view", concurrency=8)

    @view.on(OrderPlaced)
    async def placed(event: OrderPlaced, session: AsyncSession) -> None:
        await asyncio.sleep(0.002)
        await effect(session, "view", event)

    @view.on(OrderCancelled)
    async def cancelled(event: OrderCancelled, session: AsyncSession) -> None:
        await effect(session, "view", event)

    async with world.service(handlers) as service:
        for number in range(0, 20, 2):
            await world.publish(service, *(OrderPlaced(f"k{k}", number) for k in range(4)))
            await world.publish(service, *(OrderCancelled(f"k{k}", number + 1) for k in range(4)))
        await until(lambda: len(world.effects()) == 80)
    for k in range(4):
        assert [value for key, value in world.effects() if key == f"k{k}"] == list(range(20))


async def test_an_event_that_nobody_subscribes_to_is_counted_and_skipped(world: World) -> None:
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced)
    async def handle(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "handle", event)

    async with world.service(handlers) as service:
        await world.publish(service, OrderCancelled("a"), OrderPlaced("a", 1))
        await until_equal(world.effects, [("a", 1)])
        assert service.counters.total["", "skipped"] == 1
    assert world.deliveries() == []


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
