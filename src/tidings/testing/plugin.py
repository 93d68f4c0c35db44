"""Fixtures for pytest: `tidings_store` and `tidings_harness`. pytest loads this by its entry point; SQLAlchemy waits for their first use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tidings.stores.sql.store import SQLStore
    from tidings.testing.harness import Harness

__all__ = ["tidings_harness", "tidings_store"]


@pytest.fixture
def tidings_store(tmp_path: Path) -> Iterator[SQLStore]:
    """A store on a new SQLite file that has its tables, with an asynchronous engine. No connection outlives its use."""
    from sqlalchemy.pool import NullPool

    from tidings.stores import SQLStore
    from tidings.testing.throwaway import make_async_engine, make_file

    path = tmp_path / "tidings-store.sqlite"
    make_file(path)
    store = SQLStore(make_async_engine(path, poolclass=NullPool))
    yield store
    store.close()


@pytest.fixture
def tidings_harness(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Harness]:
    """What makes harnesses, in the fixture's own directory.

    `async with tidings_harness(service, tables=Base.metadata) as t:`, or `with` in a synchronous test.
    """
    from tidings.testing.harness import Harness

    def make(service: Any, **options: Any) -> Harness:
        # The file stays where pytest keeps the files of the last runs, so that a failed test's can be looked at.
        if options.get("store") is None and "directory" not in options:
            options["directory"] = tmp_path_factory.mktemp("tidings")
        return Harness(service, **options)

    return make
