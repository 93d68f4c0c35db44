"""The JSON API does what its document says, whatever it is asked: schemathesis makes the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from sqlalchemy import create_engine

from tests.cli.till import fill
from tests.dashboard.scenes import furnish
from tests.services.databases import Database, PostgreSQLDatabases
from tidings.dashboard import Dashboard, TokenAuth, User
from tidings.dashboard.actions import ACTIONS
from tidings.dashboard.api import READS
from tidings.dashboard.openapi import document as made
from tidings.dashboard.routes import ROUTES
from tidings.stores import SQLStore

TOKEN = "o" * 20


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of an API on a store with a bit of everything."""
    if request.param == "sqlite":
        yield from _opened(Database.sqlite(Path(tmp_path_factory.mktemp("api")) / "till.sqlite"))
        return
    databases: PostgreSQLDatabases = request.getfixturevalue("postgresql_databases")
    with databases.fresh() as database:
        yield from _opened(database)


def _opened(database: Database) -> Iterator[Any]:
    asyncio.run(fill(database))
    furnish(database)
    engine = create_engine(database.sync_url)
    store = SQLStore(engine)
    dashboard = Dashboard(store, auth=TokenAuth({TOKEN: User("otto", {"operator"})}))
    yield schemathesis.openapi.from_asgi("/api/openapi.json", dashboard, headers={"Authorization": f"Bearer {TOKEN}"})
    store.close()
    engine.dispose()


OPERATIONS = [(path, method) for path, methods in made("")["paths"].items() for method in methods]

#: Few, and the same each time: a run is a look at every parameter, not a search.
FEW = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_as_the_document_says(document: Any, path: str, method: str) -> None:
    operation = document[path][method]
    described = made("")["paths"][path][method]
    # Without parameters there is nothing to ask wrongly.
    modes = list(GenerationMode) if described.get("parameters") or "requestBody" in described else [GenerationMode.POSITIVE]
    for mode in modes:

        @FEW
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            # That a text has to be JSON, or a day of its month, no schema can say.
            left_out = [positive_data_acceptance] if path.endswith(("/edit", "/keys", "/scheduled")) else []
            case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=left_out)

        run()


def test_everything_is_in_the_document() -> None:
    paths = made("")["paths"]
    api = {place.path for place in ROUTES if place.api} - {"/api/openapi.json"}
    assert set(paths) == api
    assert len(paths) == len(READS) + len(ACTIONS)
    assert made("/ops")["servers"] == [{"url": "/ops"}]
