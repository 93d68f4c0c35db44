"""Running the command line in this process, and a database that has a bit of everything in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.cli.till import fill
from tests.services.databases import Database, PostgreSQLDatabases
from tidings.cli.root import tidings


@dataclass(frozen=True)
class Ended:
    """What a command printed, and how it ended."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandLine:
    """Runs `tidings ...` in this process."""

    def __call__(self, *words: str, store: Database | None = None, **environment: str) -> Ended:
        arguments = [*words] if store is None else [*words, "--store", store.url]
        result = CliRunner().invoke(tidings, arguments, prog_name="tidings", env={"TIDINGS_STORE": None, **environment})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def cli() -> CommandLine:
    return CommandLine()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with events that were handled, are dead, wait, are scheduled and unread. For all tests of a module: only look at it."""
    if request.param == "sqlite":
        database = Database.sqlite(Path(tmp_path_factory.mktemp("filled")) / "till.sqlite")
        asyncio.run(fill(database))
        yield database
        return
    databases: PostgreSQLDatabases = request.getfixturevalue("postgresql_databases")
    with databases.fresh() as database:
        asyncio.run(fill(database))
        yield database
