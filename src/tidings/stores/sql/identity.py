"""Whether two engines lead to the same database, told by their addresses."""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

__all__ = ["engine_of", "identity_of", "same_identity"]

_LOCAL = {None, "", "localhost", "127.0.0.1", "::1"}

Identity = tuple[str, ...]


def engine_of(bind: Any) -> Engine:
    """Return the synchronous engine behind an engine or connection of either kind."""
    if isinstance(bind, AsyncEngine):
        return bind.sync_engine
    if isinstance(bind, AsyncConnection):
        return bind.engine.sync_engine
    return bind.engine if isinstance(bind, Connection) else bind


def identity_of(engine: Engine) -> Identity | None:
    """Return ("postgresql", host, port, database) or ("sqlite", path); None when the URL does not tell (e.g. with `creator`)."""
    url = engine.url
    name = engine.dialect.name
    if name == "sqlite":
        return (
            None if url.database in (None, "", ":memory:") or url.database.startswith("file:") else (name, os.path.realpath(url.database))
        )
    if not url.database:
        return None
    query_host = url.query.get("host")
    host = url.host or (query_host if isinstance(query_host, str) else None)
    return (name, host or "", str(url.port or 5432), url.database)


def same_identity(a: Identity | None, b: Identity | None) -> bool:
    """Return False only when the two surely differ."""
    if a is None or b is None:
        return True
    if a[0] != b[0]:
        return False
    if a[0] == "sqlite":
        return a == b
    local = [host in _LOCAL or host.startswith("/") for host in (a[1], b[1])]
    same_host = a[1] == b[1] or all(local)
    return same_host and a[2:] == b[2:]
