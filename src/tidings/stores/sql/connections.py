"""One face for a synchronous and an asynchronous engine.

Everything that the store does to the database is a function of a synchronous `sqlalchemy.Connection`. With an `AsyncEngine` it runs on the
event loop through SQLAlchemy's greenlets; with an `Engine` it runs in a thread. Nothing is connected before the first use.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tidings.stores.sql.driver import begin, is_stranded, leave

__all__ = ["IMMEDIATE", "Connections", "Held", "Line", "in_thread"]

P = ParamSpec("P")
R = TypeVar("R")

#: In the `info` of a SQLite connection that `tidings.stores.sqlite.configure` has seen: its transactions are immediate.
IMMEDIATE = "tidings.immediate"


async def in_thread(executor: Executor, function: Callable[..., R], *arguments: Any) -> R:
    """Run a function in a thread and wait until it has really ended, even when cancelled: a connection must not be used by two."""
    context = contextvars.copy_context()
    return await _to_its_end(asyncio.get_running_loop().run_in_executor(executor, lambda: context.run(function, *arguments)))


async def _to_its_end(future: asyncio.Future[R]) -> R:
    """Wait for a future until it is done, even when cancelled; the cancellation comes out then."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # what it raised too late interests nobody, and is not reported as forgotten
        raise


class Held:
    """A connection for as long as its block lasts.

    Attributes:
        sync: the connection as the store's functions take it.
        asynchronous: the same as an `AsyncConnection`, if the engine is one.
        first: what the server has said about the statement that went with BEGIN; None when none did.
    """

    def __init__(self, connection: AsyncConnection | Connection, executor: Executor, *, autocommit: bool) -> None:
        if isinstance(connection, AsyncConnection):
            self.asynchronous: AsyncConnection | None = connection
            assert connection.sync_connection is not None
            self.sync: Connection = connection.sync_connection
        else:
            self.asynchronous = None
            self.sync = connection
        self._executor = executor
        # A hook of the user's engine may begin a transaction on SQLite all the same, and it would freeze what we read.
        self._commit_each = autocommit and self.sync.dialect.name == "sqlite"
        self.first: str | None = None
        # aiosqlite goes on with a statement whose task was cancelled, and nobody resets its cursor: the one write lock would stay taken until
        # the garbage collector finds it, although the connection is closed.
        self._to_its_end = self.sync.dialect.name == "sqlite"

    async def run(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run a function of the connection."""
        if self.asynchronous is not None:
            work = self.asynchronous.run_sync(lambda connection: self._call(connection, function, arguments, keywords))
            return await (_to_its_end(asyncio.ensure_future(work)) if self._to_its_end else work)
        return await in_thread(self._executor, self._call, self.sync, function, arguments, keywords)

    def _call(self, connection: Connection, function: Callable[..., R], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> R:
        if not self._commit_each:
            return function(connection, *arguments, **keywords)
        try:
            result = function(connection, *arguments, **keywords)
            connection.commit()
            return result
        except BaseException:
            connection.rollback()
            raise

    async def begin(self, first: str | None = None) -> None:
        """Begin the transaction, with a first statement if both can go together."""
        self.first = await self.run(_begin, first)

    async def commit(self) -> None:
        """Commit."""
        await self.run(Connection.commit)

    async def leave(self) -> None:
        """Roll back what is open before the connection goes back to its pool. The error that led here is the one that counts."""
        with suppress(DBAPIError, OSError):
            await self.run(leave)

    async def rollback(self) -> None:
        """Roll back, if there is anything to roll back."""
        await self.run(Connection.rollback)


class Line:
    """One autocommit connection that several tasks share, one statement at a time; opened at first use, and anew after an error."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._turn = asyncio.Lock()
        self._open: AsyncExitStack | None = None
        self._held: Held | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether somebody uses it."""
        return self._turn.locked()

    async def run(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run a function of the connection.

        Raises:
            RuntimeError: the line is closed; nobody would give back what is opened now.
        """
        async with self._turn:
            if self._closed:
                raise RuntimeError("this line is closed: nothing more is to be asked on it")
            if self._held is None:
                self._open = AsyncExitStack()
                self._held = await self._open.enter_async_context(self._connections.autocommit())
            try:
                return await self._held.run(function, *arguments, **keywords)
            except BaseException:
                await self._close()
                raise

    async def close(self) -> None:
        """Give the connection back, for good."""
        self._closed = True
        async with self._turn:
            await self._close()

    async def _close(self) -> None:
        opened, self._open, self._held = self._open, None, None
        if opened is not None:
            await opened.aclose()


class Connections:
    """Hands out connections of an engine.

    Attributes:
        threads: where synchronous work runs; made at first use, so that nothing exists before a fork.
    """

    def __init__(self, engine: Engine | AsyncEngine, threads: int = 32) -> None:
        self.engine = engine
        self.sync_engine: Engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        self.asynchronous = isinstance(engine, AsyncEngine)
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None

    @property
    def executor(self) -> ThreadPoolExecutor:
        """The thread pool of this engine."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="tidings")
        return self._executor

    def close(self) -> None:
        """End the threads. The engine is the user's and stays open."""
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[Held]:
        """A connection on which every statement is its own transaction, whatever the isolation level of the engine."""
        async with self._connect("AUTOCOMMIT") as connection:
            yield Held(connection, self.executor, autocommit=True)

    @asynccontextmanager
    async def transaction(self, isolation_level: str | None = None, first: str | None = None) -> AsyncIterator[Held]:
        """A connection with a transaction; it is rolled back when the block is left without `commit`.

        Args:
            first: a statement that goes with BEGIN, where that saves a round trip; `Held.first` is what became of it.
        """
        async with self._connect(isolation_level) as connection:
            held = Held(connection, self.executor, autocommit=False)
            try:
                await held.begin(first)
                yield held
            except (Exception, asyncio.CancelledError):
                # Left to the pool, a rollback that fails would be forgotten, and the next user be in this transaction.
                await held.leave()
                raise
            if is_stranded(held.sync):
                await held.leave()

    @asynccontextmanager
    async def _connect(self, isolation_level: str | None) -> AsyncIterator[AsyncConnection | Connection]:
        if isinstance(self.engine, AsyncEngine):
            async with self.engine.connect() as connection:
                if connection.sync_connection is not None and is_stranded(connection.sync_connection):
                    # As somebody has left it.
                    await connection.invalidate()
                if isolation_level is not None:
                    await connection.execution_options(isolation_level=isolation_level)
                yield connection
            return
        engine = self.engine
        made: list[Connection] = []

        def connect() -> None:
            made.append(engine.connect())
            if isolation_level is not None:
                made[0].execution_options(isolation_level=isolation_level)

        try:
            await in_thread(self.executor, connect)
            yield made[0]
        finally:
            # A task that was cancelled while it waited for the connection has got it all the same.
            for plain in made:
                await in_thread(self.executor, plain.close)


def _begin(connection: Connection, first: str | None) -> str | None:
    if connection.in_transaction():
        return None
    answer = begin(connection, first)
    if connection.dialect.name != "sqlite":
        return answer
    # A deferred transaction that reads first cannot wait for the write lock later: SQLite gives up at once. What a hook of the user's
    # engine has begun may be one.
    driver: Any = connection.connection.driver_connection
    if driver.in_transaction and not connection.info.get(IMMEDIATE):
        connection.exec_driver_sql("rollback")
    if not driver.in_transaction:
        connection.exec_driver_sql("begin immediate")
    return None
