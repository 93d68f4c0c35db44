"""Whatever the order in which transactions write, end and are read: everything comes once, and a reader can go on from every mark.

Four sessions and one reader take turns as hypothesis says, and a model keeps the books.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine

from tests.services.databases import PostgreSQLDatabases
from tests.stores.events import outgoing, read_on
from tidings.stores import SQLStore
from tidings.stores.base import Mark
from tidings.stores.sql import migrate

_SESSIONS = 4

session = st.integers(0, _SESSIONS - 1)
step = st.one_of(
    st.tuples(st.just("insert"), session, st.integers(1, 7)),
    st.tuples(st.just("insert and undo"), session, st.integers(1, 3)),
    st.tuples(st.just("draw a number"), session, st.just(0)),
    st.tuples(st.just("commit"), session, st.just(0)),
    st.tuples(st.just("commit"), session, st.just(0)),
    st.tuples(st.just("roll back"), session, st.just(0)),
    st.tuples(st.just("prepare"), session, st.just(0)),
    st.tuples(st.just("read"), st.just(0), st.integers(1, 6)),
    st.tuples(st.just("read"), st.just(0), st.integers(1, 6)),
)


class World:
    """Four sessions, a reader's connection, and tables that stay from example to example."""

    def __init__(self, store: SQLStore, sessions: Sequence[psycopg.Connection[Any]], reader: Connection) -> None:
        self.store = store
        self.sessions = sessions
        self.reader = reader

    def now(self) -> Mark:
        """The mark of a group that starts now."""
        return Mark(self.reader.exec_driver_sql("select pg_current_snapshot()::text").scalar_one(), None, 0)


class Course:
    """One example: what was written, committed and read so far, each with the number of its step."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.step = 0
        self.open: dict[int, list[str]] = {place: [] for place in range(_SESSIONS)}
        self.prepared: list[tuple[str, list[str]]] = []
        self.inserted: dict[str, int] = {}
        self.committed: dict[str, int] = {}
        self.start = self.mark = world.now()
        self.rows: list[str] = []
        self.marks: list[tuple[int, Mark]] = [(0, self.start)]

    def take(self, what: str, place: int, count: int) -> None:
        self.step += 1
        connection = self.world.sessions[place]
        if what == "insert":
            self.insert(connection, place, count)
        elif what == "insert and undo":
            with connection.transaction(force_rollback=True):
                self.insert(connection, None, count)
        elif what == "draw a number":
            connection.execute("select pg_current_xact_id()")
        elif what == "commit":
            connection.commit()
            self.finish(self.open[place])
            self.open[place] = []
        elif what == "roll back":
            connection.rollback()
            self.open[place] = []
        elif what == "prepare":
            name = f"example-{self.step}"
            connection.execute("select 1")
            connection.execute(f"prepare transaction '{name}'")  # type: ignore[arg-type]
            connection.commit()
            self.prepared.append((name, self.open[place]))
            self.open[place] = []
        else:
            self.read(count)

    def insert(self, connection: psycopg.Connection[Any], place: int | None, count: int) -> None:
        events = [outgoing() for _ in range(count)]
        for command in self.world.store.publishing.publish(events):
            connection.execute(command.sql.format, command.sql.ordered(command.arguments))  # type: ignore[arg-type]
        for event in events:
            self.inserted[str(event.id)] = self.step
        if place is not None:
            self.open[place] += [str(event.id) for event in events]

    def finish(self, events: Sequence[str]) -> None:
        for event in events:
            self.committed[event] = self.step

    def read(self, limit: int) -> None:
        batch = self.world.store.log.read(self.world.reader, self.mark, limit)
        for row, after in zip(batch.rows, batch.marks, strict=True):
            self.rows.append(str(row[1]))
            self.marks.append((len(self.rows), after))
        self.mark = batch.end
        self.marks.append((len(self.rows), self.mark))

    def end(self, limit: int) -> None:
        """Commit what is open and what is prepared, and read to the end."""
        self.step += 1
        for place, connection in enumerate(self.world.sessions):
            connection.commit()
            self.finish(self.open[place])
        with psycopg.connect(self.world.sessions[0].info.dsn, autocommit=True) as other:
            for name, events in self.prepared:
                other.execute(f"commit prepared '{name}'")  # type: ignore[arg-type]
                self.finish(events)
        while True:
            before = len(self.rows), self.mark.current
            self.read(limit)
            if (len(self.rows), None) == before:
                return

    def check_order(self, rows: Sequence[str]) -> None:
        """Invariant 5: what was committed before another began to insert comes before it."""
        latest = 0
        for row in rows:
            assert self.committed[row] >= latest
            latest = max(latest, self.inserted[row])


@pytest.fixture(scope="module")
def world(postgresql_databases: PostgreSQLDatabases) -> Iterator[World]:
    with ExitStack() as stack:
        database = stack.enter_context(postgresql_databases.fresh())
        engine = create_engine(database.sync_url, isolation_level="AUTOCOMMIT")
        stack.callback(engine.dispose)
        store = SQLStore(engine, schema="public")
        with create_engine(database.sync_url).begin() as made:
            migrate.upgrade(made, store.names, store.lock_class)
        made.engine.dispose()
        sessions = [stack.enter_context(psycopg.connect(database.dsn)) for _ in range(_SESSIONS)]
        yield World(store, sessions, stack.enter_context(engine.connect()))


@settings(max_examples=150)
@given(steps=st.lists(step, max_size=40), limit=st.integers(1, 9), again=st.integers(1, 9))
def test_everything_comes_once_and_reading_can_go_on_from_every_mark(
    world: World, steps: list[tuple[str, int, int]], limit: int, again: int
) -> None:
    for connection in world.sessions:
        connection.rollback()
    course = Course(world)
    try:
        for what, place, count in steps:
            course.take(what, place, count)
    finally:
        course.end(limit)
    assert len(course.rows) == len(set(course.rows))
    assert set(course.rows) == set(course.committed)
    course.check_order(course.rows)
    for read, mark in course.marks:
        rest = [str(row[1]) for row in read_on(world.reader, world.store, mark, again)[0]]
        assert len(rest) == len(set(rest))
        assert set(rest) == set(course.rows[read:])
        course.check_order(rest)
