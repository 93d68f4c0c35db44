"""Diagrams as SVG of our own: the conversation of an event, and who publishes and subscribes to what. No script, no style: classes only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from markupsafe import Markup

from tidings.consume.failures import printable
from tidings.dashboard.desk import Topic
from tidings.stores.sql.views import LogRow

__all__ = ["conversation", "graph"]

_ROW, _INDENT, _NODE = 46, 30, 330
#: How many levels are indented; deeper ones stand under the last.
_DEEPEST = 24


def conversation(found: Sequence[tuple[LogRow, str | None]], current: str, link: Callable[[LogRow], str]) -> Markup:
    """Return the tree of events by causation, in the order in which they were committed.

    Args:
        found: events with the id of what caused each.
        current: the id of the event that the page is about.
        link: where an event's page is.
    """
    ids = {row.id for row, _ in found}
    children: dict[str, list[LogRow]] = {}
    for row, cause in found:
        children.setdefault(cause if cause in ids and cause != row.id else "", []).append(row)
    placed: list[tuple[LogRow, int, int]] = []
    seen: set[str] = set()
    # A cycle, which nothing of ours makes, has no root: it begins with its first event.
    for root in (*children.get("", []), *(row for row, _ in found)):
        # Depth first without recursion: a chain may be as long as the list.
        stack = [(root, 0, -1)]
        while stack:
            row, depth, parent = stack.pop()
            if row.id in seen:
                continue
            seen.add(row.id)
            number = len(placed)
            placed.append((row, depth, parent))
            stack += [(child, depth + 1, number) for child in reversed(children.get(row.id, []))]
    start = min((row.time for row, _ in found if row.time is not None), default=None)
    parts = []
    for number, (row, depth, parent) in enumerate(placed):
        x, y = min(depth, _DEEPEST) * _INDENT, number * _ROW
        if parent >= 0:
            above = min(placed[parent][1], _DEEPEST) * _INDENT + 14
            parts.append(Markup('<path class="edge" d="M{} {} V{} H{}"/>').format(above, parent * _ROW + 37, y + 20, x))
        after = "" if start is None or row.time is None else f"+{_span((row.time - start).total_seconds())}"
        name = row.name if row.version is None else f"{row.name} v{row.version}"
        parts.append(
            Markup(
                '<a href="{}"><g class="node{}"><rect x="{}" y="{}" width="{}" height="36" rx="5"/><text x="{}" y="{}">{}</text>'
                '<text class="small" x="{}" y="{}">{}</text></g></a>'
            ).format(
                link(row), " current" if row.id == current else "", x + 1, y + 2, _NODE, x + 11, y + 17, _short(name, 40), x + 11, y + 31,
                _short(f"{after}  {row.source}  {row.key or ''}", 52),
            )
        )  # fmt: skip
    width = min(max((depth for _, depth, _ in placed), default=0), _DEEPEST) * _INDENT + _NODE + 2
    return _svg(width, len(placed) * _ROW + 2, f"Conversation of {len(placed)} events by causation", parts)


def graph(topics: Iterable[Topic]) -> Markup:
    """Return who publishes which type, and who subscribes to it, in three columns."""
    shown = list(topics)
    publishers = _places(sorted({name for topic in shown for name in topic.publishers}))
    types = _places([topic.name for topic in shown])
    subscribers = _places(sorted({name for topic in shown for name in topic.subscribers}))
    height = max(len(publishers), len(types), len(subscribers), 1) * 34 + 34
    parts = [
        Markup('<text class="small" x="{}" y="14">{}</text>').format(x, title)
        for x, title in ((4, "published by"), (304, "event"), (664, "subscribed by"))
    ]
    for topic in shown:
        parts += [_edge(200, publishers[name], 300, types[topic.name]) for name in topic.publishers]
        parts += [_edge(560, types[topic.name], 660, subscribers[name]) for name in topic.subscribers]
    for column, x, width, kind in ((publishers, 0, 200, "publisher"), (types, 300, 260, "type"), (subscribers, 660, 240, "subscriber")):
        for name, y in column.items():
            parts.append(
                Markup(
                    '<g class="node {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="26" rx="5"/><text x="{}" y="{}">{}</text></g>'
                ).format(kind, printable(name, 300), x + 1, y - 13, width - 2, x + 10, y + 4, _short(name, width // 8))
            )
    return _svg(902, height, "Who publishes and subscribes to which events", parts)


def _places(names: Sequence[str]) -> Mapping[str, int]:
    return {name: 40 + index * 34 for index, name in enumerate(names)}


def _edge(x1: int, y1: int, x2: int, y2: int) -> Markup:
    middle = (x1 + x2) // 2
    return Markup('<path class="edge" d="M{} {} C{} {} {} {} {} {}"/>').format(x1, y1, middle, y1, middle, y2, x2, y2)


def _svg(width: int, height: int, label: str, parts: Iterable[Markup]) -> Markup:
    return Markup('<svg class="diagram" role="group" aria-label="{2}" width="{0}" height="{1}" viewBox="0 0 {0} {1}">{3}</svg>').format(
        width, height, label, Markup("").join(parts)
    )


def _short(text: str, limit: int) -> str:
    return printable(text.strip(), limit)


def _span(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
