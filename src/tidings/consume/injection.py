"""Working out, once at start, what a handler's parameters stand for. Nothing is reflected on per message."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tidings.consume.execute import Execute, ExecuteSync
from tidings.consume.providers import Provider, Providers
from tidings.envelope import Envelope
from tidings.errors import ConfigurationError, UnresolvedParameter
from tidings.publish.publish import Publish

__all__ = ["Need", "Parameter", "Plan", "is_asynchronous", "label_of", "plan"]


class Need(Enum):
    """What a parameter stands for."""

    ENVELOPE = "envelope"
    ENVELOPES = "envelopes"
    PUBLISH = "publish"
    SESSION = "session"
    ASYNC_SESSION = "async session"
    CONNECTION = "connection"
    ASYNC_CONNECTION = "async connection"
    DRIVER = "driver connection"
    PROVIDED = "provided"
    EXECUTE = "execute"
    EXECUTE_SYNC = "execute, synchronously"


#: Parameters that make a handler run inside the transaction that also holds its inbox row.
_TRANSACTIONAL = {
    Need.PUBLISH, Need.SESSION, Need.ASYNC_SESSION, Need.CONNECTION, Need.ASYNC_CONNECTION, Need.DRIVER, Need.EXECUTE, Need.EXECUTE_SYNC
}  # fmt: skip
_SYNC_ONLY = {Need.SESSION, Need.CONNECTION, Need.EXECUTE_SYNC}
_ASYNC_ONLY = {Need.ASYNC_SESSION, Need.ASYNC_CONNECTION, Need.EXECUTE}
_DRIVERS = {"asyncpg": True, "psycopg": None, "sqlite3": False, "aiosqlite": True}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One injected parameter: `kind` is the class for sessions, `provider` and `inner` serve provided values."""

    name: str
    need: Need
    kind: Any = None
    provider: Provider | None = None
    inner: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """How to call one handler function.

    Attributes:
        asynchronous: a coroutine function; a plain one runs in a thread.
        batch: the most events of one call, when it takes a list; else None.
        transactional: it runs inside the handler transaction.
        session: the class of the session that it asks for, or None.
        alone: it gets a connection whose ordinary use commits (`with connection:` of sqlite3), which must not take others' effects with it.
        simple: no provider is involved, so that a call needs no exit stack.
        returns: what it is annotated to return.
        replies: what it returns is the reply to the event, if that asks for one.
    """

    function: Callable[..., Any]
    events: tuple[type[Any], ...]
    batch: int | None
    asynchronous: bool
    parameters: tuple[Parameter, ...]
    transactional: bool
    session: type[Any] | None
    alone: bool
    simple: bool
    returns: Any = None
    replies: bool = False


