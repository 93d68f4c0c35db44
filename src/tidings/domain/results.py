"""Outcomes as values, for those who prefer them to exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Err", "Ok", "Result"]

T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)
T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Ok(Generic[T_co]):
    """A command has succeeded, with this value."""

    value: T_co

    @property
    def is_ok(self) -> bool:
        """Whether it is an `Ok`."""
        return True


@dataclass(frozen=True, slots=True)
class Err(Generic[E_co]):
    """A command has not succeeded, for this reason. Its transaction is rolled back, and nothing is published."""

    error: E_co

    @property
    def is_ok(self) -> bool:
        """Whether it is an `Ok`."""
        return False


#: What a command handler may return: `-> Result[Order, str]`.
Result: TypeAlias = Ok[T] | Err[E]
