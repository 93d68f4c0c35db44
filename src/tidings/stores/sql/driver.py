"""Running a statement of ours on a SQLAlchemy connection: the only place that knows how a driver wants it.

On asyncpg a statement goes to the driver itself. SQLAlchemy's own path costs more than the round trip: it prepares, wraps the cursor and
the result, and compiles nothing for us. Errors come out as SQLAlchemy would raise them on either path. What the user has said about prepared
statements, for a pooling proxy, holds for ours too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.util import await_only

from tidings.errors import SchemaError
from tidings.publish.failures import explained
from tidings.stores.sql.statement import Command

__all__ = [
    "begin",
    "commit",
    "is_autocommit",
    "is_autocommit_level",
    "is_stranded",
    "leave",
    "run",
    "send_with_commit",
    "sends_with_commit",
]


def run(connection: Connection, command: Command) -> list[tuple[Any, ...]]:
    """Run a command in the connection's transaction and return its rows.

    Raises:
        SchemaError: a table or column of ours is missing.
        sqlalchemy.exc.DBAPIError: whatever else the driver says, as from `Connection.execute`.
    """
    try:
        if connection.dialect.driver == "asyncpg":
            adapter: Any = connection.connection.dbapi_connection
            if _is_direct(adapter):
                return _run_on_asyncpg(connection, adapter, command)
        return _run_on_sqlalchemy(connection, command)
    except DBAPIError as error:
        reason = explained(error)
        if isinstance(reason, SchemaError):
            raise reason from error
        if isinstance(error, OperationalError) and connection.dialect.name == "sqlite" and "locked" in str(error.orig):
            # A deferred transaction that has read cannot wait for the write lock: SQLite gives up at once, whatever busy_timeout says.
            error.add_note("let SQLite transactions begin with BEGIN IMMEDIATE, and wait: tidings.stores.sqlite.configure(engine)")
        raise


def begin(connection: Connection, first: str | None = None) -> str | None:
    """Begin a transaction of ours, on the server too: where that would come with the first statement, it would come by the slow path.

    Args:
        first: a statement that goes to the server in one message with BEGIN, where there is such a message; that saves a round trip.

    Returns:
        What the server says about that statement: `INSERT 0 1`; None when it was not sent.

    Raises:
        SchemaError: a table or column of ours is missing.
        sqlalchemy.exc.DBAPIError: whatever else the driver says; there is no transaction then.
    """
    connection.begin()
    if connection.dialect.driver != "asyncpg":
        return None
    adapter: Any = connection.connection.dbapi_connection
    driver = adapter._connection
    if adapter.autocommit or driver.is_in_transaction():
        return None
    beginning = None if first is None or not _is_the_drivers(driver) else _Beginning(driver, first)
    try:
        adapter._connection = beginning or driver
        await_only(adapter._start_transaction())
    except BaseException as error:  # noqa: BLE001 - all of them are raised again, as what SQLAlchemy makes of them
        adapter._connection = driver
        try:
            connection._handle_dbapi_exception(error, "BEGIN", (), None, None)
        except DBAPIError as translated:
            reason = explained(translated)
            if isinstance(reason, SchemaError):
                raise reason from translated
            raise
    finally:
        adapter._connection = driver
    return None if beginning is None else beginning.begun()


def sends_with_commit(connection: Connection) -> bool:
    """Return whether `send_with_commit` can be used: only asyncpg can, through SQLAlchemy's adapter, which commits by a statement like any other."""
    if connection.dialect.driver != "asyncpg":
        return False
    adapter: Any = connection.connection.dbapi_connection
    if adapter.autocommit or adapter._transaction is None or not _is_the_drivers(adapter._connection):
        return False
    return bool(adapter._connection.is_in_transaction())


def _is_the_drivers(connection: Any) -> bool:
    """Return whether this is asyncpg's own connection, and not what stands for one of an `asyncpg.Pool`."""
    return not hasattr(connection, "_con")


