"""Templates and what they may call. Every value is escaped, and every character of it can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tidings import __version__
from tidings.consume.counters import BOUNDS
from tidings.dashboard.desk import LATELY
from tidings.dashboard.payload import visible
from tidings.observability.status import many

__all__ = ["STATIC", "environment", "query"]

#: Milliseconds above which nothing more is known of a duration.
_LONGEST = BOUNDS[-1] * 1000

STATIC = Path(__file__).with_name("static")


@cache
def environment() -> Environment:
    """Return the environment of all templates, made once."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "time": _time,
        "ago": _ago,
        "ms": _ms,
        "number": _number,
        "counted": _counted,
        "span": _span,
        "rate": _rate,
        "exact": _exact,
    }
    made.globals |= {"query": query, "many": many, "version": __version__}
    return made


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """Return a query string of what is given, with changes; what is None, empty or False is left out."""
    merged = {**values, **changes}
    kept = {name: _text(value) for name, value in merged.items() if value not in (None, "", False)}
    return f"?{urlencode(kept, errors='replace')}" if kept else "?"


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "true" if value is True else str(value)


def _visible(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return visible(value)


def _exact(value: object) -> Markup:
    """Return what a field of a form holds: sent back as it came, also what cannot be seen of it."""
    return escape("" if value is None else value)


def _time(value: datetime | str | None) -> Markup | str:
    if isinstance(value, str):  # of a delivery's history, which is JSON
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return str(value)
    if not isinstance(value, datetime):
        return ""
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}">{:%Y-%m-%d %H:%M:%S} UTC</time>').format(at.isoformat(), at)


def _ago(value: datetime | None, now: datetime) -> Markup | str:
    if value is None:
        return ""
    at = value.astimezone(UTC)
    seconds = (now - at).total_seconds()
    words = f"{_span(seconds)} ago" if seconds >= 0 else f"in {_span(-seconds)}"
    return Markup('<time datetime="{}" data-keep title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(at.isoformat(), at, words)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size * 2:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= _LONGEST:
        return f"≥ {_LONGEST / 1000:.0f} s"
    if value >= 10_000:
        return f"{value / 1000:,.0f} s"
    return f"{value:.1f} ms" if value < 10 else f"{value:,.0f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _rate(value: int) -> str:
    """Return what was counted within `LATELY` as a rate, in the unit that gives it a digit before the point."""
    for unit, size in (("s", 1.0), ("min", 60.0)):
        if (rate := value * size / LATELY.total_seconds()) >= 1:
            return f"{rate:,.1f}/{unit}" if rate < 10 else f"{rate:,.0f}/{unit}"
    return f"{value * 3600.0 / LATELY.total_seconds():,.0f}/h" if value else "-"


def _counted(value: int, limit: int) -> str:
    return f"{value:,}" if value <= limit else f"{limit:,}+"
