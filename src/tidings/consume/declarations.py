"""What `Subscriptions` keeps of the domain side, as it was declared: nothing is looked at before the service is put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["DeclaredCommand", "DeclaredConverter", "DeclaredHandler", "DeclaredValidator", "DomainSide", "OnDuplicate", "Phase"]

Phase = Literal["before_save", "before_commit", "after_commit"]
OnDuplicate = Literal["warn", "error", "allow"]


@dataclass(frozen=True, slots=True)
class DeclaredHandler:
    """A handler of domain events; a durable one has become a subscription and is not here."""

    event: type[Any]
    function: Callable[..., Any]
    phase: Phase


@dataclass(frozen=True, slots=True)
class DeclaredConverter:
    """A function from a domain event to integration events."""

    event: type[Any]
    function: Callable[..., Any]
    on_duplicate: OnDuplicate


@dataclass(frozen=True, slots=True)
class DeclaredCommand:
    """The handler of a command."""

    command: type[Any]
    function: Callable[..., Any]
    commit_on_err: bool


@dataclass(frozen=True, slots=True)
class DeclaredValidator:
    """A validator of a command."""

    command: type[Any]
    function: Callable[..., Any]


@dataclass(slots=True)
class DomainSide:
    """What one `Subscriptions` has declared.

    Attributes:
        durable: domain events whose after-commit handlers get them through the log, and the name that each was given, if any.
    """

    handlers: list[DeclaredHandler] = field(default_factory=list)
    converters: list[DeclaredConverter] = field(default_factory=list)
    commands: list[DeclaredCommand] = field(default_factory=list)
    validators: list[DeclaredValidator] = field(default_factory=list)
    durable: list[tuple[type[Any], str | None]] = field(default_factory=list)