def is_stranded(connection: Connection) -> bool:
    """Return whether the server is in a transaction that SQLAlchemy has forgotten; asks nobody.

    It forgets one that it could not roll back, because another task still used the connection. What comes next would be part of that transaction,
    and never be committed, while its locks are held.
    """
    if connection.dialect.driver != "asyncpg" or connection.closed or connection.invalidated:
        return False
    adapter: Any = connection.connection.dbapi_connection
    if adapter is None:
        # A task that is cancelled while the connection is given up leaves it without one, and nobody marks it as invalidated.
        return False
    return adapter._transaction is None and not adapter._connection.is_closed() and bool(adapter._connection.is_in_transaction())


def leave(connection: Connection) -> None:
    """Roll back what is open on a connection that is about to go back to its pool; give the connection up where that cannot be done."""
    try:
        connection.rollback()
    finally:
        if is_stranded(connection):
            connection.invalidate()


def send_with_commit(connection: Connection, script: str) -> None:
    """Let statements go to the server in one message with the COMMIT of the connection's transaction.

    It saves a round trip, and whoever waits for a lock that they take waits for less. An error of theirs comes out of the commit, which has not
    happened then.
    """
    adapter: Any = connection.connection.dbapi_connection
    adapter._transaction._connection = _Committing(adapter._connection, script)


def commit(connection: Connection) -> None:
    """Commit. SQLite keeps a transaction open whose COMMIT failed (a deferred constraint), and SQLAlchemy would give it to the next user."""
    try:
        connection.commit()
    except BaseException:
        if connection.dialect.name == "sqlite" and not connection.closed and not connection.invalidated:
            connection.connection.dbapi_connection.rollback()  # type: ignore[union-attr]
        raise


def is_autocommit_level(bind: Connection | Engine) -> bool:
    """Return whether SQLAlchemy's isolation level of an engine or connection is AUTOCOMMIT; asks nobody."""
    # What create_engine(isolation_level=...) was given has no public name.
    level = bind.get_execution_options().get("isolation_level") or getattr(bind.dialect, "_on_connect_isolation_level", None)
    return level is not None and level.upper() == "AUTOCOMMIT"


def is_autocommit(connection: Connection) -> bool:
    """Return whether statements on this connection commit by themselves: by SQLAlchemy's isolation level or by the driver's own setting."""
    if is_autocommit_level(connection):
        return True
    name = connection.dialect.driver
    if name in ("pysqlite", "aiosqlite"):
        sqlite: Any = connection.connection.driver_connection
        begins_nothing = sqlite.isolation_level is None or getattr(sqlite, "autocommit", None) is True
        # Such a driver begins no transaction; what runs now was begun by a hook of the engine or not at all.
        return begins_nothing and not sqlite.in_transaction
    if name.startswith("psycopg"):
        return bool(getattr(connection.connection.driver_connection, "autocommit", False))
    return False


def _is_direct(adapter: Any) -> bool:
    # SQLAlchemy's asyncpg adapter sends BEGIN with its first statement: until then the driver would commit each statement by itself.
    return bool(adapter._connection.is_in_transaction() or adapter.autocommit)


async def _roll_back(driver: Any) -> None:
    """End a transaction of the server that nobody else knows of; with the connection, if somebody still uses that."""
    if driver.is_closed() or not driver.is_in_transaction():
        return
    try:
        await driver.execute("ROLLBACK;")
    except Exception:  # noqa: BLE001 - whatever it is, the transaction must not outlive this
        driver.terminate()


class _Beginning:
    """Stands for asyncpg's connection while SQLAlchemy's adapter begins a transaction: sends a statement together with BEGIN."""

    __slots__ = ("_answer", "_driver", "_first", "_transaction")

    def __init__(self, driver: Any, first: str) -> None:
        object.__setattr__(self, "_driver", driver)
        object.__setattr__(self, "_first", first)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._driver, name, value)

    def transaction(self, **options: Any) -> Any:
        transaction = self._driver.transaction(**options)
        transaction._connection = self
        object.__setattr__(self, "_transaction", transaction)
        return transaction

    async def execute(self, query: str) -> Any:
        driver = self._driver
        try:
            answer = await driver.execute(f"{query}{self._first}")
        except Exception:
            # The server is in a transaction that neither asyncpg nor the adapter knows of.
            driver._top_xact = None
            await _roll_back(driver)
            raise
        object.__setattr__(self, "_answer", answer)
        return answer

    def begun(self) -> str:
        """Return what the server has said, and step aside: from now on the transaction has the driver's connection."""
        self._transaction._connection = self._driver
        return str(self._answer)


