"""Stores: where the outbox, inbox, deliveries, checkpoints and schedule live. `SQLStore` keeps them in the user's own database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.stores.sql import SQLStore, metadata

__all__ = ["SQLStore", "metadata"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        try:
            from tidings.stores import sql
        except ImportError as error:
            from tidings.errors import MissingExtra

            raise MissingExtra("SQLStore", "sqlalchemy") from error
        return getattr(sql, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
