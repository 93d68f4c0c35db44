"""Sessions on a connection that the caller brought: what they publish is the caller's transaction's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.publish.shop import Order, OrderPlaced, PriceChanged, Shop
from tidings.publish.outgoing import Outgoing
from tidings.publish.session import cancel, capture, publish

Mode = Literal["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
MODES: list[Mode] = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


@pytest.mark.parametrize("mode", MODES)
def test_what_the_session_commits_is_published_when_the_connection_commits(shop: Shop, engine: Engine, mode: Mode) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.add(Order(name="a"))
            publish(shop.publisher, session, OrderPlaced("a"))
            session.commit()
        if mode != "control_fully":
            assert (shop.log(), shop.wakes) == ([], [])
            outer.commit()
    assert (shop.orders(), shop.stored(), shop.wakes) == (["a"], ["a"], ["shop"])


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "control_fully"])
def test_what_the_session_commits_is_gone_when_the_connection_rolls_back(shop: Shop, engine: Engine, mode: Mode) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            publish(shop.publisher, session, OrderPlaced("a"))
            session.commit()
        outer.rollback()
        with connection.begin():
            connection.exec_driver_sql("insert into orders (name, note) values ('unrelated', '')")
    assert (shop.orders(), shop.stored(), shop.wakes) == ([], ["unrelated"], [])


@pytest.mark.parametrize("mode", MODES)
def test_what_the_session_rolls_back_is_not_published(shop: Shop, engine: Engine, mode: Mode) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            publish(shop.publisher, session, OrderPlaced("a"))
            session.rollback()
        if outer.is_active:
            outer.commit()
    assert shop.log() == []


@pytest.mark.parametrize("mode", MODES)
def test_a_session_inside_a_savepoint_of_the_connection(shop: Shop, engine: Engine, mode: Mode) -> None:
    with engine.connect() as connection, connection.begin():
        for name, kept in (("kept", True), ("lost", False)):
            savepoint = connection.begin_nested()
            with Session(connection, join_transaction_mode=mode) as session:
                publish(shop.publisher, session, OrderPlaced(name))
                session.commit()
            if savepoint.is_active:
                if kept:
                    savepoint.commit()
                else:
                    savepoint.rollback()
    assert shop.orders() == (["kept", "lost"] if mode == "control_fully" else ["kept"])
    assert set(shop.wakes) == {"shop"}


def test_a_savepoint_of_the_caller_that_is_rolled_back_before_the_session_has_used_the_connection(shop: Shop, engine: Engine) -> None:
    with engine.connect() as connection, connection.begin(), Session(connection) as session:
        savepoint = connection.begin_nested()
        publish(shop.publisher, session, OrderPlaced("lost"))
        savepoint.rollback()
        publish(shop.publisher, session, OrderPlaced("kept"))
        session.commit()
    assert shop.orders() == ["kept"]


def test_a_savepoint_that_is_rolled_back_after_the_session_wakes_nobody(shop: Shop, engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        savepoint = connection.begin_nested()
        with Session(connection) as session:
            publish(shop.publisher, session, OrderPlaced("lost"))
            session.commit()
        savepoint.rollback()
    assert (shop.log(), shop.wakes) == ([], [])


@pytest.mark.parametrize("mode", MODES)
def test_a_session_on_a_connection_that_has_not_begun(shop: Shop, engine: Engine, mode: Mode) -> None:
    with engine.connect() as connection:
        for name in ("a", "b"):
            with Session(connection, join_transaction_mode=mode) as session, session.begin():
                publish(shop.publisher, session, OrderPlaced(name))
                with session.begin_nested() as savepoint:
                    publish(shop.publisher, session, OrderPlaced("lost"))
                    savepoint.rollback()
    assert shop.orders() == ["a", "b"]
    assert shop.wakes == ["shop", "shop"]


@pytest.mark.parametrize("mode", MODES)
def test_listeners_that_write_and_publish_in_the_middle_of_the_commit(shop: Shop, engine: Engine, mode: Mode) -> None:
    ran: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.strip().lower().startswith(("insert", "with")):
            ran.append("outbox" if "tidings_outbox" in statement else "orders")

    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            publish(shop.publisher, session, OrderPlaced("1"))

            @event.listens_for(session, "before_commit")
            def late(session: Session) -> None:
                session.add(Order(name="late"))
                publish(shop.publisher, session, OrderPlaced("2"))

            session.commit()
        if outer.is_active:
            outer.commit()
    assert (shop.orders(), shop.stored(), ran) == (["1", "2"], ["late"], ["orders", "outbox"])
    assert shop.wakes == ["shop"]


def test_publishing_in_after_begin_of_a_joined_session(shop: Shop, engine: Engine) -> None:
    with engine.connect() as connection, connection.begin(), Session(connection) as session:

        @event.listens_for(session, "after_begin")
        def begun(session: Session, transaction: Any, connection: Connection) -> None:
            publish(shop.publisher, session, OrderPlaced("begun"))

        session.add(Order(name="a"))
        session.commit()
    assert shop.orders() == ["begun"]


def test_a_caller_s_connection_is_left_as_it_was(shop: Shop, engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        for _ in range(3):
            with Session(connection) as session:
                publish(shop.publisher, session, OrderPlaced("a"))

                @event.listens_for(session, "before_commit")
                def late(session: Session) -> None:
                    session.flush()

                session.commit()
        assert len(list(connection.dispatch.commit)) <= 1
        assert not list(connection.dispatch.before_cursor_execute)


class Captured:
    def __init__(self) -> None:
        self.batches: list[list[Outgoing]] = []

    def __call__(self, events: list[Outgoing]) -> None:
        self.batches.append(list(events))

    @property
    def keys(self) -> list[list[str | None]]:
        return [[event.key for event in batch] for batch in self.batches]


def test_captured_events_go_to_the_sink_and_not_into_the_outbox(shop: Shop, engine: Engine) -> None:
    sink = Captured()
    with engine.connect() as connection, connection.begin():
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink)
        publish(shop.publisher, session, OrderPlaced("1"))
        with session.begin_nested():
            publish(shop.publisher, session, OrderPlaced("2"))
        savepoint = session.begin_nested()
        publish(shop.publisher, session, OrderPlaced("lost"))
        savepoint.rollback()
        session.add(Order(name="a"))
        assert sink.batches == []
        session.commit()
        assert sink.keys == [["1", "2"]]
        publish(shop.publisher, session, OrderPlaced("3"))
        session.commit()
        session.commit()
        assert sink.keys == [["1", "2"], ["3"]]
        publish(shop.publisher, session, OrderPlaced("lost"))
        session.close()
    assert (shop.log(), shop.stored(), shop.wakes) == ([], ["a"], [])
    assert sink.keys == [["1", "2"], ["3"]]


def test_a_captured_session_that_rolls_back_gives_nothing_to_the_sink(shop: Shop, engine: Engine) -> None:
    sink = Captured()
    with engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink)
        session.execute(text("select 1"))
        publish(shop.publisher, session, OrderPlaced("lost"))
        session.rollback()
        assert not outer.is_active
        session.close()
    assert sink.batches == []


def test_events_of_another_store_are_inserted_though_the_session_is_captured(shop: Shop, engine: Engine) -> None:
    sink = Captured()
    with engine.connect() as connection, connection.begin():
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink, outbox="somebody else's")
        publish(shop.publisher, session, OrderPlaced("1"))
        session.commit()
        session.close()
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink, outbox=shop.statements.outbox)
        publish(shop.publisher, session, PriceChanged("2"))
        session.commit()
        session.close()
    assert [row.key for row in shop.log()] == ["1"]
    assert sink.keys == [["2"]]


def test_what_is_published_late_in_the_commit_is_captured(shop: Shop, engine: Engine) -> None:
    sink = Captured()
    with engine.connect() as connection, connection.begin():
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink)

        @event.listens_for(session, "before_commit")
        def late(session: Session) -> None:
            publish(shop.publisher, session, OrderPlaced("late"))

        publish(shop.publisher, session, OrderPlaced("early"))
        session.commit()
        session.close()
    assert sink.keys == [["early", "late"]]


def test_cancelling_in_a_captured_session(shop: Shop, engine: Engine) -> None:
    from datetime import timedelta

    sink = Captured()
    with Session(engine) as session, session.begin():
        waiting = publish(shop.publisher, session, OrderPlaced("waiting"), delay=timedelta(hours=1))
    with engine.connect() as connection, connection.begin():
        session = Session(connection, join_transaction_mode="rollback_only")
        capture(session, sink)
        own = publish(shop.publisher, session, OrderPlaced("own"), delay=timedelta(hours=1))
        publish(shop.publisher, session, OrderPlaced("sent"))
        first, second = cancel(shop.publisher, session, own), cancel(shop.publisher, session, waiting)
        session.commit()
        session.close()
        assert (first.cancelled, second.cancelled) == (None, None)
    assert (first.cancelled, second.cancelled) == (True, True)
    assert sink.keys == [["sent"]]
    assert shop.schedule() == []


async def test_an_async_session_can_be_captured(shop: Shop) -> None:
    engine = shop.async_engine()
    sink = Captured()
    async with (
        engine.connect() as connection,
        connection.begin(),
        AsyncSession(connection, join_transaction_mode="rollback_only") as session,
    ):
        capture(session, sink)
        session.add(Order(name="a"))
        publish(shop.publisher, session, OrderPlaced("a"))
        await session.commit()
    await engine.dispose()
    assert sink.keys == [["a"]]
    assert shop.stored() == ["a"]
