"""Engines as every process of a run makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidings.stores.sqlite import configure

__all__ = ["make_engine", "make_sync_engine", "new_database"]


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


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """Give the URL of a new database on a PostgreSQL server, for the block; `server` is the libpq URL of a superuser."""
    name = f"tidings_chaos_{os.getpid()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name} template template0")
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"drop database if exists {name} with (force)")
