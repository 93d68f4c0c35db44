"""PgBouncer in front of the PostgreSQL that tests use, and how engines are told about it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from private_services.pgbouncer import PgBouncer
from private_services.processes import account, birth, free_port, spawn, stop, wait_until
from sqlalchemy.pool import NullPool

from tests.services.databases import Database

__all__ = ["ASYNCPG", "DIRECT", "DOCUMENTED", "PSYCOPG", "Behind", "proxy", "proxy_of_our_own"]

#: The application name of sessions that do not come through the proxy.
DIRECT = "past-the-proxy"


def _unique() -> str:
    return f"__ours_{uuid4()}__"


#: Ways to tell asyncpg and SQLAlchemy of a pooling proxy, as `create_async_engine` takes them.
ASYNCPG: dict[str, dict[str, Any]] = {
    # What docs/deployment.md advises.
    "no caches": {"pool_size": 20, "connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0}},
    # https://docs.sqlalchemy.org/en/20/dialects/postgresql.html#prepared-statement-name-with-pgbouncer, and asyncpg's own cache off.
    "unique names": {"poolclass": NullPool, "connect_args": {"statement_cache_size": 0, "prepared_statement_name_func": _unique}},
    "unique names, pooled": {
        "pool_size": 20,
        "connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": _unique},
    },
}
DOCUMENTED = ASYNCPG["no caches"]
#: The same for psycopg and `create_engine`. See https://www.psycopg.org/psycopg3/docs/advanced/prepare.html.
PSYCOPG: dict[str, Any] = {"pool_size": 20, "connect_args": {"prepare_threshold": None}}


@dataclass(frozen=True)
class Behind:
    """A test's database, as it is and through a proxy.

    Attributes:
        direct: past the proxy, for what the test itself looks up.
        proxied: through the proxy, for what is tested.
    """

    direct: Database
    proxied: Database

    def seen(self, sql: str) -> list[tuple[Any, ...]]:
        """Look at the server past the proxy; in the statement, `ours` are the proxy's sessions in this database."""
        ours = (
            "with ours as (select * from pg_stat_activity where datname = current_database() and backend_type = 'client backend' "
            f"and application_name <> '{DIRECT}')"
        )
        with psycopg.connect(self.direct.dsn, autocommit=True, application_name=DIRECT) as connection:
            return connection.execute(f"{ours} {sql}".encode()).fetchall()


def proxy(url: str, database: Database) -> Behind:
    """Return a database as it is and through the proxy that this URL leads to."""
    return Behind(database, Database.postgresql(f"{url.rpartition('/')[0]}/{urlsplit(database.dsn).path.lstrip('/')}"))


@contextmanager
def proxy_of_our_own(program: Path, upstream: str, settings: Mapping[str, str]) -> Iterator[str]:
    """A PgBouncer of a test's own, with settings of its own; gives its URL."""
    service = PgBouncer(upstream, settings)
    user = account(service.accounts)
    # Not pytest's directory, which the proxy's user may not enter.
    place = Path(tempfile.mkdtemp(prefix="tidings-test-"))
    try:
        place.chmod(0o755)
        port = free_port()
        process = spawn(service.command(program, place, port), place / "log", user, str(place))
        born = birth(process.pid)
        try:
            assert wait_until(lambda: service.ready(port), 30), (place / "log").read_text()
            yield service.url(port)
        finally:
            stop(process.pid, born, service.stop_signals)
            process.wait()
    finally:
        shutil.rmtree(place, ignore_errors=True)
