"""The stage of a test: a database, and a service that is set up on it for a while and put back as it was."""

from __future__ import annotations

import asyncio
import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from tidings.consume.providers import Providers
from tidings.errors import ConfigurationError
from tidings.relay.routing import Routing
from tidings.runtime import Runtime
from tidings.stores.sql.queries import Queries
from tidings.stores.sql.store import SQLStore
from tidings.testing.eyes import Eyes
from tidings.testing.throwaway import make_async_engine, make_engine, make_file
from tidings.transports.local import Local

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["Stage"]

#: What a service has to have changed while it is under test.
_CHANGED = ("store", "publisher", "roles", "routing", "_providers")


class Stage:
    """Sets a service up on a database.

    Attributes:
        store: the store under test.
        runtime: what has registered the subscriptions; its own tasks have ended.
        eyes: for looking into the database.
    """

    def __init__(
        self,
        service: Service,
        store: SQLStore | None,
        tables: MetaData | Sequence[MetaData],
        provide: Mapping[Any, Any],
        directory: Path | None,
    ) -> None:
        self._service = service
        self._given = store
        self._tables = [tables] if isinstance(tables, MetaData) else list(tables)
        self._provide = provide
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._engines: list[Engine | AsyncEngine] = []
        self._before: dict[str, Any] = {}
        self._binds: list[tuple[Any, Any]] = []
        self._runtime: Runtime | None = None
        self._path: Path | None = None

    async def set(self) -> None:
        """Make the database and set the service up on it.

        Raises:
            ConfigurationError: the service is running or under test already, or its parts do not fit together.
            StoreError: the tables cannot be used.
        """
        service = self._service
        if service._runtime is not None:
            raise ConfigurationError(f"service {service.name!r} is running: a harness runs it itself, so do not start it before")
        if "_stage" in vars(service):
            raise ConfigurationError(f"service {service.name!r} is in another harness already")
        vars(service)["_stage"] = self
        try:
            self._take(service)
            if self._given is not None:
                await self.store.upgrade()
                await self._refuse_company()
            for metadata in self._tables:
                await self.store.transact(_create, metadata)
            # Without roles nothing is read: everything is checked and registered, and no more.
            await service.start(roles=())
            self._runtime = service._runtime
        except BaseException:
            await self.clear()
            raise
        await service.stop()

    async def _refuse_company(self) -> None:
        # A harness takes the readers' leases from whoever holds them, which after a test that was killed is nobody.
        queries = Queries(self.store.names, self.store.dialect)
        for worker in await self.store.call(queries.workers):
            if worker.service == self._service.name and worker.alive:
                raise ConfigurationError(
                    f"service {worker.service!r} runs on this database, in process {worker.pid} of {worker.host}: stop it, or give the "
                    "test a database of its own. If it was killed, wait for half a minute"
                )

    async def clear(self) -> None:
        """Put the service back as it was, and remove what was made."""
        if vars(self._service).get("_stage") is not self:
            return
        await self._service.stop()
        for made in ("sessions", "sync_sessions"):
            vars(self).pop(made, None)
        for name, value in self._before.items():
            setattr(self._service, name, value)
        for maker, bind in self._binds:
            maker.configure(bind=bind)
        self._binds.clear()
        if self._before:
            self._service.domain.move(self._service.publisher, self._service._providers, self._service.store)
        del vars(self._service)["_stage"]
        for engine in self._engines:
            if isinstance(engine, AsyncEngine):
                await engine.dispose()
            else:
                engine.dispose()
        self._engines.clear()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def callbacks(self) -> None:
        """Wait for the `on_dead` callbacks under way."""
        while calls := self.runtime._calls:
            await asyncio.wait(calls)

    @property
    def runtime(self) -> Runtime:
        """The runtime that has registered the subscriptions."""
        assert self._runtime is not None
        return self._runtime

    @property
    def store(self) -> SQLStore:
        """The store under test; before and after, the service's own."""
        return self._service.store

    @property
    def eyes(self) -> Eyes:
        """What looks into the database."""
        return Eyes(self.store.connections.engine if self._path is None else self.sync_engine)

    @property
    def async_engine(self) -> AsyncEngine:
        """An asynchronous engine on the database.

        Raises:
            ConfigurationError: the store that was given has a synchronous one.
        """
        engine: AsyncEngine | None = self._find(AsyncEngine)
        if engine is None and self._path is not None:
            engine = make_async_engine(self._path)
            self._engines.append(engine)
        if engine is None:
            raise ConfigurationError("the store under test has a synchronous engine: use sync_sessionmaker")
        return engine

    @property
    def sync_engine(self) -> Engine:
        """A synchronous engine on the database.

        Raises:
            ConfigurationError: the store that was given has an asynchronous one.
        """
        engine: Engine | None = self._find(Engine)
        if engine is None and self._path is not None:
            engine = make_engine(self._path)
            self._engines.append(engine)
        if engine is None:
            raise ConfigurationError("the store under test has an asynchronous engine: use sessionmaker")
        return engine

    @cached_property
    def sessions(self) -> async_sessionmaker[AsyncSession]:
        """Makes asynchronous sessions on the database, whose domain events are seen."""
        made = async_sessionmaker(self.async_engine, expire_on_commit=False)
        self._service.domain.attach(made, listed=False)
        return made

    @cached_property
    def sync_sessions(self) -> sessionmaker[Session]:
        """Makes synchronous sessions on the database, whose domain events are seen."""
        made = sessionmaker(self.sync_engine, expire_on_commit=False)
        if not any(handler.plan.asynchronous for handler in self._service.domain.compile().handlers):
            self._service.domain.attach(made, listed=False)
        return made

    def _find(self, kind: type[Any]) -> Any:
        own = self.store.connections.engine
        return next((engine for engine in (own, *self._engines) if isinstance(engine, kind)), None)

    def _take(self, service: Service) -> None:
        self._before = {name: getattr(service, name) for name in _CHANGED}
        store = self._given or self._throw_away(asynchronous=service.store.connections.asynchronous)
        publisher = copy.copy(service.publisher)
        publisher.statements = store.publishing_statements
        publisher.same_database, publisher.same_identity = store.leads_here(), store.is_here
        providers = Providers()
        providers._providers.update((kind, known) for kind, known in service._providers._providers.items() if kind not in self._provide)
        for kind, provider in self._provide.items():
            providers.add(kind, provider)
        service.store, service.publisher, service._providers, service.roles = store, publisher, providers, frozenset()
        service.domain.move(publisher, providers, store)
        self._bind(service)
        # No broker: what is published goes to the subscribers through the log.
        service.routing = Routing(Local(), {}, service.contracts, service.routing.types, service.routing.environment)

    def _bind(self, service: Service) -> None:
        """Let the session factories that are attached to the service lead to the database under test."""
        for factory in service.domain.factories:
            maker = getattr(factory, "session_factory", factory)
            wanted = AsyncEngine if isinstance(maker, async_sessionmaker) else Engine
            if self._path is not None or self._find(wanted) is not None:
                self._binds.append((maker, maker.kw.get("bind")))
                maker.configure(bind=self.async_engine if wanted is AsyncEngine else self.sync_engine)

    def _throw_away(self, *, asynchronous: bool) -> SQLStore:
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="tidings-")
        name = f"{self._service.name}.sqlite"
        self._path = Path(self._temporary.name if self._temporary else self._directory or ".") / name
        make_file(self._path)
        # Connections wait for their turn at the only write lock; none should have to wait for a connection.
        engine = make_async_engine(self._path, max_overflow=-1) if asynchronous else make_engine(self._path)
        self._engines.append(engine)
        return SQLStore(engine)


def _create(connection: Connection, metadata: MetaData) -> None:
    metadata.create_all(connection)
