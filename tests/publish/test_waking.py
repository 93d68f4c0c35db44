"""After a commit that published, and only then, the readers of this process are woken."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from tests.publish.shop import OrderPlaced, Shop
from tidings.publish.session import publish


@pytest.fixture
def engine(lite: Shop) -> Iterator[Engine]:
    engine = lite.engine()
    yield engine
    engine.dispose()


def test_a_commit_wakes_once_whatever_the_number_of_events(lite: Shop, engine: Engine) -> None:
    seen: list[int] = []
    publisher = lite.publisher_named("shop", wake=lambda: seen.append(len(lite.log())))
    with Session(engine) as session, session.begin():
        for number in range(5):
            publish(publisher, session, OrderPlaced(str(number)))
    assert seen == [5]


def test_a_savepoint_a_rollback_and_a_commit_of_nothing_wake_nobody(lite: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(lite.publisher, session, OrderPlaced("a"))
        with session.begin_nested():
            publish(lite.publisher, session, OrderPlaced("b"))
        session.rollback()
        session.execute(text("select 1"))
        session.commit()
        savepoint = session.begin_nested()
        publish(lite.publisher, session, OrderPlaced("c"))
        savepoint.rollback()
        session.commit()
    assert lite.wakes == []


def test_a_wake_that_fails_does_not_fail_the_commit(lite: Shop, engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def wake() -> None:
        raise OSError("no loop")

    publisher = lite.publisher_named("shop", wake=wake)
    with caplog.at_level(logging.ERROR, "tidings"), Session(engine) as session, session.begin():
        publish(publisher, session, OrderPlaced("a"))
    assert lite.orders() == ["a"]
    assert "waking the readers of shop failed" in caplog.text
