"""What handlers may ask for besides the event: values and factories, by type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tidings.errors import ConfigurationError

__all__ = ["Provider", "Providers"]


@dataclass(frozen=True, slots=True)
class Provider:
    """A value, or a function that makes one for each event.

    Attributes:
        value: the value, when there is no factory.
        factory: called with parameters injected by type; may return a context manager, which is left after the event.
        asynchronous: the factory is a coroutine function, or makes an asynchronous context manager.
    """

    value: Any = None
    factory: Callable[..., Any] | None = None
    asynchronous: bool = False


class Providers:
    """Providers by type. Looked up when the service starts, never per message."""

    def __init__(self) -> None:
        self._providers: dict[Any, Provider] = {}

    def add(self, kind: Any, provider: Any) -> None:
        """Provide a type: with an instance of it, or with a factory (function, coroutine function, context manager function).

        Raises:
            ConfigurationError: the type is provided already, or the provider is neither.
        """
        if kind in self._providers:
            raise ConfigurationError(f"{_name(kind)} is provided twice: keep one of them")
        origin = kind if isinstance(kind, type) else getattr(kind, "__origin__", None)
        protocol = getattr(origin, "_is_protocol", False) and not callable(provider)
        if isinstance(origin, type) and not isinstance(provider, type) and (protocol or _is_instance(provider, origin)):
            self._providers[kind] = Provider(value=provider)
        elif callable(provider):
            made_by = inspect.unwrap(provider)
            asynchronous = (
                inspect.iscoroutinefunction(made_by)
                or inspect.isasyncgenfunction(made_by)
                or (isinstance(provider, type) and hasattr(provider, "__aenter__"))
            )
            bare = inspect.isgeneratorfunction(provider) or inspect.isasyncgenfunction(provider)
            if bare:
                raise ConfigurationError(
                    f"the provider of {_name(kind)} is a bare generator: decorate it with @contextmanager or @asynccontextmanager"
                )
            self._providers[kind] = Provider(factory=provider, asynchronous=asynchronous)
        else:
            raise ConfigurationError(f"the provider of {_name(kind)} is {provider!r}: give an instance of it, or a function that makes one")

    def get(self, kind: Any) -> Provider | None:
        """Return the provider of a type, or None."""
        try:
            return self._providers.get(kind)
        except TypeError:  # an annotation that cannot be hashed is provided by nobody
            return None

    def names(self) -> list[str]:
        """Return the names of the provided types, for messages."""
        return sorted(_name(kind) for kind in self._providers)


def entered(value: Any) -> bool:
    """Return whether a factory's result is a context manager that has to be entered."""
    return isinstance(value, AbstractContextManager | AbstractAsyncContextManager)


def _is_instance(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that is not runtime-checkable
        return False


def _name(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or str(kind)
