"""What validators say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tidings.errors import ConfigurationError

__all__ = ["ValidationError", "validation_errors"]


@dataclass(frozen=True, slots=True)
class ValidationError:
    """One thing that is wrong with a command; a value, which `ValidationFailed` carries.

    Attributes:
        context: the field that it is about, or another word for the place.
        message: a sentence for whoever sent the command.
    """

    context: str
    message: str

    def __str__(self) -> str:
        return f"{self.context}: {self.message}"


def validation_errors(result: Any, label: str) -> list[ValidationError]:
    """Return the errors that a validator returned or yielded: none, one, or several.

    Raises:
        ConfigurationError: it returned something else.
    """
    if result is None:
        return []
    several: Any = [result] if isinstance(result, ValidationError) else result
    items: list[Any] = list(several) if isinstance(several, Iterable) and not isinstance(several, (str, bytes)) else [several]
    for each in items:
        if each is not None and not isinstance(each, ValidationError):
            raise ConfigurationError(
                f"{label} returned {each!r:.200}: a validator returns ValidationErrors, several in an iterable, or None"
            )
    return [each for each in items if each is not None]
