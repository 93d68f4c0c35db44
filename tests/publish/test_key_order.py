"""Invariant 5: with key locks, positions of one key follow the order of commits, and publishers of many keys never deadlock."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.publish.shop import OrderPlaced, PriceChanged, Shop, waiting_for_a_key
from tidings.publish.publishing import Publishing
from tidings.publish.session import publish

pytestmark = pytest.mark.postgresql


@pytest.fixture
def engine(pg: Shop) -> Iterator[Engine]:
    engine = pg.engine()
    yield engine
    engine.dispose()


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.005)


class Commit:
    """Commits in a thread, so that the test can watch it wait."""

    def __init__(self, commit: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self._commit = commit
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._commit()
        except BaseException as error:
            self.error = error

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(20)
        assert self.done
        assert self.error is None


def holding(shop: Shop, *events: object) -> Any:
    """A transaction that has inserted its events and has not committed yet."""
    connection = psycopg.connect(shop.database.dsn)
    connection.execute("select 1")
    with Publishing(shop.publisher, connection) as publish_:
        for event in events:
            publish_(event)
    return connection


def test_the_second_transaction_of_a_key_waits_for_the_first_to_commit(pg: Shop, engine: Engine) -> None:
    first = holding(pg, OrderPlaced("k", "first"))
    with Session(engine) as session:
        publish(pg.publisher, session, OrderPlaced("k", "second"))
        second = Commit(session.commit)
        until(lambda: waiting_for_a_key(pg) == 1)
        assert not second.done
        assert pg.log() == []
        first.commit()
        second.join()
    first.close()
    assert [row.data["note"] for row in pg.log()] == ["first", "second"]


def test_the_second_transaction_goes_on_when_the_first_rolls_back(pg: Shop, engine: Engine) -> None:
    first = holding(pg, OrderPlaced("k", "first"))
    with Session(engine) as session:
        publish(pg.publisher, session, OrderPlaced("k", "second"))
        publish(pg.publisher, session, OrderPlaced("other", "third"))
        second = Commit(session.commit)
        until(lambda: waiting_for_a_key(pg) == 1)
        first.rollback()
        second.join()
    first.close()
    assert [row.data["note"] for row in pg.log()] == ["second", "third"]


def test_other_keys_and_events_without_lock_do_not_wait(pg: Shop, engine: Engine) -> None:
    first = holding(pg, OrderPlaced("k"), PriceChanged("hot"), PriceChanged("hotter"))
    with Session(engine) as session, session.begin():
        publish(pg.publisher, session, OrderPlaced("another"))
        publish(pg.publisher, session, PriceChanged("hot"))
        publish(pg.publisher, session, PriceChanged("k"))
        publish(pg.publisher, session, OrderPlaced("k"), key=None)
    assert len(pg.log()) == 4
    first.rollback()
    first.close()


@pytest.mark.parametrize("events", [1, 2])
def test_a_lock_is_taken_before_the_first_position_is_drawn(pg: Shop, engine: Engine, events: int) -> None:
    """Else the second transaction would hold a lower position than what the first inserts while it waits."""
    first = psycopg.connect(pg.database.dsn)
    first.execute("select 1")
    with Publishing(pg.publisher, first) as publish_first:
        publish_first(OrderPlaced("k", "1"))
    with Session(engine) as session:
        if events == 2:
            publish(pg.publisher, session, OrderPlaced("free", "3"))
        publish(pg.publisher, session, OrderPlaced("k", "4"))
        second = Commit(session.commit)
        until(lambda: waiting_for_a_key(pg) == 1)
        with Publishing(pg.publisher, first) as publish_first:
            publish_first(OrderPlaced("k", "2"))
        first.commit()
        second.join()
    first.close()
    assert [row.data["note"] for row in pg.log()] == ["1", "2", *(["3"] if events == 2 else []), "4"]


async def test_many_keys_in_random_order_never_deadlock_and_keep_each_key_in_order_of_commits(pg: Shop) -> None:
    engine = pg.async_engine()
    keys = [f"key {number}" for number in range(12)]
    choice = random.Random(7)
    with pg.connect() as connection:
        connection.execute("create table counters (key text primary key, n int not null)")
        for key in keys:
            connection.execute("insert into counters values (%s, 0)", [key])

    async def write(chosen: list[str]) -> None:
        async with AsyncSession(engine) as session, session.begin():
            connection = (await session.connection()).sync_connection
            assert connection is not None
            # The rows are locked in one order, and so are the counts that the events carry; the events are published in another.
            numbers = {}
            for key in sorted(chosen):
                result = await (await session.connection()).exec_driver_sql(
                    "update counters set n = n + 1 where key = $1 returning n", (key,)
                )
                numbers[key] = result.scalar_one()
            for key in chosen:
                publish(pg.publisher, session, OrderPlaced(key, str(numbers[key])))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(60):
            group.create_task(write(choice.sample(keys, choice.randint(1, 6))))
    await engine.dispose()
    seen: dict[str, list[int]] = {}
    for row in pg.log():
        assert row.key is not None
        seen.setdefault(row.key, []).append(int(row.data["note"]))
    assert seen
    for numbers in seen.values():
        assert numbers == list(range(1, len(numbers) + 1))


async def test_many_keys_without_a_row_to_lock_never_deadlock(pg: Shop) -> None:
    engine = pg.async_engine()
    choice = random.Random(11)

    async def write(number: int) -> None:
        async with AsyncSession(engine) as session, session.begin():
            for key in choice.sample(range(40), choice.randint(1, 20)):
                publish(pg.publisher, session, OrderPlaced(str(key), str(number)))

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(write(number))
    await engine.dispose()
    orders: dict[str, list[str]] = {}
    for row in pg.log():
        orders.setdefault(str(row.key), []).append(row.data["note"])
    # Any two transactions that share keys stand in the same order in all of them.
    before: set[tuple[str, str]] = set()
    for notes in orders.values():
        for position, first in enumerate(notes):
            before.update((first, second) for second in notes[position + 1 :])
    assert not {(second, first) for first, second in before} & before
