"""What may stand in a request: parameters as values, read and checked in one place, and described in the OpenAPI document by the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

__all__ = ["BadParameter", "Param", "canonical", "read", "refuse_unknown"]

Kind = Literal["string", "integer", "number", "boolean", "time", "uuid"]

_WORDS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}\Z")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?\Z")

#: Longest text of a parameter.
_LONGEST = 2_000


class BadParameter(Exception):
    """A parameter that cannot be used; says which, its value and what to give instead."""

    def __init__(self, name: str, value: object, remedy: str) -> None:
        super().__init__(f"{name}: {remedy}" if value is None else f"{name}={_short(value)}: {remedy}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    Args:
        low, high: bounds of a number, or of a text's length.
        among: the values that there are.
        pattern: what a text must look like, as a regular expression.
        required: whether it must be given.
        default: what it is when it is not given.
    """

    name: str
    about: str
    kind: Kind = "string"
    low: float | None = None
    high: float | None = None
    among: tuple[str, ...] = ()
    required: bool = False
    default: Any = None
    pattern: str | None = None

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        made: dict[str, Any] = {"type": "string" if self.kind in ("time", "uuid") else self.kind}
        if self.kind == "time":
            made["format"] = "date-time"
        if self.kind == "uuid":
            made["format"] = "uuid"
        if self.kind in ("integer", "number"):
            made |= {name: value for name, value in (("minimum", self.low), ("maximum", self.high)) if value is not None}
        elif self.kind == "string":
            made |= {"minLength": int(self.low or 0), "maxLength": int(self.high or _LONGEST)}
        if self.kind == "string":
            # No database can look for a NUL.
            made["pattern"] = self.pattern or r"^[^\x00]*$"
        if self.among:
            made = {"type": "string", "enum": list(self.among)}
        if self.default is not None:
            made["default"] = self.default
        return made

    def of_text(self, given: str) -> Any:
        """Return the value of what stands in a query or a form.

        Raises:
            BadParameter: it is no such value.
        """
        if self.kind == "integer":
            if not _INTEGER.match(given):
                raise BadParameter(self.name, given, "give a whole number")
            return self.of_json(int(given))
        if self.kind == "number":
            if not _NUMBER.match(given):
                raise BadParameter(self.name, given, "give a number, such as 2.5")
            return self.of_json(float(given))
        if self.kind == "boolean":
            if given.lower() not in _WORDS:
                raise BadParameter(self.name, given, "give true or false")
            return _WORDS[given.lower()]
        return self.of_json(given)

    def of_json(self, given: Any) -> Any:
        """Return the value of what stands in a JSON document.

        Raises:
            BadParameter: it is no such value.
        """
        if self.kind == "boolean":
            if not isinstance(given, bool):
                raise BadParameter(self.name, given, "give true or false")
            return given
        if self.kind in ("integer", "number"):
            whole = isinstance(given, int) or (isinstance(given, float) and given.is_integer())
            if isinstance(given, bool) or not (whole if self.kind == "integer" else isinstance(given, int | float)):
                raise BadParameter(self.name, given, "give a whole number" if self.kind == "integer" else "give a number")
            if (self.low is not None and given < self.low) or (self.high is not None and given > self.high):
                low, high = _digits(self.low), _digits(self.high)
                raise BadParameter(self.name, given, f"give a number from {low} to {high}" if self.high else f"give at least {low}")
            return int(given) if self.kind == "integer" else float(given)
        if not isinstance(given, str):
            raise BadParameter(self.name, given, "give a text")
        return self._of_string(given)

    def _of_string(self, given: str) -> Any:
        if self.among:
            if given not in self.among:
                raise BadParameter(self.name, given, f"give one of {', '.join(self.among)}")
            return given
        if self.kind == "uuid":
            return _uuid(self.name, given)
        if self.kind == "time":
            return _time(self.name, given)
        if "\0" in given:
            raise BadParameter(self.name, given, "leave out the NUL character: no database can look for it")
        try:
            given.encode()
        except UnicodeEncodeError:
            raise BadParameter(self.name, given, "leave out lone surrogates: they are no text") from None
        if not (self.low or 0) <= len(given) <= (self.high or _LONGEST):
            raise BadParameter(self.name, given, f"give {int(self.low or 0)} to {int(self.high or _LONGEST):,} characters")
        if self.pattern is not None and not re.search(self.pattern, given):
            raise BadParameter(self.name, given, f"give {self.about}")
        return given


def read(params: Iterable[Param], given: Mapping[str, Any], *, text: bool, strict: bool = False) -> dict[str, Any]:
    """Return every parameter's value, its default where it is not given.

    Args:
        text: the values are texts of a query or form; else of a JSON document.
        strict: refuse names that there are not. Else an empty text, as a form sends it, is not given.

    Raises:
        BadParameter: a value cannot be used, or is missing.
    """
    values: dict[str, Any] = {}
    for param in params:
        value = given.get(param.name)
        missing = param.name not in given or (text and not strict and not str(value).strip())
        if missing and param.required:
            raise BadParameter(param.name, value, f"give it: {param.about}")
        if missing:
            values[param.name] = param.default
        else:
            values[param.name] = param.of_text(str(value)) if text else param.of_json(value)
    if strict:
        refuse_unknown(given, values)
    return values


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str], silent: Iterable[str] = ()) -> None:
    """Refuse names that there are not: a misspelt filter would choose everything.

    Args:
        silent: names that are known too, and of which an error does not speak.

    Raises:
        BadParameter: a name is unknown.
    """
    names = sorted(known)
    if unknown := sorted(set(given) - {*names, *silent}):
        raise BadParameter(unknown[0], given[unknown[0]], f"there is no such parameter; there are {', '.join(names) or 'none'}")


def canonical(given: str) -> str | None:
    """Return a UUID as the store writes it; None when it is none."""
    try:
        return str(UUID(given))
    except ValueError:
        return None


def _uuid(name: str, given: str) -> str:
    found = canonical(given)
    if found is None:
        raise BadParameter(name, given, "give a UUID, such as 01a1fdd5-3c23-733d-8027-1459f0e17dcd")
    return found


def _time(name: str, given: str) -> datetime:
    try:
        found = datetime.fromisoformat(given)
        # What a page's field gives has no zone; its label says UTC.
        return (found.replace(tzinfo=UTC) if found.tzinfo is None else found).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadParameter(name, given, "give a time such as 2026-11-21T18:30:00Z") from None


def _digits(value: float | None) -> str:
    """Return a bound in full: `9.0072e+15` is no number that could be given."""
    return "" if value is None else str(int(value)) if value == int(value) else f"{value:g}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
