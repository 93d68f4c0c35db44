"""Text for a terminal: whatever comes from a payload, a key or an error is made harmless before it is printed."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from tidings.clock import duration
from tidings.consume.failures import printable

__all__ = ["as_json", "counted", "duration", "pretty", "safe", "when"]

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


def pretty(data: bytes) -> str:
    """Return bytes as indented JSON if they are JSON, else as text, what is no UTF-8 escaped."""
    try:
        return safe(json.dumps(json.loads(data), indent=2, ensure_ascii=False), lines=True)
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
    return json.dumps(_plain(value), indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if (fields := getattr(value, "_asdict", None)) is not None:
        return _plain(fields())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value
