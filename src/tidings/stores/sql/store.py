"""`SQLStore`: the store in the user's own database, on SQLAlchemy's engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID
from zlib import crc32

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from tidings.clock import elapsed
from tidings.errors import ConfigurationError, SchemaError
from tidings.publish.outgoing import Outgoing
from tidings.publish.publisher import PublishStatements
from tidings.stores.sql import migrate
from tidings.stores.sql.breakers import Breakers
from tidings.stores.sql.commands import Commands
from tidings.stores.sql.connections import Connections
from tidings.stores.sql.dialect import POSTGRESQL, SQLITE, Dialect
from tidings.stores.sql.errors import kind_of
from tidings.stores.sql.history import History
from tidings.stores.sql.identity import engine_of, identity_of, same_identity
from tidings.stores.sql.leases import Leases
from tidings.stores.sql.limits import Limits
from tidings.stores.sql.names import Names
from tidings.stores.sql.numbers import WorkerNumbers
from tidings.stores.sql.outages import Outages
from tidings.stores.sql.postgresql import inbox as pg_inbox
from tidings.stores.sql.postgresql import lanes as pg_lanes
from tidings.stores.sql.postgresql import log as pg_log
from tidings.stores.sql.postgresql import publish as pg_publish
from tidings.stores.sql.registry import Registry
from tidings.stores.sql.repair import Repair
from tidings.stores.sql.sharing import Sharing
from tidings.stores.sql.sqlite import inbox as lite_inbox
from tidings.stores.sql.sqlite import lanes as lite_lanes
from tidings.stores.sql.sqlite import log as lite_log
from tidings.stores.sql.sqlite import publish as lite_publish
from tidings.stores.sql.statement import Command
from tidings.stores.sql.stats import Stats
from tidings.stores.sql.upkeep import Upkeep

__all__ = ["SQLStore", "StorePublishing"]

P = ParamSpec("P")
R = TypeVar("R")

#: How long `upgrade` tries to switch a SQLite file to write-ahead logging while others use it.
_SWITCH_SECONDS = 10.0


class SQLStore:
    """Outbox, inbox, lanes, deliveries, checkpoints and schedule in one database.

    Args:
        engine: an `AsyncEngine` or `Engine` for PostgreSQL 13+ or SQLite 3.35+, of the primary. It stays the caller's.
        schema: the schema of the tables; None finds it by the tables' name, once, and then always writes it out.
        prefix: what the tables' names begin with.

    Raises:
        ConfigurationError: not an engine, an in-memory SQLite database, another database, a bad schema or prefix.
    """

    def __init__(self, engine: Engine | AsyncEngine, schema: str | None = None, prefix: str = "tidings_") -> None:
        if not isinstance(engine, Engine | AsyncEngine):
            raise ConfigurationError(
                f"SQLStore wants a SQLAlchemy Engine or AsyncEngine, not {type(engine).__name__}: SQLStore(create_engine(url))"
            )
        self.connections = Connections(engine)
        self.outages = Outages()
        name = self.connections.sync_engine.dialect.name
        if name not in ("postgresql", "sqlite"):
            raise ConfigurationError(f"SQLStore has no statements for {name!r}: use PostgreSQL or SQLite")
        if name == "sqlite" and _in_memory(self.connections.sync_engine.url):
            raise ConfigurationError("an in-memory SQLite database has one connection, and events need several: use a file")
        if name == "sqlite" and schema is not None:
            raise ConfigurationError(f"SQLite has no schemas: leave out schema={schema!r}, and tell sets of tables apart by prefix=")
        self.dialect: Dialect = POSTGRESQL if name == "postgresql" else SQLITE
        self.schema = schema
        self._use(Names(schema, prefix))
        self.publishing_statements = StorePublishing(self)
        #: Whether the schema is known, and need not be looked up before the first statement.
        self.resolved = schema is not None or name == "sqlite"

    def _use(self, names: Names) -> None:
        number = crc32(names.outbox.encode())
        self.names = names
        self.lock_class = number - (1 << 32) if number >= 1 << 31 else number
        postgresql = self.dialect is POSTGRESQL
        self.publishing: PublishStatements = pg_publish.PublishStatements(names) if postgresql else lite_publish.PublishStatements(names)
        self.log = pg_log.Log(names) if postgresql else lite_log.Log(names)
        self.inbox = pg_inbox.Inbox(names) if postgresql else lite_inbox.Inbox(names)
        self.lanes = pg_lanes.Lanes(names) if postgresql else lite_lanes.Lanes(names)
        self.leases = Leases(names, self.dialect)
        self.breakers = Breakers(names, self.dialect)
        self.limits = Limits(names, self.dialect)
        self.sharing = Sharing(names, self.dialect)
        self.registry = Registry(names, self.dialect, self.lock_class)
        self.repair = Repair(names, self.dialect)
        self.history = History(names, self.dialect)
        self.commands = Commands(names, self.dialect)
        self.upkeep = Upkeep(names, self.dialect, self.lock_class)
        self.numbers = WorkerNumbers(names, self.dialect, self.lock_class)
        self.stats = Stats(names, self.dialect)

    def leads_here(self, others: Sequence[Any] = ()) -> Callable[[Any], bool]:
        """Return what tells whether an engine or connection leads to this store's database; `others` are engines that do."""
        own = self.connections.sync_engine
        known = {engine_of(engine) for engine in (self.connections.engine, *others)}
        pools = {engine.pool for engine in known}
        identities = [identity_of(engine) for engine in known]

        def check(bind: Any) -> bool:
            if bind is own:
                return True
            engine = engine_of(bind)
            return engine in known or engine.pool in pools or any(same_identity(identity_of(engine), identity) for identity in identities)

        return check

    def is_here(self, identity: tuple[str, ...]) -> bool:
        """Return whether the identity of a driver's connection is that of this store's database; False only when it surely is not."""
        return same_identity(identity, identity_of(self.connections.sync_engine))

    async def call(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run one function of ours on a pooled autocommit connection."""
        async with self.connections.autocommit() as held:
            return await held.run(function, *arguments, **keywords)

    async def transact(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run one function of ours in a transaction of its own (READ COMMITTED on PostgreSQL, whatever the engine's level)."""
        level = "READ COMMITTED" if self.dialect is POSTGRESQL else None
        async with self.connections.transaction(level) as held:
            result = await held.run(function, *arguments, **keywords)
            await held.commit()
            return result

    async def upgrade(self) -> tuple[int, int]:
        """Create the tables or bring them to this code's version; return the schema versions before and after.

        Safe to run twice, and by two processes at once.

        Raises:
            ConfigurationError: the server is too old or only speaks PostgreSQL's protocol.
        """
        if self.dialect is SQLITE:
            await self._write_ahead_log()
        names, resolved = self.names, self.resolved
        try:
            return await self.transact(self._upgrade)
        except BaseException:
            # Nothing was made, so nothing is known about where the tables will be.
            self._use(names)
            self.resolved = resolved
            raise

    async def _write_ahead_log(self) -> None:
        # The switch does not wait for a lock, whatever busy_timeout says; another process may be switching at this moment.
        deadline = elapsed() + _SWITCH_SECONDS
        while True:
            try:
                return await self.call(_write_ahead_log)
            except Exception as error:
                if kind_of(error) != "conflict" or elapsed() > deadline:
                    raise
            await asyncio.sleep(0.02)

    def _upgrade(self, connection: Connection) -> tuple[int, int]:
        self.resolve(connection, create=True)
        return migrate.upgrade(connection, self.names, self.lock_class)

    async def open(self) -> None:
        """Check that the tables can be used, and mend them if the database was restored or moved.

        Raises:
            SchemaError: the tables are missing or too old.
            ReplicaError: the server is in recovery.
            ConfigurationError: the server is not supported, or tables of that name stand in several schemas.
        """
        await self._look(self._check)
        await self.mend()

    async def mend(self) -> bool:
        """Make the log's rows native again if this is another cluster than the one that wrote them; return whether it was."""
        if not await self._look(migrate.foreign, self.names):
            return False
        return await self.transact(migrate.restored, self.names)

    async def check(self) -> list[str]:
        """Return what is wrong with the tables, in sentences that say what to do."""

        def look(connection: Connection) -> list[str]:
            try:
                self.resolve(connection)
            except (SchemaError, ConfigurationError) as error:
                return [str(error)]
            return migrate.check(connection, self.names)

        return await self._look(look)

    async def _look(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        # Statements that go through SQLAlchemy: what it has prepared lasts behind a pooling proxy as long as the transaction, no longer.
        run = self.call if self.dialect is SQLITE else self.transact
        return await run(function, *arguments, **keywords)

    def close(self) -> None:
        """End what the store itself holds. The engine stays the caller's."""
        self.connections.close()

    def _check(self, connection: Connection) -> None:
        migrate.refuse_unsupported(connection)
        migrate.refuse_replica(connection)
        self.resolve(connection)
        migrate.require_usable(connection, self.names)

    def resolve(self, connection: Connection, *, create: bool = False) -> None:
        """Find the schema of the tables, once. A `search_path` per tenant must not decide where events go.

        Raises:
            SchemaError: there are no such tables.
            ConfigurationError: they stand in several schemas.
        """
        if self.resolved:
            return
        found = migrate.schemas_of(connection, self.names)
        if not found and create:
            found = [connection.exec_driver_sql("select current_schema()").scalar_one()]
            if found == [None]:
                raise ConfigurationError(
                    "no schema of the search_path exists, so there is no place for the tables: SQLStore(engine, schema=...)"
                )
        self.resolve_to(found)

    def resolve_to(self, found: list[Any]) -> None:
        """Use the schema that was found; see `resolve`."""
        if not found:
            raise SchemaError(f"there are no Tidings tables with prefix {self.names.prefix!r} in this database: run 'tidings db upgrade'")
        if len(found) > 1:
            raise ConfigurationError(
                f"there are Tidings tables in several schemas ({', '.join(map(str, found))}): say which, SQLStore(engine, schema={str(found[0])!r})"
            )
        self._use(Names(str(found[0]), self.names.prefix))
        self.resolved = True


def _in_memory(url: URL) -> bool:
    database = url.database or ""
    return database in ("", ":memory:") or database.startswith("file::memory:") or url.query.get("mode") == "memory"


def _write_ahead_log(connection: Connection) -> None:
    connection.commit()
    # Not possible inside a transaction, and a hook of the user's engine may begin one with whatever SQLAlchemy executes.
    cursor = connection.connection.cursor()
    cursor.execute("pragma journal_mode = wal")
    cursor.close()


class StorePublishing:
    """The publishing statements of a store, whose schema may not be known before the first of them runs."""

    def __init__(self, store: SQLStore) -> None:
        self._store = store

    @property
    def outbox(self) -> str:
        """The qualified name of the log's table."""
        return self._store.names.outbox

    def lookup(self) -> Command | None:
        """Return the command whose rows `resolve` wants first; None when the schema is known."""
        return None if self._store.resolved else migrate.schemas_command(self._store.names)

    def resolve(self, rows: Sequence[Sequence[Any]], /) -> None:
        """Use the schema that was found."""
        self._store.resolve_to([row[0] for row in rows])

    def publish(self, events: Sequence[Outgoing], /) -> list[Command]:
        """Return the commands that insert these events."""
        return self._store.publishing.publish(events)

    def script(self, events: Sequence[Outgoing], /) -> str | None:
        """Return the same as statements without parameters, where there is such a script."""
        return self._store.publishing.script(events)

    def cancel_scheduled(self, ids: Sequence[UUID], /) -> Command:
        """Return the command that cancels scheduled events."""
        return self._store.publishing.cancel_scheduled(ids)