def plan(
    function: Callable[..., Any],
    events: tuple[type[Any], ...],
    batch: int | None,
    providers: Providers,
    *,
    async_engine: bool,
    driver: str | None = None,
    yields: bool = False,
) -> Plan:
    """Resolve a handler's parameters; `driver` is what SQLAlchemy calls the engine's driver, if it is known.

    Args:
        yields: the function may be a generator; an asynchronous one counts as a coroutine function.

    Raises:
        UnresolvedParameter: nobody provides a parameter, or its annotation cannot be resolved.
        ConfigurationError: the event parameter is missing or of another type, or a session does not fit the engine or the function.
    """
    label = label_of(function)
    target: Any = _wrapped(function)
    if not inspect.isroutine(target) and not inspect.isclass(target):
        target = type(target).__call__
    if not yields and (inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target)):
        raise ConfigurationError(f"{label} is a generator: calling it runs nothing. Remove the yield")
    signature = inspect.signature(function)
    hints = _hints(target, signature, label, returned=yields)
    asynchronous = is_asynchronous(function)
    names = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if not names or names[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigurationError(f"{label} takes no event: its first parameter has to be the event{'s, a list' if batch else ''}")
    _check_event(label, names[0].name, hints.get(names[0].name), events, batch)
    parameters = tuple(
        found
        for parameter in names[1:]
        if (found := _parameter(label, parameter, hints.get(parameter.name), providers, batch is not None, ())) is not None
    )
    injected = {parameter.name for parameter in parameters}
    for name in (p.name for p in names[1:] if p.name in injected and p.kind is inspect.Parameter.POSITIONAL_ONLY):
        raise ConfigurationError(
            f"{label}: parameter {name!r} is positional-only, and what is injected is given by name: move it behind the '/'"
        )
    needs = list(_needs(parameters))
    for parameter in needs:
        _check_fit(label, parameter, asynchronous=asynchronous, async_engine=async_engine, driver=driver)
    sessions = [parameter for parameter in needs if parameter.need in (Need.SESSION, Need.ASYNC_SESSION)]
    if len({parameter.kind for parameter in sessions}) > 1:
        raise ConfigurationError(
            f"{label} asks for two kinds of session: {', '.join(p.kind.__name__ for p in sessions)}; one transaction has one"
        )
    if not asynchronous:
        for parameter in parameters:
            _refuse_async_provider(label, parameter)
    return Plan(
        function, events, batch, asynchronous, parameters,
        transactional=any(parameter.need in _TRANSACTIONAL for parameter in needs),
        session=sessions[0].kind if sessions else _session_to_execute(needs),
        alone=any(parameter.need is Need.DRIVER and not parameter.kind.__module__.startswith("asyncpg") for parameter in needs),
        simple=not any(parameter.need is Need.PROVIDED and parameter.provider and parameter.provider.factory for parameter in needs),
        returns=hints.get("return"),
    )  # fmt: skip


def _session_to_execute(needs: Sequence[Parameter]) -> type[Any] | None:
    """Return the class of the session that commands are executed in, when the handler has not asked for one of its own."""
    for parameter in needs:
        if parameter.need is Need.EXECUTE or parameter.need is Need.EXECUTE_SYNC:
            from sqlalchemy.ext.asyncio import AsyncSession
            from sqlalchemy.orm import Session

            return AsyncSession if parameter.need is Need.EXECUTE else Session
    return None


def _needs(parameters: Sequence[Parameter]) -> typing.Iterator[Parameter]:
    for parameter in parameters:
        yield parameter
        yield from _needs(parameter.inner)


def _hints(function: Any, signature: inspect.Signature, label: str, *, returned: bool = False) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation may raise anything
        # One annotation at a time, so that the message can name the parameter.
        scope = {**vars(sys.modules.get(getattr(function, "__module__", ""), typing)), **getattr(function, "__globals__", {})}
        hints: dict[str, Any] = {}
        for parameter in signature.parameters.values():
            if isinstance(parameter.annotation, str):
                try:
                    hints[parameter.name] = eval(parameter.annotation, scope)  # noqa: S307 - the program's own annotation
                except Exception as error:
                    raise UnresolvedParameter(
                        f"{label}: the annotation {parameter.annotation!r} of parameter {parameter.name!r} cannot be resolved ({error}); "
                        "import the type at module level, not under TYPE_CHECKING"
                    ) from error
            elif parameter.annotation is not inspect.Parameter.empty:
                hints[parameter.name] = parameter.annotation
        if returned and isinstance(signature.return_annotation, str):
            try:
                hints["return"] = eval(signature.return_annotation, scope)  # noqa: S307 - the program's own annotation
            except Exception as error:
                raise UnresolvedParameter(
                    f"{label}: the annotation {signature.return_annotation!r} of what it returns cannot be resolved ({error}), and says which "
                    "of it are events: import the types at module level, not under TYPE_CHECKING"
                ) from error
        return hints


def _check_event(label: str, name: str, hint: Any, events: tuple[type[Any], ...], batch: int | None) -> None:
    if hint is None or hint is Any:
        return
    if batch is not None:
        origin = typing.get_origin(hint)
        if not isinstance(origin, type) or not issubclass(origin, Sequence):
            raise ConfigurationError(
                f"{label}: with batch={batch} the parameter {name!r} is a list of events, list[{events[0].__name__}], not {hint}"
            )
        (hint,) = typing.get_args(hint) or (Any,)
    accepted = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    missing = [event for event in events if not any(_accepts(kind, event) for kind in accepted)]
    if missing:
        raise ConfigurationError(
            f"{label} subscribes to {', '.join(event.__name__ for event in missing)} but its parameter {name!r} is "
            f"{', '.join(getattr(kind, '__name__', str(kind)) for kind in accepted)}"
        )


_UNIONS = (typing.Union, type(int | str))


def _accepts(kind: Any, event: type[Any]) -> bool:
    # What a protocol asks for is the type checker's business.
    if kind is Any or getattr(kind, "_is_protocol", False):
        return True
    return isinstance(kind, type) and issubclass(event, kind)


def _parameter(
    label: str, parameter: inspect.Parameter, hint: Any, providers: Providers, batch: bool, path: tuple[Any, ...]
) -> Parameter | None:
    name = parameter.name
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    provided = providers.get(hint)
    if provided is not None:
        return Parameter(name, Need.PROVIDED, hint, provided, _inner(label, hint, provided, providers, batch, path))
    if hint is Envelope and not batch:
        return Parameter(name, Need.ENVELOPE)
    if batch and typing.get_origin(hint) in (list, Sequence) and typing.get_args(hint) == (Envelope,):
        return Parameter(name, Need.ENVELOPES)
    if hint is Publish:
        return Parameter(name, Need.PUBLISH)
    if hint is Execute or hint is ExecuteSync:
        return Parameter(name, Need.EXECUTE if hint is Execute else Need.EXECUTE_SYNC)
    need = _database(hint)
    if need is not None:
        return Parameter(name, need, hint)
    if parameter.default is not inspect.Parameter.empty:
        return None
    where = " -> ".join((label, *map(_name, path)))
    what = "it has no annotation" if hint is None else f"nobody provides {_name(hint)}"
    known = "Envelope, Publish, Execute or ExecuteSync, Session or AsyncSession, Connection or AsyncConnection, the driver's connection"
    extra = f", {', '.join(providers.names())}" if providers.names() else ""
    raise UnresolvedParameter(
        f"{where}: parameter {name!r} cannot be resolved: {what}. Known are {known}{extra}; "
        "provide another with service.provide(Type, value_or_factory), or give the parameter a default"
    )


def _inner(label: str, kind: Any, provider: Provider, providers: Providers, batch: bool, path: tuple[Any, ...]) -> tuple[Parameter, ...]:
    if provider.factory is None:
        return ()
    if kind in path:
        raise UnresolvedParameter(f"{label}: providers need one another in a circle: {' -> '.join(map(_name, (*path, kind)))}")
    try:
        signature = inspect.signature(provider.factory)
    except ValueError:  # a built-in type without signature takes nothing from us
        return ()
    factory: Any = _wrapped(provider.factory)
    target = getattr(factory, "__init__") if isinstance(factory, type) else factory  # noqa: B009 - of the class itself
    hints = _hints(inspect.unwrap(target), signature, f"provider of {_name(kind)}")
    return tuple(
        found
        for parameter in signature.parameters.values()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        and (found := _parameter(label, parameter, hints.get(parameter.name), providers, batch, (*path, kind))) is not None
    )


def _database(hint: Any) -> Need | None:
    if not isinstance(hint, type):
        return None
    root = hint.__module__.partition(".")[0]
    if root in _DRIVERS and hint.__name__ in ("Connection", "AsyncConnection"):
        return Need.DRIVER
    # Compared only if SQLAlchemy is loaded: a type of it cannot be annotated otherwise.
    if "sqlalchemy" not in sys.modules:
        return None
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    for base, need in (
        (AsyncSession, Need.ASYNC_SESSION),
        (Session, Need.SESSION),
        (AsyncConnection, Need.ASYNC_CONNECTION),
        (Connection, Need.CONNECTION),
    ):
        if issubclass(hint, base):
            return need
    return None


def _check_fit(label: str, parameter: Parameter, *, asynchronous: bool, async_engine: bool, driver: str | None) -> None:
    need, name = parameter.need, parameter.name
    if need in _ASYNC_ONLY and not asynchronous:
        raise ConfigurationError(f"{label} is a plain def and cannot await: make it async def, or ask for the synchronous kind in {name!r}")
    if need in _ASYNC_ONLY and not async_engine:
        raise ConfigurationError(
            f"{label}: {name!r} needs a store with an AsyncEngine: SQLStore(create_async_engine(...)), or a plain def handler"
        )
    if need in _SYNC_ONLY and asynchronous:
        raise ConfigurationError(
            f"{label} is async and would block its event loop with {name!r}: ask for the asynchronous kind, or use a plain def"
        )
    if need is Need.DRIVER:
        kind = parameter.kind
        root = kind.__module__.partition(".")[0]
        is_async = kind.__name__ == "AsyncConnection" if root == "psycopg" else bool(_DRIVERS[root])
        other = driver is not None and driver != {"sqlite3": "pysqlite"}.get(root, root)
        if other or is_async != async_engine or is_async != asynchronous:
            raise ConfigurationError(
                f"{label}: {name!r} asks for {root}.{kind.__name__}; that needs {'an async def' if is_async else 'a plain def'} handler and a store "
                f"with {'an AsyncEngine' if is_async else 'an Engine'} on that driver"
            )


def _refuse_async_provider(label: str, parameter: Parameter) -> None:
    if parameter.provider is not None and parameter.provider.asynchronous:
        raise ConfigurationError(f"{label} is a plain def and cannot await the provider of {parameter.name!r}: make it async def")
    for inner in parameter.inner:
        _refuse_async_provider(label, inner)


def _wrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)


def is_asynchronous(function: Any) -> bool:
    """Return whether a function, or an object that is called as one, has to be awaited or iterated over asynchronously."""
    function = _wrapped(function)
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)


def label_of(function: Callable[..., Any]) -> str:
    """Return what messages call a handler."""
    function = _wrapped(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"handler {getattr(function, '__module__', '?')}.{name}"
