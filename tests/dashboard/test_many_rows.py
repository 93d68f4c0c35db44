"""Pages on a million events and a hundred thousand dead ones read a bounded part of them: plans and work are pinned, never the time.

`python -m benchmarks dashboard` measures the time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import Engine, create_engine, event

from benchmarks.dashboard_rows import PAGES, fill_rows
from tests.dashboard.conftest import client_of
from tests.services.databases import Database, PostgreSQLDatabases
from tests.stores.plans import Plan
from tidings.dashboard import Dashboard
from tidings.stores import SQLStore

EVENTS, DEAD = 1_000_000, 100_000

LARGE = ("tidings_outbox", "tidings_deliveries", "tidings_stats", "tidings_scheduled")

#: What a page may touch: pages of PostgreSQL's memory (of 8 kB), and thousands of instructions of SQLite's machine.
BUFFERS = 90_000
STEPS = 8_000


def filled_with_rows(database: Database) -> dict[str, str]:
    engine = create_engine(database.sync_url)
    store = SQLStore(engine)
    asyncio.run(store.upgrade())
    with engine.begin() as connection:
        values = fill_rows(connection, EVENTS, DEAD)
    store.close()
    engine.dispose()
    return values


@pytest.fixture(scope="module")
def many_in_sqlite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, dict[str, str]]:
    database = Database.sqlite(Path(tmp_path_factory.mktemp("many")) / "many.sqlite")
    return database, filled_with_rows(database)


@pytest.fixture(scope="module")
def many_in_postgresql(postgresql_databases: PostgreSQLDatabases) -> Iterator[tuple[Database, dict[str, str]]]:
    with postgresql_databases.fresh() as database:
        yield database, filled_with_rows(database)


@pytest.mark.postgresql
async def test_postgresql_reads_by_indexes_and_within_bounds(
    many_in_postgresql: tuple[Database, dict[str, str]], engines: list[Any]
) -> None:
    database, values = many_in_postgresql
    engine = create_engine(database.sync_url)
    engines.append(engine)
    plans: list[Plan] = []
    _explain(engine, plans)
    found: dict[str, tuple[int, int]] = {}
    scanned: list[tuple[str, str]] = []
    async with client_of(Dashboard(SQLStore(engine))) as client:
        for page in PAGES:
            await asked(client, page, values)
            plans.clear()
            await asked(client, page, values)
            scanned += [(page, plan.query) for plan in plans for table in LARGE if "Seq Scan" in {scan.kind for scan in plan.scans(table)}]
            found[page] = (len(plans), sum(plan.buffers for plan in plans))
    assert scanned == []
    assert {page: work for page, work in found.items() if work[1] > BUFFERS} == {}
    assert {page: work for page, work in found.items() if work[0] > 140} == {}, "statements"


async def test_sqlite_does_a_bounded_amount_of_work(many_in_sqlite: tuple[Database, dict[str, str]], engines: list[Any]) -> None:
    database, values = many_in_sqlite
    engine = create_engine(database.sync_url)
    engines.append(engine)
    steps = [0]

    @event.listens_for(engine, "connect")
    def watch(connection: Any, _: Any) -> None:
        def step() -> None:
            steps[0] += 1

        connection.set_progress_handler(step, 1000)

    found: dict[str, int] = {}
    async with client_of(Dashboard(SQLStore(engine))) as client:
        for page in PAGES:
            await asked(client, page, values)
            steps[0] = 0
            await asked(client, page, values)
            found[page] = steps[0]
    assert {page: work for page, work in found.items() if work > STEPS} == {}


async def asked(client: httpx.AsyncClient, page: str, values: dict[str, str]) -> None:
    answer = await client.get(page.format(**values))
    assert answer.status_code == 200, (page, answer.text[:500])


def _explain(engine: Engine, plans: list[Plan]) -> None:
    settings = {
        "log_min_duration": "0",
        "log_analyze": "on",
        "log_buffers": "on",
        "log_timing": "off",
        "log_format": "json",
        "log_level": "notice",
    }

    @event.listens_for(engine, "connect")
    def watch(connection: Any, _: Any) -> None:
        driver: psycopg.Connection[Any] = connection
        with driver.cursor() as cursor:
            cursor.execute("load 'auto_explain'")
            for name, value in settings.items():
                cursor.execute(f"set auto_explain.{name} = '{value}'")  # type: ignore[call-overload]
        driver.commit()

        def heard(notice: psycopg.errors.Diagnostic) -> None:
            message = notice.message_primary or ""
            if "plan:\n" in message:
                said = json.loads(message.partition("plan:\n")[2])
                plans.append(Plan(said["Query Text"], said["Plan"]))

        driver.add_notice_handler(heard)
