"""Text for a terminal: whatever comes from a payload, a key or an error is made harmless before it is printed."""

from __future__ import annotations

import json
import re
from datetime import datetime
from secrets import token_hex
from typing import Any

from tidings.clock import duration
from tidings.consume.failures import printable

__all__ = ["as_json", "counted", "duration", "parsed", "pretty", "safe", "when"]

_LONGEST = 10_000_000


def safe(value: object, *, lines: bool = False, limit: int = _LONGEST) -> str:
    """Return a value as text without control characters, lone surrogates and direction marks; None is empty.

    Args:
        lines: keep line ends and tabs.
        limit: after how many characters it is cut.
    """
    if value is None:
        return ""
    text = printable(str(value), limit)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


class _Number(str):
    """A number of a payload, as it is written there: not every one is a `float`'s."""

    __slots__ = ()


def parsed(data: str | bytes) -> Any:
    """Return what JSON says, for `as_json`: its numbers are written there as they are written here.

    Raises:
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, parse_float=_Number, parse_int=_Number)


def pretty(data: bytes) -> str:
    """Return bytes as indented JSON if they are JSON, else as text, what is no UTF-8 escaped."""
    try:
        return safe(_dumped(parsed(data), indent=2, ensure_ascii=False), lines=True)
    except (ValueError, RecursionError):
        return safe(data.decode("utf-8", "backslashreplace"), lines=True)


def when(time: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def counted(number: int, limit: int) -> str:
    """Return a count that was taken up to `limit`: `1,234`, or `100,000+`."""
    return f"{number:,}" if number <= limit else f"{limit:,}+"


def as_json(value: object, *, indent: int | None = 2) -> str:
    """Return values, named tuples and lists of them as JSON in pure ASCII."""
    return _dumped(value, indent=indent, ensure_ascii=True)


def _dumped(value: object, *, indent: int | None, ensure_ascii: bool) -> str:
    # `json` has no way to write a number by its text: numbers are strings with a mark that nobody can guess, and lose their quotes after.
    mark = token_hex(16)
    text = json.dumps(_plain(value, mark), indent=indent, ensure_ascii=ensure_ascii)
    return re.sub(f'"{mark}([^"]*)"', r"\1", text)


def _plain(value: Any, mark: str) -> Any:
    if isinstance(value, _Number):
        return mark + value
    if isinstance(value, dict):
        return {str(name): _plain(item, mark) for name, item in value.items()}
    if (fields := getattr(value, "_asdict", None)) is not None:
        return _plain(fields(), mark)
    if isinstance(value, list | tuple):
        return [_plain(item, mark) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value
