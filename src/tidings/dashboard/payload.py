"""Payloads as people read them: exact numbers, redacted by field and role, every character visible. Nothing of one is ever HTML here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tidings.consume.failures import printable
from tidings.errors import ConfigurationError

__all__ = ["SHOWN", "Redact", "Redaction", "Shown", "hide", "visible"]

#: How many characters of a payload a page shows; the rest is for the download.
SHOWN = 20_000

#: What stands where a value was.
REDACTED = "[redacted]"

#: What stands where the words of an error were.
HIDDEN = "[hidden, because fields of this event are]"

# A place in a traceback, also in that of an exception group.
_PLACE = re.compile(r'[\s|]*File "[^"]*", line \d+(?:, in [\w.<>]+)?')

_LONGEST = 100_000_000


@dataclass(frozen=True, slots=True)
class Redact:
    """Hide a field of payloads and headers from everyone who has none of some roles.

    Args:
        field: its name, wherever it stands (`password`), or its path from the top (`card.number`); `*` stands for anything within a name.
            Capitals make no difference.
        unless: roles that see it all the same; nobody does unless given.
        event: only in events of this name; `*` in it stands for anything.
    """

    field: str
    unless: frozenset[str] | set[str] = frozenset()
    event: str = "*"

    def __post_init__(self) -> None:
        if not isinstance(self.field, str) or not self.field.strip():
            raise ConfigurationError(f"Redact(field={self.field!r}): give the name of a field, such as 'password' or 'card.number'")
        if not isinstance(self.unless, frozenset | set) or not all(isinstance(role, str) for role in self.unless):
            raise ConfigurationError(f"Redact(unless={self.unless!r}): give a set of roles, such as {{'auditor'}}")
        if not isinstance(self.event, str) or not self.event:
            raise ConfigurationError(f"Redact(event={self.event!r}): give the name of an event, or '*'")


class Redaction:
    """The rules that hold for one user."""

    def __init__(self, rules: Iterable[str | Redact], roles: Iterable[str]) -> None:
        mine = set(roles)
        given = [Redact(rule) if isinstance(rule, str) else rule for rule in rules]
        self._rules = [rule for rule in given if not mine & set(rule.unless)]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def of(self, event: str | None) -> Callable[[tuple[str, ...]], bool] | None:
        """Return what tells whether the value at a path is hidden in events of a name; None when nothing is."""
        patterns = [tuple(rule.field.casefold().split(".")) for rule in self._rules if fnmatchcase(event or "", rule.event)]
        if not patterns:
            return None

        def hidden(path: tuple[str, ...]) -> bool:
            path = tuple(part.casefold() for part in path)
            return any(
                (len(pattern) == 1 and fnmatchcase(path[-1], pattern[0]))
                or (len(pattern) == len(path) and all(map(fnmatchcase, path, pattern)))
                for pattern in patterns
            )

        return hidden


class _Number(str):
    """A number of a payload, as it was written: no float and no limit of digits comes between."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A payload as text.

    Attributes:
        text: indented JSON, or what it is with every unreadable byte escaped.
        json: whether it is JSON.
        redacted: whether something was hidden.
    """

    text: str
    json: bool
    redacted: bool = False

    @classmethod
    def of(cls, raw: str | bytes, event: str | None, redaction: Redaction) -> Shown:
        """Return a payload as this user may see it. What cannot be understood is hidden as a whole if anything of it had to be."""
        hidden = redaction.of(event)
        text = raw if isinstance(raw, str) else raw.decode("utf-8", "backslashreplace")
        try:
            value = json.loads(text, parse_float=_Number, parse_int=_Number)
            found: list[tuple[str, ...]] = []
            return cls(_dump(value, 0, (), hidden, found), True, bool(found))
        except (ValueError, RecursionError):
            if hidden is not None:
                return cls(f"[not JSON, {len(raw):,} long: hidden, because fields of this event are]", False, True)
            return cls(visible(text), False)


def hide(text: str | None, *payloads: Shown) -> str | None:
    """Return the text of an error without what it may quote, where any of these payloads hides something; of a traceback its places are left.

    An error quotes values in many spellings, and pieces of them (`repr`, JSON, `input_value='corr...aple'`), so its words are not searched.
    """
    if text is None or not any(payload.redacted for payload in payloads):
        return text
    return "\n".join((HIDDEN, *(line for line in text.splitlines() if _PLACE.fullmatch(line))))


def _dump(
    value: Any, level: int, path: tuple[str, ...], hidden: Callable[[tuple[str, ...]], bool] | None, found: list[tuple[str, ...]]
) -> str:
    pad, end = "  " * (level + 1), "  " * level
    if isinstance(value, dict):
        lines = []
        for name, item in value.items():
            here = (*path, name)
            if hidden is not None and hidden(here):
                found.append(here)
                shown = f'"{REDACTED}"'
            else:
                shown = _dump(item, level + 1, here, hidden, found)
            lines.append(f"{pad}{_text(name)}: {shown}")
        return "{\n" + ",\n".join(lines) + f"\n{end}}}" if lines else "{}"
    if isinstance(value, list):
        items = [f"{pad}{_dump(item, level + 1, path, hidden, found)}" for item in value]
        return "[\n" + ",\n".join(items) + f"\n{end}]" if items else "[]"
    if isinstance(value, _Number):
        return str(value)
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    """Return a JSON string in which every character can be seen: what cannot is escaped, as JSON escapes it."""
    quoted = json.dumps(value, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)


def visible(value: object) -> str:
    """Return a value as text in which control characters, lone surrogates and direction marks are written out."""
    return printable(str(value), _LONGEST)
