"""Keeping Alembic's autogenerate away from the store's tables, which `tidings db upgrade` makes and changes.

In `env.py`: `context.configure(..., include_object=include_object, include_name=include_name)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidings.stores.sql.names import TABLES

__all__ = ["include_name", "include_object"]


def include_object(
    object: Any,  # noqa: A002 - Alembic's name of it
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: Any,
    *,
    prefix: str = "tidings_",
) -> bool:
    """Return False for what belongs to the store, so that autogenerate neither creates, changes nor drops it.

    Another prefix: `functools.partial(include_object, prefix=...)`.
    """
    return not _ours(name if type_ == "table" else getattr(getattr(object, "table", None), "name", None), prefix)


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None], *, prefix: str = "tidings_") -> bool:
    """Return False for the store's tables, so that they are not even read: SQLAlchemy warns about types that it does not know.

    Of use beside `include_object`, which keeps what is in `target_metadata` but was not read from being created.
    """
    return not _ours(name if type_ == "table" else parent_names.get("table_name"), prefix)


def _ours(table: str | None, prefix: str) -> bool:
    return table is not None and table.startswith(prefix) and table.removeprefix(prefix) in TABLES
