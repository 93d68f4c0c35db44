"""Random programs of savepoints, rollbacks and handlers that record again, against a model of what must be handled."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from tests.domain.shop import Base, Noted, OrderPlaced, orders
from tests.domain.test_transactions import Saga
from tidings import Service, Subscriptions
from tidings.stores import SQLStore
from tidings.stores.sql.migrations.v0001 import statements
from tidings.stores.sql.names import Names
from tidings.stores.sqlite import configure

#: ("record", n): an event that its handler answers with n more, one after another; the savepoints hold programs of their own.
Step = tuple[Any, ...]

steps: st.SearchStrategy[list[Step]] = st.recursive(
    st.lists(
        st.one_of(
            st.tuples(st.just("record"), st.integers(0, 3)),
            st.tuples(st.just("aggregate"), st.integers(0, 3)),
            st.tuples(st.just("flush")),
        ),
        max_size=4,
    ),
    lambda inner: st.lists(
        st.one_of(
            st.tuples(st.just("record"), st.integers(0, 3)),
            st.tuples(st.just("aggregate"), st.integers(0, 3)),
            st.tuples(st.sampled_from(("release", "roll back", "connection release", "connection roll back")), inner),
        ),
        max_size=4,
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("domain") / "template.sqlite"
    with sqlite3.connect(path) as connection:
        for statement in statements("sqlite", Names(None, "tidings_")):
            connection.execute(statement)
    connection.close()
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool)
    Base.metadata.create_all(engine)
    return path


class World:
    def __init__(self, path: Path) -> None:
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool)
        configure(engine)
        handlers = Subscriptions()
        self.handled: list[str] = []
        self.number = 0

        @handlers.on(Noted)
        def again(event: Noted, session: Session) -> None:
            self.handled.append(event.text)
            name, left = event.text.split(":")
            if int(left):
                self.service.record(session, Noted(f"{name}:{int(left) - 1}"))

        @handlers.converts(Noted)
        def public(event: Noted) -> OrderPlaced:
            return OrderPlaced(event.text)

        self.service = Service("shop", contracts=[orders], subscriptions=[handlers], store=SQLStore(engine))
        self.sessions = sessionmaker(engine)
        self.service.attach(self.sessions)

    def run(self, session: Session, program: list[Step], saga: Saga) -> list[str]:
        """Run a program; return the events that its end leaves in the transaction around it."""
        kept: list[str] = []
        for what, *arguments in program:
            if what == "flush":
                session.flush()
            elif what in ("record", "aggregate"):
                self.number += 1
                text = f"{self.number}:{arguments[0]}"
                if what == "record":
                    self.service.record(session, Noted(text))
                else:
                    saga.step(text)
                kept.append(text)
            else:
                savepoint = session.connection().begin_nested() if what.startswith("connection") else session.begin_nested()
                inside = self.run(session, arguments[0], saga)
                if what.endswith("release"):
                    savepoint.commit()
                    kept += inside
                else:
                    savepoint.rollback()
        return kept


def rounds(recorded: list[str]) -> list[str]:
    """Return what is handled, in order: round after round."""
    found: list[str] = []
    while recorded:
        found += recorded
        recorded = [f"{name}:{int(left) - 1}" for name, left in (text.split(":") for text in recorded) if int(left)]
    return found


@given(program=steps, ending=st.sampled_from(("commit", "rollback", "close")), again=steps)
def test_what_is_handled_is_what_was_committed(
    template: Path, tmp_path_factory: pytest.TempPathFactory, program: list[Step], ending: str, again: list[Step]
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.sqlite"
    shutil.copy(template, path)
    world = World(path)
    saga = Saga()
    expected: list[str] = []
    with world.sessions() as session:
        world.service.track(session, saga)
        kept = world.run(session, program, saga)
        if ending == "commit":
            session.commit()
            expected += rounds(kept)
            assert saga.pull_events() == []
        else:
            (session.rollback if ending == "rollback" else session.close)()
            # What the aggregate had recorded and no savepoint has taken is back, to be tried again.
            left = {event.text for event in saga.pull_events()}
            assert left <= set(kept)
        assert world.handled == expected
        world.service.track(session, saga)
        kept = world.run(session, again, saga)
        session.commit()
        expected += rounds(kept)
    assert world.handled == expected
    with sqlite3.connect(path) as connection:
        log = [text for (text,) in connection.execute("select json_extract(data, '$.order_id') from tidings_outbox order by position")]
    connection.close()
    assert log == expected
    path.unlink()
