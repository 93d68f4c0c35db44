"""Other listeners of the session may write, flush and publish in the middle of the commit; nothing of it is lost or comes too late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from tests.publish.shop import Order, OrderPlaced, Shop
from tidings.errors import NoTransaction, PublishError
from tidings.publish.session import publish


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def ran(engine: Engine) -> list[str]:
    """The tables that were written, in order."""
    tables: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.strip().lower().startswith(("insert", "with")):
            tables.append("outbox" if "tidings_outbox" in statement else "orders")

    return tables


def test_a_listener_registered_later_that_dirties_the_session_is_flushed_before_the_insert(
    shop: Shop, engine: Engine, ran: list[str]
) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))

        @event.listens_for(session, "before_commit")
        def late(session: Session) -> None:
            session.add(Order(name="late"))

        session.add(Order(name="early"))
        session.commit()
    assert ran == ["orders", "orders", "outbox"]
    assert (shop.orders(), shop.stored()) == (["a"], ["early", "late"])
    assert shop.wakes == ["shop"]


def test_a_listener_registered_earlier_or_on_the_class_is_flushed_before_the_insert(shop: Shop, engine: Engine, ran: list[str]) -> None:
    factory = sessionmaker(engine)
    with factory() as session:

        @event.listens_for(session, "before_commit")
        def early(session: Session) -> None:
            session.add(Order(name="early"))

        publish(shop.publisher, session, OrderPlaced("a"))

        @event.listens_for(factory, "before_commit")
        def for_all(session: Session) -> None:
            session.add(Order(name="for all"))

        session.commit()
    assert ran[-1] == "outbox"
    assert ran.count("outbox") == 1
    assert shop.stored() == ["early", "for all"]


def test_a_flush_that_makes_the_session_dirty_again_is_followed_by_another(shop: Shop, engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        more = ["a", "b", "c"]

        @event.listens_for(session, "after_flush_postexec")
        def again(session: Session, context: Any) -> None:
            if more:
                session.add(Order(name=more.pop()))

        session.add(Order(name="first"))
        publish(shop.publisher, session, OrderPlaced("a"))
        session.commit()
    assert ran == ["orders"] * 4 + ["outbox"]


def test_the_first_event_may_be_published_by_a_listener_on_the_class_at_commit(shop: Shop, engine: Engine, ran: list[str]) -> None:
    factory = sessionmaker(engine)

    @event.listens_for(factory, "before_commit")
    def announce(session: Session) -> None:
        for order in session.new:
            publish(shop.publisher, session, OrderPlaced(order.name))

    for names in (["a"], ["b", "c"]):
        with factory() as session:
            session.add_all([Order(name=name) for name in names])
            session.commit()
            session.add(Order(name=names[0] + " again"))
            session.commit()
    assert sorted(shop.orders()) == ["a", "a again", "b", "b again", "c"]
    assert ran == ["orders", "outbox", "orders", "outbox", "orders", "outbox", "orders", "outbox"]
    assert len(shop.wakes) == 4


def test_the_first_event_may_be_published_by_a_listener_on_the_session_at_commit(shop: Shop, engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "before_commit")
        def announce(session: Session) -> None:
            publish(shop.publisher, session, OrderPlaced("first"))
            publish(shop.publisher, session, OrderPlaced("second"))

        @event.listens_for(session, "before_commit")
        def write(session: Session) -> None:
            session.add(Order(name=f"after {len(ran)}"))

        session.commit()
        session.commit()
    assert shop.orders() == ["first", "second"] * 2
    assert ran == ["orders", "outbox"] * 2


def test_a_listener_that_follows_ours_may_publish(shop: Shop, engine: Engine, ran: list[str]) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("1"))

        @event.listens_for(session, "before_commit")
        def late(session: Session) -> None:
            publish(shop.publisher, session, OrderPlaced("2"))
            session.add(Order(name="late"))

        @event.listens_for(session, "after_flush")
        def flushed(session: Session, context: Any) -> None:
            publish(shop.publisher, session, OrderPlaced("3"))

        session.commit()
    assert shop.orders() == ["1", "2", "3"]
    assert ran == ["orders", "outbox"]


def test_events_published_in_the_last_flush_of_the_commit_are_not_lost(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "after_flush")
        def flushed(session: Session, context: Any) -> None:
            publish(shop.publisher, session, OrderPlaced(f"{len(session.new)} new"))

        session.add(Order(name="a"))
        session.commit()
    assert shop.orders() == ["1 new"]


def test_a_listener_that_stops_the_commit_after_the_insert_does_not_double_the_events(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        refusals = [PermissionError(), PermissionError()]

        @event.listens_for(session, "before_commit")
        def refuse(session: Session) -> None:
            if refusals:
                raise refusals.pop()

        for _ in range(2):
            with pytest.raises(PermissionError):
                session.commit()
        publish(shop.publisher, session, OrderPlaced("b"))
        session.commit()
    assert shop.orders() == ["a", "b"]


def test_a_commit_that_the_database_refuses_publishes_nothing(pg: Shop) -> None:
    engine = pg.engine()
    with pg.connect() as connection:
        connection.execute("create table later (id int primary key deferrable initially deferred)")
    with Session(engine) as session:
        publish(pg.publisher, session, OrderPlaced("a"))
        session.execute(text("insert into later values (1), (1)"))
        with pytest.raises(Exception, match="duplicate key"):
            session.commit()
        session.rollback()
        publish(pg.publisher, session, OrderPlaced("b"))
        session.commit()
    assert pg.orders() == ["b"]
    assert pg.wakes == ["shop"]


def test_publishing_in_after_commit_is_refused(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        refused: list[BaseException] = []

        @event.listens_for(session, "after_commit")
        def too_late(session: Session) -> None:
            with pytest.raises(NoTransaction, match="has ended"):
                publish(shop.publisher, session, OrderPlaced("late"))
            refused.append(NoTransaction())

        session.add(Order(name="a"))
        session.commit()
    assert refused
    assert shop.log() == []


def test_publishing_in_after_begin_works(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "after_begin")
        def begun(session: Session, transaction: Any, connection: Any) -> None:
            publish(shop.publisher, session, OrderPlaced("begun"))

        session.add(Order(name="flushed in the commit"))
        session.commit()
        session.add(Order(name="flushed before"))
        session.flush()
        session.commit()
    assert shop.orders() == ["begun", "begun"]


def test_a_transaction_whose_events_could_not_be_inserted_cannot_commit_without_them(lite: Shop) -> None:
    engine = lite.engine()
    with lite.connect() as connection:
        connection.execute(
            "create trigger full before insert on tidings_outbox when new.key = 'bad' begin select raise(fail, 'disk full'); end"
        )
    with Session(engine) as session:
        session.add(Order(name="a"))
        publish(lite.publisher, session, OrderPlaced("good"))
        publish(lite.publisher, session, OrderPlaced("bad"))
        with pytest.raises(Exception, match="disk full"):
            session.commit()
        with pytest.raises(PublishError, match="roll it back"):
            session.commit()
        session.rollback()
        publish(lite.publisher, session, OrderPlaced("next"))
        session.commit()
    assert (lite.orders(), lite.stored()) == (["next"], [])


def test_a_swallowed_database_error_does_not_lose_events_in_silence(pg: Shop) -> None:
    engine = pg.engine()
    with Session(engine) as session:
        publish(pg.publisher, session, OrderPlaced("a"))
        with pytest.raises(Exception, match="division by zero"):
            session.execute(text("select 1/0"))
        for _ in range(2):
            with pytest.raises((PublishError, DBAPIError), match=r"aborted|roll it back"):
                session.commit()
        session.rollback()
    assert pg.log() == []


def test_a_listener_that_fails_at_the_end_of_a_transaction_leaves_no_events_for_the_next(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "after_transaction_end")
        def fail(session: Session, transaction: Any) -> None:
            raise PermissionError

        publish(shop.publisher, session, OrderPlaced("lost"))
        with pytest.raises(PermissionError):
            session.rollback()
        event.remove(session, "after_transaction_end", fail)
        session.execute(text("select 1"))
        session.commit()
        assert shop.log() == []
        publish(shop.publisher, session, OrderPlaced("kept"))
        session.commit()
    assert shop.orders() == ["kept"]


async def test_listeners_of_an_async_session_may_write_and_publish_in_the_middle_of_its_commit(shop: Shop) -> None:
    engine = shop.async_engine()
    factory = async_sessionmaker(engine, sync_session_class=type("Own", (Session,), {}))

    @event.listens_for(factory.kw["sync_session_class"], "before_commit")
    def for_all(session: Session) -> None:
        publish(shop.publisher, session, OrderPlaced("on the class"))

    for expected in (["on the class"], ["first", "on the class", "late"]):
        async with factory() as session:
            if len(expected) == 3:
                publish(shop.publisher, session, OrderPlaced("first"))

                @event.listens_for(session.sync_session, "before_commit")
                def late(session: Session) -> None:
                    session.add(Order(name="late"))
                    publish(shop.publisher, session, OrderPlaced("late"))

            await session.commit()
        assert shop.orders()[-len(expected) :] == expected
    await engine.dispose()
    assert shop.stored() == ["late"]
    assert shop.wakes == ["shop", "shop"]
