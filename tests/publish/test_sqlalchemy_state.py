"""What is read of SQLAlchemy's private state means what we take it for; a new version that changes it fails here first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, SessionTransaction

from tests.publish.shop import Order, Shop
from tidings.publish import sqlalchemy_state as state


@pytest.fixture
def engine(lite: Shop) -> Iterator[Engine]:
    engine = lite.engine()
    yield engine
    engine.dispose()


def root_of(session: Session) -> SessionTransaction:
    root = session.get_transaction()
    assert root is not None
    return root


def test_a_transaction_is_open_until_it_is_prepared_fails_or_ends(engine: Engine) -> None:
    seen: dict[str, bool] = {}
    with Session(engine) as session:
        for name in ("before_commit", "after_begin", "after_flush", "after_commit"):
            event.listen(session, name, lambda session, *rest, name=name: seen.setdefault(name, state.is_open(root_of(session))))
        session.add(Order(name="a"))
        root = session.begin() if session.get_transaction() is None else root_of(session)
        assert state.is_open(root)
        session.commit()
        assert not state.is_open(root)
        session.add_all([Order(name="a"), Order(name="b")])
        root = root_of(session) if session.in_transaction() else session.begin()
        with pytest.raises(IntegrityError):
            session.flush()
        assert not state.is_open(root)
        session.rollback()
    assert seen == {"before_commit": True, "after_begin": True, "after_flush": True, "after_commit": False}


def test_only_the_transaction_whose_commit_runs_is_preparing(engine: Engine) -> None:
    seen: list[tuple[bool, bool | None]] = []
    with Session(engine) as session:

        @event.listens_for(session, "before_commit")
        def note(session: Session) -> None:
            nested = session.get_nested_transaction()
            seen.append((state.is_preparing(root_of(session)), None if nested is None else state.is_preparing(nested)))

        root = session.begin()
        assert not state.is_preparing(root)
        session.begin_nested().commit()
        session.begin_nested()
        root.commit()
        assert not state.is_preparing(root)
    # A savepoint alone; the root with its savepoint still open; that savepoint on behalf of the root.
    assert seen == [(False, True), (True, False), (True, True)]


def test_acquiring_a_connection_in_the_last_flush_may_be_preparing(engine: Engine) -> None:
    seen: list[tuple[bool, bool]] = []
    with Session(engine) as session:

        @event.listens_for(session, "after_begin")
        def note(session: Session, *rest: Any) -> None:
            seen.append((state.is_preparing(root_of(session)), state.may_be_preparing(root_of(session))))

        session.add(Order(name="a"))
        session.commit()
        root = session.begin()
        assert not state.may_be_preparing(root)
    assert seen == [(False, True)]


def test_a_connection_is_known_once_it_is_acquired(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        assert state.acquired_connection(root_of(session), engine) is None
        connection = session.connection()
        assert state.acquired_connection(root_of(session), engine) is connection
    with engine.connect() as connection, Session(connection) as session, session.begin():
        assert state.acquired_connection(root_of(session), connection) is None
        session.connection()
        assert state.acquired_connection(root_of(session), connection) is connection


def test_listeners_are_heard_of_wherever_they_stand() -> None:
    """On a connection, on its engine, and on an engine of the same pool with other options."""
    plain = create_engine("sqlite://")
    with plain.connect() as connection:
        assert not state.may_be_heard(connection)
        event.listen(connection, "commit", lambda _: None)
        assert state.may_be_heard(connection)
    optioned = plain.execution_options(isolation_level="SERIALIZABLE")
    for each in (plain, optioned):
        event.listen(each, "commit", lambda _: None)
        with each.connect() as connection:
            assert state.may_be_heard(connection)
    plain.dispose()


def test_open_savepoints_have_names_that_are_never_used_twice(engine: Engine) -> None:
    with engine.connect() as connection:
        names: list[str] = []
        for _ in range(2):
            with connection.begin():
                assert state.open_savepoints(connection) == ()
                with connection.begin_nested():
                    (outer,) = state.open_savepoints(connection)
                    with connection.begin_nested():
                        inner, same = state.open_savepoints(connection)
                    assert same == outer
                    assert state.open_savepoints(connection) == (outer,)
                assert state.open_savepoints(connection) == ()
                names += [outer, inner]
        assert len(set(names)) == 4


def test_a_rolled_back_savepoint_is_known_by_its_name(engine: Engine) -> None:
    with engine.connect() as connection, connection.begin():
        assert not state.rolled_back_savepoints(connection)
        outer = connection.begin_nested()
        inner = connection.begin_nested()
        names = state.open_savepoints(connection)
        inner.commit()
        assert not state.rolled_back_savepoints(connection)
        outer.rollback()
        assert state.rolled_back_savepoints(connection) == {names[1]}


def test_a_session_is_clean_when_a_flush_would_do_nothing(engine: Engine) -> None:
    with Session(engine) as session:
        assert state.is_clean(session)
        order = Order(name="a")
        session.add(order)
        assert not state.is_clean(session)
        session.flush()
        assert state.is_clean(session)
        order.note = "x"
        assert not state.is_clean(session)
        session.flush()
        session.delete(order)
        assert not state.is_clean(session)


def test_a_transaction_that_was_ended_on_its_connection_is_not_whole(engine: Engine) -> None:
    with Session(engine) as session:
        session.begin()
        root = root_of(session)
        assert state.is_whole(session, root)
        connection = session.connection()
        assert state.is_whole(session, root)
        connection.rollback()
        assert not state.is_whole(session, root)
        session.close()
        assert not state.is_whole(session, root)
