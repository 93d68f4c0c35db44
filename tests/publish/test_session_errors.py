"""Where an event could not become part of a transaction, publishing says so at the call, and the message says what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from asyncpg import UndefinedTableError
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from tests.publish.shop import Order, OrderPlaced, Shop
from tidings.errors import InvalidEvent, NoTransaction, SchemaError, WrongDatabase
from tidings.publish.session import cancel, capture, publish


@pytest.fixture
def engine(shop: Shop) -> Iterator[Engine]:
    engine = shop.engine()
    yield engine
    engine.dispose()


def test_a_session_without_autobegin_must_have_begun(shop: Shop, engine: Engine) -> None:
    with Session(engine, autobegin=False) as session:
        with pytest.raises(NoTransaction, match=r"autobegin=False: publish inside `with session.begin\(\):`"):
            publish(shop.publisher, session, OrderPlaced("a"))
        with session.begin():
            publish(shop.publisher, session, OrderPlaced("b"))
    assert shop.orders() == ["b"]


def test_a_session_closed_for_good_publishes_nothing(shop: Shop, engine: Engine) -> None:
    session = Session(engine, close_resets_only=False)
    publish(shop.publisher, session, OrderPlaced("a"))
    session.close()
    with pytest.raises(NoTransaction, match="permanently closed"):
        publish(shop.publisher, session, OrderPlaced("b"))
    assert shop.log() == []


@pytest.mark.parametrize("where", ["create_engine", "engine.execution_options", "connection", "session.connection", "session"])
def test_autocommit_is_refused_wherever_it_was_set(shop: Shop, where: str) -> None:
    engine = shop.engine(isolation_level="AUTOCOMMIT") if where == "create_engine" else shop.engine()
    bind: Any = engine
    options: dict[str, Any] = {}
    if where == "engine.execution_options":
        bind = engine.execution_options(isolation_level="AUTOCOMMIT")
    if where == "connection":
        bind = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    if where == "session" and not hasattr(Session, "execution_options"):
        pytest.skip("this SQLAlchemy's sessions have no execution_options")
    with Session(bind, **options) as session:
        if where == "session.connection":
            session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        if where == "session":
            session.execution_options = session.execution_options.union({"isolation_level": "AUTOCOMMIT"})
            session.connection()
        with pytest.raises(NoTransaction, match="AUTOCOMMIT"):
            publish(shop.publisher, session, OrderPlaced("a"))
        session.rollback()
    if where == "connection":
        bind.close()
    assert shop.log() == []


def test_autocommit_that_is_set_after_publishing_is_refused_at_the_commit(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        with pytest.raises(NoTransaction, match="autocommit mode"):
            session.commit()
    assert shop.log() == []


def test_autocommit_of_the_driver_is_refused_at_the_commit(shop: Shop) -> None:
    options: dict[str, Any] = {"autocommit": True} if shop.postgresql else {"isolation_level": None}
    engine = create_engine(shop.database.sync_url, poolclass=NullPool, connect_args=options)
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        with pytest.raises(NoTransaction, match="autocommit mode"):
            session.commit()
    assert shop.log() == []


def test_an_engine_that_leaves_the_transactions_to_the_driver_publishes(lite: Shop) -> None:
    engine = create_engine(lite.database.sync_url, poolclass=NullPool)
    with Session(engine) as session, session.begin():
        publish(lite.publisher, session, OrderPlaced("a"))
    with Session(engine) as session:
        publish(lite.publisher, session, OrderPlaced("lost"))
        session.execute(text("select 1"))
        session.rollback()
    assert lite.orders() == ["a"]


def test_a_session_of_another_database_is_refused(shop: Shop, engine: Engine) -> None:
    other = create_engine("sqlite://")
    publisher = shop.publisher_named("shop", same_database=lambda bind: bind is engine)
    with Session(engine) as session, session.begin():
        publish(publisher, session, OrderPlaced("a"))
    with Session(other) as session, pytest.raises(WrongDatabase, match=r"sqlite://, and the store of service 'shop' is in another"):
        publish(publisher, session, OrderPlaced("b"))
    assert shop.orders() == ["a"]


def test_each_service_checks_the_database_for_itself(shop: Shop, engine: Engine) -> None:
    stranger = shop.publisher_named("stranger", same_database=lambda bind: False)
    with Session(engine) as session, session.begin():
        publish(shop.publisher, session, OrderPlaced("a"))
        with pytest.raises(WrongDatabase, match="'stranger'"):
            publish(stranger, session, OrderPlaced("b"))
    assert shop.orders() == ["a"]


def test_a_password_is_not_shown(shop: Shop) -> None:
    engine = create_engine("postgresql+psycopg://me:secret@nowhere/x")
    publisher = shop.publisher_named("shop", same_database=lambda bind: False)
    with Session(engine) as session, pytest.raises(WrongDatabase) as caught:
        publish(publisher, session, OrderPlaced("a"))
    assert "nowhere" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_session_with_binds_per_mapper_only_is_refused(shop: Shop, engine: Engine) -> None:
    with Session(binds={Order: engine}) as session, pytest.raises(WrongDatabase, match="give it the store's engine as `bind`"):
        publish(shop.publisher, session, OrderPlaced("a"))


def test_anything_but_a_session_is_a_type_error_that_names_publishing(shop: Shop, engine: Engine) -> None:
    with engine.connect() as connection:
        for thing in (connection, engine, sqlite3.connect(":memory:"), sessionmaker(engine), async_sessionmaker(), None, "session"):
            with pytest.raises(TypeError, match=r"service\.publishing\(connection\)"):
                publish(shop.publisher, thing, OrderPlaced("a"))  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                capture(thing, print)  # type: ignore[arg-type]
            if isinstance(thing, sqlite3.Connection):
                thing.close()


def test_an_event_that_cannot_be_encoded_begins_no_transaction(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(InvalidEvent):
            publish(shop.publisher, session, OrderPlaced(5))  # type: ignore[arg-type]
        assert not session.in_transaction()


def test_a_failed_session_is_refused_until_it_is_rolled_back(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order(name="a"))
        session.commit()
    with Session(engine) as session:
        session.add(Order(name="a"))
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(NoTransaction, match="roll back"):
            publish(shop.publisher, session, OrderPlaced("b"))
        with pytest.raises(NoTransaction, match="roll back"):
            cancel(shop.publisher, session, shop.publisher.prepare(OrderPlaced("c")).id)
        session.rollback()
        publish(shop.publisher, session, OrderPlaced("d"))
        session.commit()
    assert shop.orders() == ["d"]


def test_a_failed_savepoint_is_refused_until_it_is_rolled_back(shop: Shop, engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Order(name="a"))
        session.flush()
        session.expunge_all()
        savepoint = session.begin_nested()
        session.add(Order(name="a"))
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(NoTransaction, match="roll back"):
            publish(shop.publisher, session, OrderPlaced("b"))
        savepoint.rollback()
        publish(shop.publisher, session, OrderPlaced("c"))
        session.commit()
    assert shop.orders() == ["c"]


def test_missing_tables_are_a_schema_error_that_names_the_command(shop: Shop, engine: Engine) -> None:
    with shop.connect() as connection:
        connection.execute("drop table tidings_outbox")
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        with pytest.raises(SchemaError, match="run `tidings db upgrade`") as caught:
            session.commit()
    assert isinstance(caught.value.__cause__, DBAPIError)


def test_a_table_without_one_of_its_columns_is_a_schema_error(shop: Shop, engine: Engine) -> None:
    with shop.connect() as connection:
        connection.execute("alter table tidings_outbox drop column topic")
    with Session(engine) as session:
        publish(shop.publisher, session, OrderPlaced("a"))
        with pytest.raises(SchemaError, match="too old"):
            session.commit()


async def test_missing_tables_are_a_schema_error_on_async_sessions(shop: Shop) -> None:
    with shop.connect() as connection:
        connection.execute("drop table tidings_outbox")
    engine = shop.async_engine()
    async with AsyncSession(engine) as session:
        await session.execute(text("select 1"))
        publish(shop.publisher, session, OrderPlaced("a"))
        with pytest.raises(SchemaError, match="run `tidings db upgrade`") as caught:
            await session.commit()
    assert isinstance(caught.value.__cause__, (DBAPIError, UndefinedTableError))
    await engine.dispose()


def test_a_locked_sqlite_database_names_the_remedy(lite: Shop) -> None:
    engine = create_engine(lite.database.sync_url, poolclass=NullPool, connect_args={"timeout": 0})
    with lite.connect() as other, Session(engine) as session:
        other.execute("begin immediate")
        publish(lite.publisher, session, OrderPlaced("a"))
        with pytest.raises(OperationalError, match="locked") as caught:
            session.commit()
        other.execute("rollback")
    assert any("BEGIN IMMEDIATE" in note for note in caught.value.__notes__)


def test_a_two_phase_session_publishes_what_it_prepares(pg: Shop) -> None:
    engine = pg.engine()
    with Session(engine, twophase=True) as session:
        publish(pg.publisher, session, OrderPlaced("a"))
        session.prepare()
        with pytest.raises(NoTransaction, match="prepared"):
            publish(pg.publisher, session, OrderPlaced("too late"))
        assert pg.log() == []
        assert pg.wakes == []
        session.commit()
        assert pg.orders() == ["a"]
        assert pg.wakes == ["shop"]
        publish(pg.publisher, session, OrderPlaced("lost"))
        session.prepare()
        session.rollback()
        publish(pg.publisher, session, OrderPlaced("b"))

        @event.listens_for(session, "before_commit")
        def late(session: Session) -> None:
            session.add(Order(name="late"))
            publish(pg.publisher, session, OrderPlaced("c"))

        session.commit()
    engine.dispose()
    assert pg.orders() == ["a", "b", "c"]


def test_a_read_only_transaction_refuses_the_commit_and_not_in_silence(pg: Shop) -> None:
    engine = pg.engine().execution_options(postgresql_readonly=True)
    with Session(engine) as session:
        publish(pg.publisher, session, OrderPlaced("a"))
        with pytest.raises(DBAPIError) as caught:
            session.commit()
    assert isinstance(caught.value.orig, psycopg.errors.ReadOnlySqlTransaction)
    assert pg.log() == []
