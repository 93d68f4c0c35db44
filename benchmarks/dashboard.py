"""The dashboard on a million events and a hundred thousand dead ones: the server's time for every page."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
from sqlalchemy import Engine, create_engine

from benchmarks.dashboard_rows import PAGES, fill_rows
from benchmarks.database import fresh_database
from benchmarks.measuring import Series, progress
from benchmarks.report import Goal, Row, Section
from benchmarks.settings import Settings
from tidings.dashboard import Dashboard
from tidings.stores import SQLStore


async def run(settings: Settings) -> list[Section]:
    """Open every page several times, on PostgreSQL and on SQLite."""
    events, dead = settings.count(1_000_000, 20_000), settings.count(100_000, 2_000)
    sections = []
    async with fresh_database(settings.server, "dashboard") as database:
        engine = create_engine(database.dsn.replace("postgresql://", "postgresql+psycopg://", 1))
        sections.append(await _measured("PostgreSQL", engine, events, dead, settings.count(7, 2)))
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(f"sqlite:///{Path(directory) / 'dashboard.sqlite'}")
        sections.append(await _measured("SQLite", engine, events, dead, settings.count(7, 2)))
    return sections


async def _measured(name: str, engine: Engine, events: int, dead: int, rounds: int) -> Section:
    store = SQLStore(engine)
    await store.upgrade()
    progress(f"{name}: making {events:,} events and {dead:,} dead deliveries")
    with engine.begin() as connection:
        values = fill_rows(connection, events, dead)
    transport: Any = httpx.ASGITransport(Dashboard(store), client=("127.0.0.1", 1))
    rows = []
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for page in PAGES:
            address = page.format(**values)
            figures = []
            for _ in range(rounds):
                started = perf_counter()
                answer = await client.get(address)
                figures.append((perf_counter() - started) * 1000)
                answer.raise_for_status()
            rows.append(Row(page, Series(tuple(figures)), None, (Goal("ours", "<=", 300),)))
    store.close()
    engine.dispose()
    return Section(f"dashboard on {name}, {events:,} events, {dead:,} dead", "ms", "", rows)