class _Committing:
    """Stands for asyncpg's connection in one of its transactions: sends a script together with COMMIT."""

    __slots__ = ("_driver", "_script")

    def __init__(self, driver: Any, script: str) -> None:
        object.__setattr__(self, "_driver", driver)
        object.__setattr__(self, "_script", script)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._driver, name, value)

    async def execute(self, query: str) -> Any:
        driver = self._driver
        if query != "COMMIT;":
            return await driver.execute(query)
        try:
            return await driver.execute(f"{self._script};{query}")
        except Exception as error:
            # What failed was not COMMIT, which would have ended the transaction, and nobody believes that there is one to be rolled back.
            await _roll_back(driver)
            reason = explained(error)
            if isinstance(reason, SchemaError):
                raise reason from error
            raise


def _names_statements(adapter: Any) -> bool:
    """Return whether statements may be prepared under a name and kept.

    Who switches off a cache of prepared statements, or names them, does it for a pooling proxy: behind one, a name is gone with the
    transaction, or is another client's. See https://magicstack.github.io/asyncpg/current/faq.html and
    https://docs.sqlalchemy.org/en/20/dialects/postgresql.html#prepared-statement-name-with-pgbouncer.
    """
    return (
        adapter._connection._stmt_cache_enabled
        and adapter._prepared_statement_cache is not None
        and adapter._prepared_statement_name_func is type(adapter)._default_name_func
    )


def _run_on_asyncpg(connection: Connection, adapter: Any, command: Command) -> list[tuple[Any, ...]]:
    sql, arguments, many = command
    driver = adapter._connection
    try:
        if many:
            await_only(driver.executemany(sql.numbered, arguments))
            return []
        work = driver.fetch(sql.numbered, *arguments) if _names_statements(adapter) else _unnamed(driver, sql.numbered, arguments)
        rows: list[tuple[Any, ...]] = await_only(work)
        return rows
    except BaseException as error:  # noqa: BLE001 - all of them are raised again, as what SQLAlchemy makes of them
        # A cancelled task leaves the driver in the middle of a statement: SQLAlchemy gives such a connection up, too.
        connection._handle_dbapi_exception(_translated(adapter, error), sql.numbered, tuple(arguments), None, None)


#: What a connection has run without a name; asyncpg knows the types in it.
_met: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


async def _unnamed(driver: Any, sql: str, arguments: Sequence[Any]) -> Any:
    met = _met.setdefault(driver, set())
    if sql in met or driver.is_in_transaction():
        return await _fetch_unnamed(driver, sql, arguments)
    # asyncpg asks the server about types that it has not met, and switches a setting of the session off and on for it: behind a proxy
    # these would meet three servers, and ours a fourth.
    async with driver.transaction():
        rows = await _fetch_unnamed(driver, sql, arguments)
    met.add(sql)
    return rows


async def _fetch_unnamed(driver: Any, sql: str, arguments: Sequence[Any]) -> Any:
    statement = await driver.prepare(sql, name="")
    return await statement.fetch(*arguments)


def _translated(adapter: Any, error: BaseException) -> BaseException:
    if isinstance(error, Exception):
        try:
            adapter._handle_exception(error)
        except Exception as translated:  # noqa: BLE001 - this is how the adapter gives its translation
            return translated
    return error


def _run_on_sqlalchemy(connection: Connection, command: Command) -> list[tuple[Any, ...]]:
    sql, arguments, many = command
    dialect = connection.dialect
    if dialect.name == "sqlite":
        text = sql.qmark
    elif dialect.driver == "asyncpg":
        result = connection.exec_driver_sql(sql.numbered, [tuple(row) for row in arguments] if many else tuple(arguments))
        return [tuple(row) for row in result] if result.returns_rows else []
    else:
        text = sql.format
    parameters = [sql.ordered(row) for row in arguments] if many else sql.ordered(arguments)
    result = connection.exec_driver_sql(text, parameters)
    return [tuple(row) for row in result] if result.returns_rows else []
