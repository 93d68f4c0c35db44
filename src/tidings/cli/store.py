"""Opening the store that a command works on, and turning what can go wrong with it into a sentence."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tidings.cli.command import Failed, Misused, Unreachable
from tidings.cli.urls import engine_for, masked, require_file, url_of
from tidings.errors import ConfigurationError, StoreError, TidingsError

if TYPE_CHECKING:
    from tidings.service import Service
    from tidings.stores import SQLStore

__all__ = ["Target", "failed", "on_service", "on_store", "patiently", "require_subscription", "sentence", "store_options"]

T = TypeVar("T")

#: Seconds between two attempts to reach a database that is away.
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """Which store a command works on: a URL, or the store of a service."""

    url: str | None
    service: str | None
    app_dir: str
    schema: str | None
    prefix: str

    def describe(self) -> str:
        """Return it for messages, without a password."""
        return masked(url_of(self.url)) if self.url is not None else f"the store of {self.service}"


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which store it works on, as one argument `target`."""

    @click.option("--store", "url", metavar="URL", envvar="TIDINGS_STORE", show_envvar=True, help="The database, e.g. sqlite:///shop.db.")
    @click.option("--service", metavar="MODULE:ATTRIBUTE", help="Work on the store of this service instead.")
    @click.option("--app-dir", default=".", metavar="DIR", show_default=True, help="Where to import the service from.")
    @click.option("--schema", metavar="NAME", envvar="TIDINGS_SCHEMA", help="The schema of the tables; found by itself if there is one.")
    @click.option("--prefix", default="tidings_", metavar="TEXT", envvar="TIDINGS_PREFIX", show_default=True, help="The tables' prefix.")
    @functools.wraps(function)
    def command(url: str | None, service: str | None, app_dir: str, schema: str | None, prefix: str, **rest: Any) -> Any:
        context = click.get_current_context()
        given = context.get_parameter_source("url") is click.core.ParameterSource.COMMANDLINE
        if service is not None and given:
            raise click.UsageError("--store and --service are two stores: give one of them")
        return function(target=Target(None if service is not None else url, service, app_dir, schema, prefix), **rest)

    return command


async def require_subscription(store: SQLStore, given: str | None, of: str | None = None) -> None:
    """Refuse a subscription, or a service, that the store does not know: that nothing is found of it says nothing.

    Raises:
        Failed: there is none of this name; says which there are.
    """
    from tidings.stores.sql.queries import Queries

    if given is None and of is None:
        return
    every = await store.call(Queries(store.names, store.dialect).subscriptions)
    found = [item for item in every if of in (None, item.service)]
    if not found and of is not None:
        known = ", ".join(sorted({item.service for item in every})) or "none"
        raise Failed(f"no service {of!r} has a subscription here; there are: {known}")
    if given is not None and not any(given in (item.name, item.label, f"{item.group}/{item.name}") for item in found):
        known = ", ".join(sorted({item.label for item in found})) or "none"
        raise Failed(f"there is no subscription {given!r}; there are: {known}")


def on_store(target: Target, work: Callable[[SQLStore], Awaitable[T]], *, create: bool = False, check: bool = True) -> T:
    """Run some work on a store, to its end; see `on_service`."""
    return on_service(target, lambda store, _: work(store), create=create, check=check)


def on_service(
    target: Target, work: Callable[[SQLStore, Service | None], Awaitable[T]], *, create: bool = False, check: bool = True
) -> T:  # fmt: skip
    """Run some work on a store, and with the service if that says which store, to its end.

    Args:
        create: a SQLite file need not be there yet.
        check: the tables must be there, and of a version that can be used.

    Raises:
        Failed: or the kind of it that has the right exit code.
    """
    if target.url is None and target.service is None:
        raise click.UsageError("say which store: --store URL, the environment variable TIDINGS_STORE, or --service module:attribute")
    try:
        return asyncio.run(_work(target, work, create, check))
    except (click.ClickException, BrokenPipeError):
        raise
    except Exception as error:
        if click.get_current_context().find_root().params.get("debug"):
            raise
        raise _failed(error, target) from error


async def patiently(target: Target, ask: Callable[[], Awaitable[T]], tell: Callable[[str], object]) -> T:
    """Ask a store again and again while its database is away, and tell that once.

    Raises:
        Exception: whatever else is wrong.
    """
    told = False
    while True:
        try:
            return await ask()
        except Exception as error:
            from sqlalchemy.exc import TimeoutError as PoolTimeout

            from tidings.stores.sql.errors import kind_of

            if not isinstance(error, OSError | PoolTimeout) and kind_of(error) not in ("outage", "conflict"):
                raise
            if not told:
                tell(f"{_failed(error, target).format_message()}; trying again")
                told = True
        await asyncio.sleep(_PAUSE)


async def _work(target: Target, work: Callable[[SQLStore, Service | None], Awaitable[T]], create: bool, check: bool) -> T:
    store, service = await _open(target, create)
    try:
        if check:
            await store.call(_look, store)
        return await work(store, service)
    finally:
        store.close()
        engine: Any = store.connections.engine
        if store.connections.asynchronous:
            await engine.dispose()
        else:
            engine.dispose()


async def _open(target: Target, create: bool) -> tuple[SQLStore, Service | None]:
    if target.service is not None:
        from tidings.cli.loading import load_service

        service = await load_service(target.service, target.app_dir)
        return service.store, service
    assert target.url is not None
    url = url_of(target.url)
    if not create:
        require_file(url)
    from tidings.stores import SQLStore

    return SQLStore(engine_for(url), schema=target.schema, prefix=target.prefix), None


def _look(connection: Any, store: SQLStore) -> None:
    from tidings.stores.sql.migrate import require_usable

    store.resolve(connection)
    require_usable(connection, store.names)


def _failed(error: Exception, target: Target) -> Failed:
    secret = url_of(target.url).password if target.url is not None else None
    return failed(error, target.describe(), secret)


def failed(error: Exception, store: str, secret: object = None) -> Failed:
    """Return what ends the command for this error.

    Args:
        store: how the store is called in the message.
        secret: what must not be in it, a password.
    """
    message = sentence(error)
    if isinstance(error, ConfigurationError):
        return Misused(message)
    if isinstance(error, TidingsError):
        # `StoreDown` is the engine's own word for a store that cannot be reached.
        return Unreachable(message) if isinstance(error, StoreError) or type(error).__name__ == "StoreDown" else Failed(message)
    if secret:
        message = message.replace(str(secret), "***")
    if message == "attempt to write a readonly database":
        message += (
            ". SQLite writes beside a file in write-ahead mode even to read it: allow writing in its directory, or give a file that nobody "
            "changes meanwhile as 'sqlite:///file:PATH?mode=ro&immutable=1&uri=true', which status, tail and dead can read"
        )
    return Unreachable(f"{store} cannot be used: {message}")


def sentence(error: BaseException) -> str:
    """Return what a driver's or SQLAlchemy's error says, in one line."""
    if isinstance(error, TidingsError):
        return str(error)
    from tidings.stores.sql.errors import said_by

    return said_by(error)
