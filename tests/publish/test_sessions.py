"""An event is published if and only if the session's transaction commits, and its row is the last that the transaction writes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from tests.publish.shop import Order, OrderPlaced, Shop, StockCounted
from tidings.publish.session import publish


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


def test_an_event_is_in_the_log_when_the_transaction_has_committed(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="a"))
        event_id = publish(shop.publisher, session, OrderPlaced("a", "x"))
        assert shop.log() == []
    (row,) = shop.log()
    assert (row.id, row.source, row.name, row.version, row.key) == (event_id, "shop", "order.placed", 1, "a")
    assert row.data == {"order": "a", "note": "x"}
    assert row.headers == {}
    assert shop.stored() == ["a"]


def test_a_rolled_back_transaction_publishes_nothing(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        session.rollback()
        session.commit()
    assert shop.log() == []


def test_an_exception_in_the_block_publishes_nothing(shop: Shop, engine: Engine) -> None:
    def fail() -> None:
        with Session(engine) as session, session.begin():
            publish(shop.publisher, session, OrderPlaced("a"))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert shop.log() == []


def test_a_session_that_is_closed_or_reset_publishes_nothing(shop: Shop, engine: Engine) -> None:
    session = Session(engine)
    publish(shop.publisher, session, OrderPlaced("closed"))
    session.close()
    session.commit()
    publish(shop.publisher, session, OrderPlaced("reset"))
    session.reset()
    session.commit()
    publish(shop.publisher, session, OrderPlaced("invalidated"))
    session.invalidate()
    session.commit()
    session.close()
    assert shop.log() == []


def test_publishing_begins_a_transaction_and_the_commit_of_nothing_else_publishes(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        assert session.in_transaction()
        session.commit()
    assert shop.orders() == ["a"]


def test_events_stand_in_the_log_in_publish_order(shop: Shop, engine: Engine) -> None:
    names = [f"n{number}" for number in range(50)]
    with Session(engine) as session, session.begin():
        for name in names:
            publish(shop.publisher, session, OrderPlaced(name))
    assert shop.orders() == names


def test_a_session_can_be_used_for_many_transactions(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        for number in range(6):
            publish(shop.publisher, session, OrderPlaced(str(number)))
            if number % 3 == 0:
                session.rollback()
            else:
                session.commit()
            session.execute(text("select 1"))
            session.commit()
    assert shop.orders() == ["1", "2", "4", "5"]


def test_a_transaction_without_events_after_one_with_events_publishes_nothing_again(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        session.commit()
        session.add(Order(name="b"))
        session.commit()
    assert shop.orders() == ["a"]
    assert shop.stored() == ["b"]


def test_a_failed_flush_publishes_nothing_and_the_session_can_go_on(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Order(name="taken"))
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("lost"))
        session.add(Order(name="taken"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        publish(shop.publisher, session, OrderPlaced("kept"))
        session.commit()
    assert shop.orders() == ["kept"]


def test_what_is_published_while_flushing_is_published(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "after_flush")
        def announce(session: Session, context: Any) -> None:
            for order in session.new:
                publish(shop.publisher, session, OrderPlaced(order.name))

        session.add(Order(name="a"))
        session.commit()
        session.add(Order(name="b"))
        session.flush()
        session.commit()
    assert shop.orders() == ["a", "b"]


def test_the_insert_is_the_last_statement_before_the_commit(shop: Shop, engine: Engine) -> None:
    ran: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        ran.append("outbox" if "tidings_outbox" in statement else statement.split(maxsplit=1)[0].lower())

    with Session(engine) as session, session.begin():
        publish(shop.publisher, session, OrderPlaced("a"))
        session.add(Order(name="first"))
        session.flush()
        session.add(Order(name="second"))
    assert [word for word in ran if word not in ("begin", "select")] == ["insert", "insert", "outbox"]


def test_ten_events_are_one_statement(shop: Shop, engine: Engine) -> None:
    ran: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        ran.append(statement)

    with Session(engine) as session, session.begin():
        for number in range(10):
            publish(shop.publisher, session, OrderPlaced(str(number)))
    assert len([statement for statement in ran if "tidings_outbox" in statement]) == 1
    assert len(shop.log()) == 10


def test_an_event_is_encoded_at_the_call(shop: Shop, engine: Engine) -> None:
    placed = OrderPlaced("before")
    with Session(engine) as session, session.begin():
        publish(shop.publisher, session, placed)
        object.__setattr__(placed, "order", "after")
    assert shop.orders() == ["before"]


def test_events_with_and_without_key_and_of_unusual_text_are_stored_as_they_are(shop: Shop, engine: Engine) -> None:
    texts = ["plain", "", "a\x1eb", "\x1e", "\x1f", '{"quoted", NULL}', "\\", "'", "ünïcödé 🦆", "line\nbreak", "50 % $1 %s ? :name"]
    with Session(engine) as session, session.begin():
        for value in texts:
            publish(shop.publisher, session, OrderPlaced("k", value), headers={"note": value}, key=value or None)
        publish(shop.publisher, session, StockCounted(3))
        publish(shop.publisher, session, OrderPlaced("k", "nul \0 inside"))
    *rows, unkeyed, nul = shop.log()
    assert [row.data["note"] for row in rows] == texts
    assert [row.headers["note"] for row in rows] == texts
    assert [row.key for row in rows] == [value or None for value in texts]
    assert [row.slot is None for row in rows] == [not value for value in texts]
    assert (unkeyed.key, unkeyed.slot, unkeyed.name) == (None, None, "stock.counted")
    assert nul.data["note"] == "nul \0 inside"


ALIKE = [(OrderPlaced("k", "1"), None, {}), (OrderPlaced("k", "a\x1eb"), "x\x1ey", {}), (OrderPlaced("m", "3"), None, {})]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(ALIKE, id="alike"),
        pytest.param([*ALIKE, (StockCounted(3), None, {})], id="types differ"),
        pytest.param([*ALIKE, (OrderPlaced("k", "4"), None, {"note": "n"})], id="headers differ"),
        pytest.param([(event, key, {"note": "\u2028 same"}) for event, key, _ in ALIKE], id="alike with headers"),
        pytest.param([(StockCounted(number), None, {}) for number in range(3)], id="without key"),
        pytest.param([(OrderPlaced("a"), f"key {number}", {}) for number in range(3)], id="data alike"),
    ],
)
def test_events_of_one_transaction_are_stored_each_as_it_is(
    shop: Shop, engine: Engine, events: list[tuple[Any, Any, dict[str, str]]]
) -> None:
    """What they have in common may be given once."""
    alone: list[Any] = []
    for event_, key, headers in events:
        with Session(engine) as session, session.begin():
            alone.append(publish(shop.publisher, session, event_, headers=headers, **({} if key is None else {"key": key})))
    with Session(engine) as session, session.begin():
        together = [
            publish(shop.publisher, session, event_, headers=headers, **({} if key is None else {"key": key}))
            for event_, key, headers in events
        ]
    rows = shop.log()
    assert [row.id for row in rows] == [*alone, *together]
    columns = [{name: value for name, value in vars(row).items() if name != "id"} for row in rows]
    assert columns[: len(events)] == columns[len(events) :]


def test_a_single_event_of_unusual_text_is_stored_as_it_is(shop: Shop, engine: Engine) -> None:
    for value in ["a\x1eb", '{"quoted"}', "50 % $1 %s ? :name", "nul \0 inside"]:
        with Session(engine) as session, session.begin():
            publish(shop.publisher, session, OrderPlaced("k", value))
        assert shop.log()[-1].data["note"] == value


def test_scoped_sessions_publish(shop: Shop, engine: Engine) -> None:
    registry = scoped_session(sessionmaker(engine))
    publish(shop.publisher, registry, OrderPlaced("a"))
    registry.commit()
    registry.remove()
    assert shop.orders() == ["a"]


async def test_async_sessions_publish_without_being_awaited(shop: Shop) -> None:
    engine = shop.async_engine()
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="a"))
        publish(shop.publisher, session, OrderPlaced("a"))
    async with AsyncSession(engine) as session:
        publish(shop.publisher, session, OrderPlaced("b"))
        await session.commit()
        publish(shop.publisher, session, OrderPlaced("c"))
        await session.rollback()
        for name in ("d", "e", "f"):
            publish(shop.publisher, session, OrderPlaced(name))
        await session.commit()
    await engine.dispose()
    assert shop.orders() == ["a", "b", "d", "e", "f"]
    assert shop.stored() == ["a"]


async def test_async_sessions_take_back_what_a_savepoint_published(shop: Shop) -> None:
    engine = shop.async_engine()
    async with AsyncSession(engine) as session, session.begin():
        publish(shop.publisher, session, OrderPlaced("outer"))
        async with session.begin_nested():
            publish(shop.publisher, session, OrderPlaced("released"))
        lost = await session.begin_nested()
        publish(shop.publisher, session, OrderPlaced("lost"))
        session.add_all([Order(name="same"), Order(name="other")])
        await session.flush()
        with pytest.raises(IntegrityError):
            await session.execute(text("insert into orders (name, note) values ('same', '')"))
        await lost.rollback()
        connection = await session.connection()
        savepoint = await connection.begin_nested()
        publish(shop.publisher, session, OrderPlaced("lost, too"))
        await savepoint.rollback()
    await engine.dispose()
    assert shop.orders() == ["outer", "released"]


async def test_async_scoped_sessions_publish(shop: Shop) -> None:
    engine = shop.async_engine()
    registry = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 1)
    publish(shop.publisher, registry, OrderPlaced("a"))
    await registry.commit()
    await registry.remove()
    await engine.dispose()
    assert shop.orders() == ["a"]


def test_two_services_publish_on_one_session_in_one_statement(shop: Shop, engine: Engine) -> None:
    other = shop.publisher_named("billing")
    ran: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        ran.append(statement)

    with Session(engine) as session, session.begin():
        publish(shop.publisher, session, OrderPlaced("a"))
        publish(other, session, OrderPlaced("b"))
        publish(shop.publisher, session, OrderPlaced("c"))
    assert [(row.source, row.key) for row in shop.log()] == [("shop", "a"), ("billing", "b"), ("shop", "c")]
    assert len([statement for statement in ran if "tidings_outbox" in statement]) == 1
    assert sorted(shop.wakes) == ["billing", "shop"]


def test_a_session_and_its_events_are_freed_without_the_garbage_collector(lite: Shop) -> None:
    engine = lite.engine()
    gc.disable()
    try:
        for end in (Session.commit, Session.rollback, Session.close):
            session = Session(engine)
            with session.begin_nested():
                publish(lite.publisher, session, OrderPlaced(str(uuid4())))
            publish(lite.publisher, session, OrderPlaced(str(uuid4())))
            end(session)
            session.close()
            reference = weakref.ref(session)
            del session
            assert reference() is None
    finally:
        gc.enable()


def test_publishing_adds_no_listener_to_any_session(lite: Shop) -> None:
    engine = lite.engine()
    names = ("before_commit", "after_commit", "after_transaction_end")
    before = {name: list(getattr(Session(engine).dispatch, name)) for name in names}
    with Session(engine) as session, session.begin():
        publish(lite.publisher, session, OrderPlaced("a"))
        assert before == {name: list(getattr(session.dispatch, name)) for name in names}
    assert before == {name: list(getattr(Session(engine).dispatch, name)) for name in names}
    assert all(len(listeners) == 1 for listeners in before.values())
    for name in ("commit", "rollback_savepoint"):
        assert not list(getattr(engine.dispatch, name))


def test_a_buffer_is_not_inherited_through_a_copied_info(lite: Shop) -> None:
    engine = lite.engine()
    with Session(engine) as first:
        publish(lite.publisher, first, OrderPlaced("a"))
        with Session(lite.engine(), info=first.info) as second:
            first.rollback()
            publish(lite.publisher, second, OrderPlaced("b"))
            second.commit()
    assert lite.orders() == ["b"]


def test_a_search_path_or_a_translated_schema_does_not_divert_events(pg: Shop) -> None:
    with pg.connect() as connection:
        connection.execute("create schema tenant")
        connection.execute("create table tenant.tidings_outbox (like public.tidings_outbox including all)")
        connection.execute("create table tenant.orders (like public.orders)")
    engine = pg.engine(connect_args={"options": "-csearch_path=tenant"})
    with Session(engine.execution_options(schema_translate_map={None: "tenant", "public": "tenant"})) as session, session.begin():
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("a"))
    engine.dispose()
    with pg.connect() as connection:
        assert connection.execute("select count(*) from public.tidings_outbox").fetchone() == (1,)
        assert connection.execute("select count(*) from tenant.tidings_outbox").fetchone() == (0,)
        assert connection.execute("select count(*) from tenant.orders").fetchone() == (1,)
