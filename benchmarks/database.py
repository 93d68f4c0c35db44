"""A fresh database for each benchmark, and what the machine and its server are."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["Database", "fresh_database", "machine", "warm"]


class Database:
    """One empty database.

    Attributes:
        dsn: for asyncpg.
        url: for SQLAlchemy.
        admin: a connection of the benchmark's own, to prepare and to check.
    """

    def __init__(self, dsn: str, admin: Any) -> None:
        self.dsn = dsn
        self.url = f"postgresql+asyncpg://{dsn.partition('://')[2]}"
        self.admin = admin

    def engine(self, connections: int) -> AsyncEngine:
        """Return an engine whose pool holds that many connections and never more."""
        return create_async_engine(self.url, pool_size=connections, max_overflow=0)

    async def clear(self, *tables: str) -> None:
        """Empty tables, and write out what is dirty, so that no run pays for the one before."""
        await self.admin.execute(f"truncate {', '.join(tables)} restart identity")
        await self.admin.execute("checkpoint")

    async def settle(self, *tables: str) -> None:
        """Give the planner statistics, as autovacuum would have, and write out what is dirty."""
        for table in tables:
            await self.admin.execute(f"vacuum analyze {table}")
        await self.admin.execute("checkpoint")


@asynccontextmanager
async def fresh_database(server: str, purpose: str) -> AsyncIterator[Database]:
    """Make a database on the server for a block; drop it afterwards."""
    name = f"tidings_bench_{purpose}_{os.getpid()}"
    maintenance = await asyncpg.connect(server)
    try:
        await maintenance.execute(f'drop database if exists "{name}" with (force)')
        await maintenance.execute(f'create database "{name}" template template0')
        try:
            dsn = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
            admin = await asyncpg.connect(dsn)
            try:
                yield Database(dsn, admin)
            finally:
                await admin.close()
        finally:
            await maintenance.execute(f'drop database if exists "{name}" with (force)')
    finally:
        await maintenance.close()


async def warm(engine: AsyncEngine, connections: int) -> None:
    """Open that many of a pool's connections: connecting is not what is measured."""
    opened = [await engine.connect() for _ in range(connections)]
    for connection in opened:
        await connection.close()


async def machine(server: str) -> dict[str, str]:
    """Return the facts that figures depend on."""
    facts = {
        "cpu": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} x {_processor()}",
        "load": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "?",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in ("uvloop", "sqlalchemy", "asyncpg", "msgspec"):
        facts[package] = _version(package)
    if server:
        connection = await asyncpg.connect(server)
        try:
            for setting in ("server_version", "fsync", "synchronous_commit", "shared_buffers"):
                facts["postgresql" if setting == "server_version" else setting] = await connection.fetchval(f"show {setting}")
        finally:
            await connection.close()
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    with_names = Path("/proc/cpuinfo")
    lines: Sequence[str] = with_names.read_text().splitlines() if with_names.exists() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
