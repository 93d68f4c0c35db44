"""A rolled-back savepoint takes its events with it, whoever opened it; a released one hands them on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.publish.shop import Order, OrderPlaced, Shop
from tidings.publish.session import publish


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def test_a_released_savepoint_hands_its_events_on(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("1"))
    with session.begin_nested():
        publish(shop.publisher, session, OrderPlaced("2"))
        assert shop.wakes == []
    publish(shop.publisher, session, OrderPlaced("3"))
    assert shop.log() == []
    session.commit()
    assert shop.orders() == ["1", "2", "3"]


def test_a_rolled_back_savepoint_takes_its_events_with_it(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("kept"))
    savepoint = session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    savepoint.rollback()
    publish(shop.publisher, session, OrderPlaced("kept, too"))
    session.commit()
    assert shop.orders() == ["kept", "kept, too"]


def test_savepoints_three_deep_keep_what_every_level_keeps(shop: Shop, session: Session) -> None:
    for outer in (True, False):
        for middle in (True, False):
            for inner in (True, False):
                name = f"{outer:d}{middle:d}{inner:d}"
                first = session.begin_nested()
                publish(shop.publisher, session, OrderPlaced(f"{name} outer"))
                second = session.begin_nested()
                publish(shop.publisher, session, OrderPlaced(f"{name} middle"))
                third = session.begin_nested()
                publish(shop.publisher, session, OrderPlaced(f"{name} inner"))
                for savepoint, kept in ((third, inner), (second, middle), (first, outer)):
                    if kept:
                        savepoint.commit()
                    else:
                        savepoint.rollback()
    session.commit()
    expected = [
        f"{outer:d}{middle:d}{inner:d} {level}"
        for outer in (True, False)
        for middle in (True, False)
        for inner in (True, False)
        for level, kept in (("outer", outer), ("middle", outer and middle), ("inner", outer and middle and inner))
        if kept
    ]
    assert shop.orders() == expected


def test_rolling_back_an_outer_savepoint_takes_the_open_inner_ones_with_it(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("kept"))
    outer = session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost, too"))
    outer.rollback()
    session.commit()
    assert shop.orders() == ["kept"]


def test_releasing_an_outer_savepoint_releases_the_open_inner_ones(shop: Shop, session: Session) -> None:
    outer = session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("1"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("2"))
    outer.commit()
    publish(shop.publisher, session, OrderPlaced("3"))
    session.commit()
    assert shop.orders() == ["1", "2", "3"]


def test_a_root_transaction_that_commits_with_savepoints_open_publishes_their_events(shop: Shop, session: Session) -> None:
    root = session.begin()
    publish(shop.publisher, session, OrderPlaced("1"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("2"))
    session.begin_nested()
    session.add(Order(name="flushed last"))
    publish(shop.publisher, session, OrderPlaced("3"))
    root.commit()
    assert shop.orders() == ["1", "2", "3"]
    assert shop.stored() == ["flushed last"]
    assert shop.wakes == ["shop"]


def test_session_commit_with_savepoints_open_publishes_their_events(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("1"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("2"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("3"))
    session.commit()
    assert shop.orders() == ["1", "2", "3"]


def test_session_rollback_with_savepoints_open_publishes_nothing(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("1"))
    session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("2"))
    session.rollback()
    session.commit()
    assert shop.log() == []


def test_a_flush_error_in_a_savepoint_takes_its_events_with_it(shop: Shop, session: Session) -> None:
    session.add(Order(name="taken"))
    session.flush()
    session.expunge_all()
    publish(shop.publisher, session, OrderPlaced("kept"))
    savepoint = session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    session.add(Order(name="taken"))
    with pytest.raises(IntegrityError), savepoint:
        session.flush()
    publish(shop.publisher, session, OrderPlaced("kept, too"))
    session.commit()
    assert shop.orders() == ["kept", "kept, too"]


def test_an_error_when_a_savepoint_is_released_takes_its_events_with_it(shop: Shop, session: Session) -> None:
    session.add(Order(name="taken"))
    session.flush()
    session.expunge_all()
    publish(shop.publisher, session, OrderPlaced("kept"))
    savepoint = session.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    session.add(Order(name="taken"))
    with pytest.raises(IntegrityError):
        savepoint.commit()
    savepoint.rollback()
    session.commit()
    assert shop.orders() == ["kept"]


def test_a_savepoint_in_which_only_its_inner_one_published(shop: Shop, session: Session) -> None:
    with session.begin_nested(), session.begin_nested():
        publish(shop.publisher, session, OrderPlaced("kept"))
    outer = session.begin_nested()
    with session.begin_nested():
        publish(shop.publisher, session, OrderPlaced("lost"))
    outer.rollback()
    session.commit()
    assert shop.orders() == ["kept"]


@pytest.mark.parametrize("how", ["before the first event", "after the first event"])
def test_a_savepoint_of_the_connection_takes_its_events_with_it(shop: Shop, session: Session, how: str) -> None:
    if how == "after the first event":
        publish(shop.publisher, session, OrderPlaced("kept"))
    savepoint = session.connection().begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    savepoint.rollback()
    with session.connection().begin_nested():
        publish(shop.publisher, session, OrderPlaced("released"))
    publish(shop.publisher, session, OrderPlaced("last"))
    session.commit()
    assert shop.orders() == ["kept", "released", "last"][how == "before the first event" :]


def test_savepoints_of_the_session_and_of_its_connection_can_be_mixed(shop: Shop, session: Session) -> None:
    session.execute(text("select 1"))
    outer = session.connection().begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    with session.begin_nested():
        publish(shop.publisher, session, OrderPlaced("lost, though released by the session"))
    outer.rollback()
    with session.begin_nested():
        publish(shop.publisher, session, OrderPlaced("kept"))
        inner = session.connection().begin_nested()
        publish(shop.publisher, session, OrderPlaced("lost inside"))
        inner.rollback()
    session.commit()
    assert shop.orders() == ["kept"]


def test_a_savepoint_of_the_connection_that_is_rolled_back_twice_deep(shop: Shop, session: Session) -> None:
    connection = session.connection()
    outer = connection.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    inner = connection.begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost, too"))
    inner.commit()
    outer.rollback()
    session.commit()
    assert shop.log() == []


def test_each_transaction_has_its_own_savepoints(shop: Shop, session: Session) -> None:
    for number in range(3):
        savepoint = session.connection().begin_nested()
        publish(shop.publisher, session, OrderPlaced(f"lost {number}"))
        savepoint.rollback()
        savepoint = session.connection().begin_nested()
        publish(shop.publisher, session, OrderPlaced(str(number)))
        savepoint.commit()
        session.commit()
    assert shop.orders() == ["0", "1", "2"]


def test_an_error_in_the_database_inside_a_savepoint_of_the_connection(shop: Shop, session: Session) -> None:
    publish(shop.publisher, session, OrderPlaced("kept"))
    savepoint = session.connection().begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    session.execute(text("insert into orders (name, note) values ('a', '')"))
    with pytest.raises(IntegrityError), savepoint:
        session.execute(text("insert into orders (name, note) values ('a', '')"))
    session.commit()
    assert shop.orders() == ["kept"]
    assert shop.stored() == []


def test_a_savepoint_begun_while_flushing_belongs_to_the_savepoint_around_the_flush(shop: Shop, session: Session) -> None:
    @event.listens_for(session, "before_flush")
    def announce(session: Session, context: Any, instances: Any) -> None:
        publish(shop.publisher, session, OrderPlaced(f"{len(session.new)} new"))

    session.add(Order(name="a"))
    savepoint = session.begin_nested()
    session.add_all([Order(name="b"), Order(name="c")])
    session.flush()
    savepoint.rollback()
    session.commit()
    assert shop.orders() == ["1 new"]


@pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning")
def test_a_savepoint_that_sqlalchemy_remembers_after_its_end_takes_nothing_with_it(shop: Shop, session: Session) -> None:
    session.add(Order(name="taken"))
    session.flush()
    session.expunge_all()
    outer = session.begin_nested()
    session.connection().begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost"))
    session.add(Order(name="taken"))
    with pytest.raises(IntegrityError):
        session.flush()
    outer.rollback()
    publish(shop.publisher, session, OrderPlaced("kept"))
    later = session.connection().begin_nested()
    publish(shop.publisher, session, OrderPlaced("lost, too"))
    later.rollback()
    session.commit()
    assert shop.orders() == ["kept"]
