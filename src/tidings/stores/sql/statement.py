"""SQL as named values, written once with `$1`, `$2` … and given to each driver in its own parameter style.

The statements that carry an invariant run as they are printed in their dialect's module, on every driver; no layer rewrites them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Command", "Sql"]

_PARAMETER = re.compile(r"\$(\d+)")


class Sql:
    """One statement in three parameter styles.

    Attributes:
        numbered: `$1`, as asyncpg and PostgreSQL itself write it.
        format: `%s`, for psycopg; arguments go through `ordered`.
        qmark: `?`, for sqlite3; arguments go through `ordered`.
    """

    __slots__ = ("_order", "format", "numbered", "qmark")

    def __init__(self, text: str) -> None:
        text = "\n".join(line.strip() for line in text.strip().splitlines())
        self.numbered = text
        self.qmark = _PARAMETER.sub("?", text)
        self.format = _PARAMETER.sub("%s", text.replace("%", "%%"))
        self._order = tuple(int(number) - 1 for number in _PARAMETER.findall(text))

    def ordered(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments in the order in which the placeholders stand, repeated where a placeholder is."""
        return tuple(arguments[index] for index in self._order)

    def __repr__(self) -> str:
        return f"Sql({self.numbered!r})"


class Command(NamedTuple):
    """A statement with its arguments; with `many`, `arguments` is a list of argument rows, run in that order."""

    sql: Sql
    arguments: Sequence[Any]
    many: bool = False
