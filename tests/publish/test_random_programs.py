"""Random programs against the database itself: next to each event a row is written, and both are there in the end, or neither is.

SQLite and the synchronous session stand for all: nothing that differs between drivers decides what happens to an event.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tests.publish.shop import Order, OrderPlaced, Shop
from tests.services.databases import Database
from tidings.publish.session import publish

STEPS = st.sampled_from(
    [
        "publish",
        "publish",
        "publish",
        "publish, then connect",
        "savepoint",
        "connection savepoint",
        "release",
        "roll back to",
        "release outermost",
        "roll back outermost",
        "flush error",
        "commit",
        "rollback",
        "close",
        "reset",
    ]
)


class Program:
    """Runs steps on one session; keeps the stack of savepoints, because only the innermost may be ended, or all of them."""

    def __init__(self, session: Session, shop: Shop) -> None:
        self.session = session
        self.shop = shop
        self.number = 0
        self.savepoints: list[tuple[str, object]] = []

    def run(self, step: str) -> None:
        getattr(self, step.replace(",", "").replace(" ", "_"))()

    def publish(self) -> None:
        name = self._witness()
        publish(self.shop.publisher, self.session, OrderPlaced(name))

    def publish_then_connect(self) -> None:
        publish(self.shop.publisher, self.session, OrderPlaced(f"{self.number + 1:04}"))
        self._witness()

    def savepoint(self) -> None:
        self.savepoints.append(("session", self.session.begin_nested()))

    def connection_savepoint(self) -> None:
        self.savepoints.append(("connection", self.session.connection().begin_nested()))

    def release(self) -> None:
        self._end("commit")

    def roll_back_to(self) -> None:
        self._end("rollback")

    def release_outermost(self) -> None:
        self._end("commit", innermost=False)

    def roll_back_outermost(self) -> None:
        self._end("rollback", innermost=False)

    def flush_error(self) -> None:
        self.session.add(Order(name="taken"))
        try:
            self.session.flush()
        except IntegrityError:
            # The flush has rolled back to the session's innermost savepoint, or everything.
            while self.savepoints and self.savepoints[-1][0] == "connection":
                self.savepoints.pop()
            if self.savepoints:
                self._end("rollback")
            else:
                self.session.rollback()

    def commit(self) -> None:
        self.session.commit()
        self.savepoints.clear()

    def rollback(self) -> None:
        self.session.rollback()
        self.savepoints.clear()

    def close(self) -> None:
        self.session.close()
        self.savepoints.clear()

    def reset(self) -> None:
        self.session.reset()
        self.savepoints.clear()

    def _witness(self) -> str:
        self.number += 1
        name = f"{self.number:04}"
        self.session.execute(text("insert into orders (name, note) values (:name, '')"), {"name": name})
        return name

    def _end(self, how: str, *, innermost: bool = True) -> None:
        if not self.savepoints:
            return
        # The session ends what it has opened inside a savepoint of its own; across kinds, one after the other.
        if innermost or len({kind for kind, _ in self.savepoints}) > 1:
            getattr(self.savepoints.pop()[1], how)()
        else:
            kind, savepoint = self.savepoints[0]
            if kind == "session":
                getattr(savepoint, how)()
            else:
                for _, inner in reversed(self.savepoints):
                    getattr(inner, how)()
            self.savepoints.clear()


@pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning")
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25))
def test_an_event_is_in_the_log_exactly_when_the_row_beside_it_is(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        shop = Shop(Database.sqlite(Path(directory) / "random.sqlite"))
        shop.create()
        with shop.connect() as connection:
            connection.execute("insert into orders (name, note) values ('taken', '')")
        engine = shop.engine()
        with Session(engine) as session:
            program = Program(session, shop)
            for step in [*steps, "commit"]:
                program.run(step)
        engine.dispose()
        orders = shop.orders()
        assert orders == [name for name in shop.stored() if name != "taken"], "in publish order, which is the order of names"
        assert len(shop.wakes) <= steps.count("commit") + 1
        assert bool(shop.wakes) == bool(orders)
