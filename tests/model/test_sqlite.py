"""The same machine on the statements themselves: every answer of a SQLite database, and every table after each step, must be the model's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.pool import NullPool

from tests.model.machine import Machine
from tests.model.memory import READER
from tests.model.tables import Twin
from tests.model.world import SUBSCRIPTIONS, World
from tidings.stores import SQLStore
from tidings.stores.sql import migrate
from tidings.stores.sqlite import configure


def make_template(path: Path) -> None:
    """Make a file with our tables, the reader's checkpoint, and a table for effects."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        store = SQLStore(engine)
        migrate.upgrade(connection, store.names, store.lock_class)
        connection.exec_driver_sql(
            "insert into tidings_checkpoints (reader, service, group_name, kind, moved_at) "
            f"values ('{READER}', 'shop', 'shop', 'log', '2026-01-01T00:00:00.000Z')"
        )
        for subscription in SUBSCRIPTIONS:
            connection.exec_driver_sql(
                "insert into tidings_subscriptions (id, service, group_name, name, events, ordered, registered_at) "
                f"values ({subscription.id}, 'shop', 'shop', '{subscription.name}', '[\"order.placed\"]', 1, '2026-01-01T00:00:00.000Z')"
            )
        connection.exec_driver_sql("create table effects (id integer primary key, subscription_id integer, event_key text)")
    engine.dispose()


class OnSQLite(Machine):
    """Two workers and every kind of subscription. SQLite has one writer, so one transaction is open at a time."""

    directory: ClassVar[Path]

    def make(self) -> World:
        path = Path(tempfile.mkdtemp(dir=self.directory)) / "world.sqlite"
        shutil.copy(self.directory / "template.sqlite", path)
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=NullPool)
        configure(engine)
        self.path = path
        return World(Twin(engine, SQLStore(engine)), processes=2)

    def perform(self, step: str) -> None:
        super().perform(step)
        self.world.tables.compare(self.world.effects)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.path.parent)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    make_template(tmp_path / "template.sqlite")
    OnSQLite.directory = tmp_path
    yield tmp_path
    del OnSQLite.directory


def test_the_statements_decide_as_the_model_does(directory: Path) -> None:
    run_state_machine_as_test(OnSQLite, settings=settings(max_examples=30, stateful_step_count=40))
