"""The tables as SQLAlchemy and Alembic know them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, select, text

from tests.services.databases import Database
from tests.stores.catalog import described
from tests.stores.events import outgoing, publish
from tests.stores.opening import opened
from tidings.errors import ConfigurationError
from tidings.stores import metadata
from tidings.stores.sql import include_name, include_object
from tidings.stores.sql.names import TABLES

# Conventions that would rename whatever is not named for good.
CONVENTIONS = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


@contextmanager
def connected(database: Database) -> Iterator[Connection]:
    engine = create_engine(database.sync_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def differences(connection: Connection, target: MetaData | list[MetaData], **options: Any) -> list[Any]:
    """What autogenerate would write into a migration, comparing everything that it can compare."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True, **options})
    found = compare_metadata(context, target)  # type: ignore[arg-type]
    # What would be written can be rendered, too.
    render_python_code(produce_migrations(context, target).upgrade_ops)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("into", [None, MetaData(naming_convention=CONVENTIONS)], ids=["alone", "with conventions"])
async def test_autogenerate_finds_no_difference_after_an_upgrade(database: Database, into: MetaData | None) -> None:
    async with opened(database) as store:
        await store.upgrade()
    with connected(database) as connection:
        target = metadata(into=None if into is None else MetaData(naming_convention=into.naming_convention), dialect=database.kind)
        assert {table.name for table in target.sorted_tables} == {f"tidings_{table}" for table in TABLES}
        assert differences(connection, target) == []


async def test_autogenerate_finds_no_difference_in_a_schema_and_under_a_prefix(postgresql: Database) -> None:
    async with opened(postgresql, schema="events", prefix="x_") as store:
        await store.upgrade()
    with connected(postgresql) as connection:
        assert differences(connection, metadata("events", "x_"), include_schemas=True) == []


async def test_a_column_that_was_changed_by_hand_is_a_difference(database: Database) -> None:
    async with opened(database) as store:
        await store.upgrade()
    with connected(database) as connection:
        connection.execute(text("alter table tidings_outbox add column by_hand integer"))
        connection.execute(text("drop index tidings_lanes_due_at"))
        assert sorted(difference[0] for difference in differences(connection, metadata(dialect=database.kind))) == [
            "add_index",
            "remove_column",
        ]


class TestLeavingTheTablesAlone:
    async def test_without_our_help_autogenerate_would_drop_the_tables(self, sqlite: Database) -> None:
        async with opened(sqlite) as store:
            await store.upgrade()
        with connected(sqlite) as connection:
            assert len([what for what, *_ in differences(connection, MetaData()) if what == "remove_table"]) == len(TABLES)

    @pytest.mark.parametrize("prefix", ["tidings_", "x_"])
    async def test_a_metadata_of_ones_own_does_not_drop_them(self, database: Database, prefix: str) -> None:
        async with opened(database, prefix=prefix) as store:
            await store.upgrade()
        own = MetaData()
        Table("orders", own, Column("id", Integer, primary_key=True))
        with connected(database) as connection:
            connection.execute(text("create table tidings_notes (id integer primary key)"))
            found = differences(connection, own, **hooks(prefix))
        # Only what the store does not have: a table that merely begins like ours is the user's.
        assert sorted((what, table.name) for what, table in found) == [("add_table", "orders"), ("remove_table", "tidings_notes")]

    async def test_it_is_enough_to_say_so_once_where_warnings_do_not_matter(self, database: Database) -> None:
        async with opened(database) as store:
            await store.upgrade()
        with connected(database) as connection:
            if database.kind == "postgresql":
                metadata()  # makes the types known, so that SQLAlchemy does not warn
            assert differences(connection, MetaData(), include_object=include_object) == []

    async def test_tables_that_are_not_there_yet_are_not_made_either(self, database: Database) -> None:
        with connected(database) as connection:
            assert differences(connection, metadata(dialect=database.kind), **hooks("tidings_")) == []


def hooks(prefix: str) -> dict[str, Callable[..., bool]]:
    return {"include_object": partial(include_object, prefix=prefix), "include_name": partial(include_name, prefix=prefix)}


class TestCreateAll:
    async def test_it_makes_what_upgrade_makes(self, database: Database) -> None:
        with connected(database) as connection:
            target = metadata(dialect=database.kind, into=MetaData(naming_convention={"ck": "ck_%(constraint_name)s"}))
            target.create_all(connection)
            connection.commit()
            made = described(connection)
            connection.rollback()
        async with opened(database) as store:
            await store.open()
            assert await store.check() == []
            await publish(store, outgoing("k", n=1))
        with connected(database) as connection:
            target.drop_all(connection)
            connection.commit()
        async with opened(database) as store:
            await store.upgrade()
            assert await store.transact(described) == made

    def test_tables_described_for_the_other_database_are_refused(self, database: Database) -> None:
        other = "sqlite" if database.kind == "postgresql" else "postgresql"
        with (
            connected(database) as connection,
            pytest.raises(ConfigurationError, match=f"described for {other}.*dialect={database.kind!r}"),
        ):
            metadata(dialect=other).create_all(connection)  # type: ignore[arg-type]


async def test_the_tables_can_be_queried(database: Database) -> None:
    async with opened(database) as store:
        await store.upgrade()
        event = outgoing("key", n=1)
        await publish(store, event)
    outbox = metadata(dialect=database.kind).tables["tidings_outbox"]
    with connected(database) as connection:
        row = connection.execute(select(outbox)).one()
        assert (str(row.id), row.key, row.name) == (str(event.id), "key", "order.placed")
        assert row.data == ({"n": 1} if database.kind == "postgresql" else '{"n": 1}')
        if database.kind == "postgresql":
            assert int(row.tx) > 0


def test_only_databases_that_have_tables_are_described() -> None:
    with pytest.raises(ConfigurationError, match="'mysql'"):
        metadata(dialect="mysql")  # type: ignore[arg-type]
