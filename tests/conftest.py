"""Fixtures for every test: the event loop, and a fresh database of each kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import settings

from tests.services.databases import Database, PostgreSQLDatabases, SQLiteDatabases

IN_CI = os.environ.get("CI") == "true"

# No deadline: a test's time depends on the machine. In CI the same examples run every time.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "default")

# Set by `scripts/services run`: the URL of a server, or the reason why there is none.
POSTGRESQL_URL = os.environ.get("TIDINGS_TEST_POSTGRESQL", "")
POSTGRESQL_MISSING = os.environ.get("TIDINGS_TEST_POSTGRESQL_MISSING", "")


def pytest_report_header() -> str:
    if not POSTGRESQL_URL:
        return f"services: no postgresql ({POSTGRESQL_MISSING or 'TIDINGS_TEST_POSTGRESQL is not set; `make test` sets it'})"
    address = urlsplit(POSTGRESQL_URL)
    try:
        with psycopg.connect(POSTGRESQL_URL, connect_timeout=10) as connection:
            version = connection.info.parameter_status("server_version")
    except psycopg.OperationalError as error:
        raise pytest.UsageError(f"TIDINGS_TEST_POSTGRESQL is set, but its server does not answer: {error}") from None
    return f"services: postgresql {version} at {address.hostname}:{address.port or 5432}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"postgresql", "postgresql_url"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.postgresql)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio only: SQLAlchemy and the drivers know nothing else."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql_url() -> str:
    """A libpq URL of a superuser on a PostgreSQL server; without one the test is skipped, with the reason."""
    if POSTGRESQL_URL:
        return POSTGRESQL_URL
    if POSTGRESQL_MISSING:
        pytest.skip(f"no PostgreSQL: {POSTGRESQL_MISSING}")
    if IN_CI:
        pytest.fail("CI=true, but nobody tried to start PostgreSQL; run the tests through `make test`.")
    pytest.skip("no PostgreSQL: TIDINGS_TEST_POSTGRESQL is not set; `make test` starts a private server")


@pytest.fixture(scope="session")
def postgresql_databases(postgresql_url: str) -> Iterator[PostgreSQLDatabases]:
    databases = PostgreSQLDatabases(postgresql_url)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def sqlite_databases(tmp_path_factory: pytest.TempPathFactory) -> SQLiteDatabases:
    return SQLiteDatabases(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture
def upgraded() -> None:
    """With this, directly or through another fixture, SQLite's file comes with our tables in it; PostgreSQL makes them sooner than it copies."""


@pytest.fixture
def postgresql(postgresql_databases: PostgreSQLDatabases) -> Iterator[Database]:
    """A fresh PostgreSQL database, for what only PostgreSQL does."""
    with postgresql_databases.fresh() as database:
        yield database


@pytest.fixture
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A SQLite file that does not exist yet, unless the test wants it `upgraded`, for what only SQLite does."""
    path = tmp_path / "tidings.sqlite"
    if "upgraded" in request.fixturenames:
        databases: SQLiteDatabases = request.getfixturevalue("sqlite_databases")
        return databases.upgraded(path)
    return Database.sqlite(path)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest) -> Database:
    """A fresh database of each kind."""
    chosen = request.getfixturevalue(request.param)
    assert isinstance(chosen, Database)
    return chosen
