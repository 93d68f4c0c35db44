"""On asyncpg the INSERT and the COMMIT of a session travel in one message: nothing of it may be lost, doubled, or taken for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.consume.waiting import until
from tests.publish.shop import Order, OrderPlaced, Shop, StockCounted, waiting_for_a_key
from tidings.ids import slot_of
from tidings.publish.session import publish
from tidings.stores.sql.driver import send_with_commit, sends_with_commit


@pytest.fixture
async def engine(pg: Shop) -> AsyncIterator[AsyncEngine]:
    """One connection, so that whatever a transaction leaves behind meets the next one."""
    engine = create_async_engine(pg.database.url, pool_size=1, max_overflow=0)
    yield engine
    await engine.dispose()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What asyncpg sends as plain text."""
    statements: list[str] = []
    execute = asyncpg.Connection.execute

    async def noting(self: Any, query: str, *arguments: Any, **options: Any) -> str:
        statements.append(query)
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", noting)
    return statements


async def test_the_events_go_with_the_commit(pg: Shop, engine: AsyncEngine, sent: list[str]) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="a"))
        for name in ("a", "b"):
            publish(pg.publisher, session, OrderPlaced(name))
    *_, last = sent
    assert "insert into" in last
    assert last.endswith(";COMMIT;")
    assert not [each for each in sent if each == "COMMIT;"]
    assert pg.orders() == ["a", "b"]
    assert pg.stored() == ["a"]


async def test_a_rollback_takes_them_with_it(pg: Shop, engine: AsyncEngine, sent: list[str]) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("a"))
        await session.flush()
        await session.rollback()
        publish(pg.publisher, session, OrderPlaced("b"))
        await session.execute(text("select 1"))
        await session.commit()
    assert pg.orders() == ["b"]
    assert pg.stored() == []


async def test_a_listener_that_stops_the_commit_stops_them(pg: Shop, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("a"))
        connection = await session.connection()

        @event.listens_for(connection.sync_connection, "commit")
        def refuse(_: Any) -> None:
            raise LookupError("not today")

        with pytest.raises(LookupError):
            await session.commit()
        await session.rollback()
    assert pg.orders() == []
    assert pg.stored() == []


async def test_what_fails_is_told_by_the_commit_and_leaves_the_connection_clean(pg: Shop, engine: AsyncEngine) -> None:
    with pg.connect() as admin:
        admin.execute("alter table tidings_outbox add constraint good check (key is distinct from 'bad')")
    async with AsyncSession(engine) as session:
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("bad"))
        with pytest.raises(IntegrityError, match="good"):
            await session.commit()
        await session.rollback()
        session.add(Order(name="b"))
        publish(pg.publisher, session, OrderPlaced("b"))
        await session.commit()
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="c"))
        publish(pg.publisher, session, OrderPlaced("c"))
    assert pg.orders() == ["b", "c"]
    assert pg.stored() == ["b", "c"]


async def test_a_constraint_that_fails_at_the_commit_takes_the_events_with_it(pg: Shop, engine: AsyncEngine) -> None:
    with pg.connect() as admin:
        admin.execute("create table once (id int, constraint once_id unique (id) deferrable initially deferred)")
    async with AsyncSession(engine) as session:
        await session.execute(text("insert into once values (1), (1)"))
        publish(pg.publisher, session, OrderPlaced("a"))
        with pytest.raises(DBAPIError, match="once_id"):
            await session.commit()
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("insert into once values (1)"))
        publish(pg.publisher, session, OrderPlaced("b"))
    assert pg.orders() == ["b"]


async def test_a_task_that_is_cancelled_while_it_commits_has_committed_all_or_nothing(pg: Shop, engine: AsyncEngine) -> None:
    with pg.connect() as admin:
        admin.execute("begin")
        admin.execute("lock table tidings_outbox in access exclusive mode")

        async def work() -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Order(name="a"))
                publish(pg.publisher, session, OrderPlaced("a"))

        task = asyncio.ensure_future(work())
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        admin.execute("rollback")
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="b"))
        publish(pg.publisher, session, OrderPlaced("b"))
    assert pg.orders() == pg.stored() == ["b"]


async def test_a_connection_that_dies_meanwhile_is_an_error_and_the_next_one_works(pg: Shop, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("a"))
        pid = (await session.execute(text("select pg_backend_pid()"))).scalar_one()
        with pg.connect() as admin:
            admin.execute(f"select pg_terminate_backend({pid})")
        with pytest.raises(DBAPIError):
            await session.commit()
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="b"))
        publish(pg.publisher, session, OrderPlaced("b"))
    assert pg.orders() == pg.stored() == ["b"]


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_hostile_text_is_text(pg: Shop, engine: AsyncEngine, conforming: str) -> None:
    """Whatever `standard_conforming_strings` says."""
    texts = [
        "'",
        "\\",
        "\\'",
        "'; drop table orders; --",
        "\\'; drop table orders; --",
        "$1",
        "$2 $10",
        "%s ? :name",
        "\n\r\t",
        "🦆\u2028",
        "E'x'",
        "''",
    ]
    for together in (1, len(texts)):
        for first in range(0, len(texts), together):
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(text(f"set standard_conforming_strings = {conforming}"))
                await session.execute(text("set backslash_quote = on"))
                session.add(Order(name=f"{together} {first}"))
                for each in texts[first : first + together]:
                    publish(pg.publisher, session, OrderPlaced(each, each), headers={"note": each}, key=each)
    rows = pg.log()
    assert [row.key for row in rows] == texts * 2
    assert [row.data for row in rows] == [{"order": each, "note": each} for each in texts] * 2
    assert [row.headers["note"] for row in rows] == texts * 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)] * 2),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
