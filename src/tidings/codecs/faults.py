"""Faults: finding the value that an encoder choked on, or wrote as something else, and saying it in a sentence.

Nothing here runs for an event that is in order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from tidings.codecs.shapes import field_names, kind_of, name_of

__all__ = ["DEPTH", "depth_of", "not_finite", "reason_of", "unencodable"]

#: How deep the JSON of an event may be nested. Every decoder that may meet it must stand it: pydantic's stops at 200.
DEPTH = 100

_NO_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[^][{}"]+')
_LOCATION = re.compile(r"(?P<what>.*) - at `(?P<key>key in )?\$(?P<path>.*)`\Z", re.DOTALL)


def not_finite(value: Any, path: str) -> str | None:
    """Return a sentence about the first NaN or infinity in a value, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}, which JSON cannot carry. Use a finite number or None"
    if isinstance(value, Decimal):
        return None if value.is_finite() else f"{path} is {value}, which JSON cannot carry. Use a finite number or None"
    for step, child in _children(value):
        if found := not_finite(child, path + step):
            return found
    return None


def unencodable(encode: Callable[[Any], object], value: Any, path: str, depth: int = 0) -> str:
    """Return the path of the innermost value that `encode` refuses, given that it refuses `value`."""
    for step, child in _children(value) if depth < DEPTH else ():
        try:
            encode(child)
        except RecursionError:
            return path + step
        except Exception:  # noqa: BLE001 - whatever it is, it is in here
            return unencodable(encode, child, path + step, depth + 1)
    return path


def depth_of(text: str) -> int:
    """Return how many JSON arrays and objects are open at the deepest place."""
    deepest = depth = 0
    for character in _NO_BRACKET.sub("", text):
        depth += 1 if character in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def reason_of(error: Exception) -> str:
    """Return what a decoder's or encoder's error says, in one line and without the values of the event.

    The path comes first, as `.order_id: expected ...`, ready to be put behind the name of the class; empty for an error without one.
    """
    if isinstance(error, RecursionError):
        return f": it is nested deeper than {DEPTH} levels, or contains itself"
    errors: Callable[..., Any] | None = getattr(error, "errors", None)
    if errors is not None:
        first = errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        return f"{path}: {first['msg']}"
    if isinstance(error, UnicodeError) or "surrogates not allowed" in str(error):
        return ": text is not valid UTF-8, or holds half of a surrogate pair"
    location = _LOCATION.match(str(error))
    if isinstance(error.__cause__, Exception) and callable(getattr(error.__cause__, "errors", None)):
        # A pydantic model inside another class: msgspec knows the way to it, pydantic the rest.
        return (location["path"] if location else "") + reason_of(error.__cause__)
    if location:
        return f"{location['path']}: {'key: ' if location['key'] else ''}{location['what']}"
    text = " ".join(str(error).split())
    return f": {text}" if text else f": {type(error).__name__}"


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, child in value.items():
            step = f"[{key!r}]" if isinstance(key, (str, int)) else f"[{name_of(type(key))}]"
            yield step, key
            yield step, child
        return
    kind = kind_of(type(value))
    if kind is not None:
        for name in field_names(type(value), kind):
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, child in enumerate(value):
            yield f"[{index}]", child
