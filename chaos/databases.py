"""Engines as every process of a run makes them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidings.stores.sqlite import configure

__all__ = ["make_engine", "make_sync_engine"]


def make_engine(url: str, **options: Any) -> AsyncEngine:
    """Return an asynchronous engine, fit for several writers on SQLite."""
    engine = create_async_engine(url, **options)
    if engine.dialect.name == "sqlite":
        configure(engine)
    return engine


def make_sync_engine(url: str, **options: Any) -> Engine:
    """Return a synchronous engine, fit for several writers on SQLite."""
    engine = sa.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        configure(engine)
    return engine