@example([("\\'", "\\"), ("$1 {0} %s", "'")], True)
def test_a_script_inserts_what_the_statement_inserts(pg: Shop, pairs: list[tuple[str, str]], conforming: bool) -> None:
    events = [pg.publisher.prepare(OrderPlaced(order, order), key=key, headers={"note": order}) for order, key in pairs]
    statements = pg.publisher.statements
    script = statements.script(events)
    assert script is not None
    with pg.connect() as connection:
        connection.execute(f"set standard_conforming_strings = {'on' if conforming else 'off'}")
        connection.execute("truncate tidings_outbox")
        # Without arguments psycopg sends the text as it is.
        connection.execute(script)
        scripted = pg.log()
        connection.execute("truncate tidings_outbox")
        for command in statements.publish(events):
            connection.execute(command.sql.format, command.sql.ordered(command.arguments))
    assert scripted == pg.log()
    assert [(row.key, row.data["order"]) for row in scripted] == [(key, order) for order, key in pairs]


async def test_others_who_listen_to_the_connection_keep_the_events_before_the_commit(
    pg: Shop, engine: AsyncEngine, sent: list[str]
) -> None:
    """They may run statements then; they would not if the events were still to come."""
    async with AsyncSession(engine) as session, session.begin():
        connection = await session.connection()
        event.listen(connection.sync_connection, "commit", lambda _: None)
        session.add(Order(name="a"))
        publish(pg.publisher, session, OrderPlaced("a"))
    assert sent[-1] == "COMMIT;"
    assert pg.orders() == ["a"]


async def test_events_without_key_and_keyed_ones_in_one_transaction(pg: Shop, engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="a"))
        publish(pg.publisher, session, StockCounted(1))
        publish(pg.publisher, session, OrderPlaced("a"))
        publish(pg.publisher, session, StockCounted(2))
    assert [row.name for row in pg.log()] == ["stock.counted", "order.placed", "stock.counted"]


async def test_a_connection_that_the_caller_brought_has_the_events_when_the_session_has_committed(pg: Shop, engine: AsyncEngine) -> None:
    """The commit of the connection may come much later, or never, and a savepoint of the caller's may be rolled back before it."""
    async with engine.connect() as connection, connection.begin():
        await connection.execute(text("select 1"))
        async with AsyncSession(bind=connection) as session:
            publish(pg.publisher, session, OrderPlaced("a"))
            await session.commit()
        assert (await connection.execute(text("select count(*) from tidings_outbox"))).scalar_one() == 1
    assert pg.orders() == ["a"]


async def test_nothing_goes_with_a_rollback(engine: AsyncEngine, sent: list[str]) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        assert await connection.run_sync(sends_with_commit)
        await connection.run_sync(send_with_commit, "insert into orders (name, note) values ('a', '')")
        await connection.rollback()
        assert sent[-1] == "ROLLBACK;"
        await connection.execute(text("select 1"))
        await connection.commit()
        assert sent[-1] == "COMMIT;"


async def test_the_locks_come_before_the_first_position_and_ascend(pg: Shop, engine: AsyncEngine, sent: list[str]) -> None:
    """Invariant 5; two transactions that lock the same keys in another order would wait for one another."""
    keys = [f"k{n}" for n in range(20)]
    async with AsyncSession(engine) as session, session.begin():
        session.add(Order(name="a"))
        for key in (*keys, keys[0]):
            publish(pg.publisher, session, OrderPlaced(key), key=key)
        publish(pg.publisher, session, StockCounted(1))
    lock, insert, commit = sent[-1].split(";")[:3]
    slots = [int(slot) for slot in lock.split("{")[1].split("}")[0].split(",")]
    assert slots == sorted({slot_of(key) for key in keys})
    assert lock.startswith("select pg_advisory_xact_lock(")
    assert insert.startswith("insert into")
    assert commit == "COMMIT"


async def test_a_script_waits_for_whoever_has_published_the_key_and_not_committed(pg: Shop, engine: AsyncEngine) -> None:
    with pg.connect() as other:
        other.execute("begin")
        events = [pg.publisher.prepare(OrderPlaced("first"), key=key) for key in ("a", "b")]
        for command in pg.publisher.statements.publish(events):
            other.execute(command.sql.format, command.sql.ordered(command.arguments))

        async def work() -> None:
            async with AsyncSession(engine) as session, session.begin():
                session.add(Order(name="a"))
                for key in ("c", "b"):
                    publish(pg.publisher, session, OrderPlaced("second"), key=key)

        task = asyncio.ensure_future(work())
        await until(lambda: waiting_for_a_key(pg))
        assert not task.done()
        other.execute("commit")
        await task
    assert [row.data["order"] for row in pg.log()] == ["first", "first", "second", "second"]


async def test_what_is_scheduled_and_what_is_very_much_go_by_statements(pg: Shop, engine: AsyncEngine, sent: list[str]) -> None:
    for delay, count in ((timedelta(hours=1), 1), (None, 101)):
        async with AsyncSession(engine) as session, session.begin():
            session.add(Order(name=str(count)))
            for n in range(count):
                publish(pg.publisher, session, OrderPlaced(str(n)), delay=delay)
        assert sent[-1] == "COMMIT;"
    assert [row.data["order"] for row in pg.log()] == [str(n) for n in range(101)]
