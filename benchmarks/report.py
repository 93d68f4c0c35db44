"""Tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.measuring import Series

__all__ = ["Goal", "Row", "Section", "as_json", "table"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on our figure, or on its ratio to the reference."""

    of: Literal["ours", "ratio"]
    sign: Literal[">=", "<="]
    bound: float

    def met(self, row: Row) -> bool:
        """Return whether the row's figure keeps the bound."""
        value = row.ours.median if self.of == "ours" else row.ratio
        if value is None:
            return False
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def text(self) -> str:
        """Return the bound as it is printed."""
        bound = f"{self.bound:,.0f}" if self.bound >= 100 else f"{self.bound:g}"
        return f"{self.sign} {'ratio ' if self.of == 'ratio' else ''}{bound}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: our figure, the raw reference that ran beside it, and what was promised."""

    what: str
    ours: Series
    reference: Series | None = None
    goals: tuple[Goal, ...] = ()
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours divided by the reference."""
        return None if self.reference is None else self.ours.relative(self.reference)

    @property
    def met(self) -> bool | None:
        """Whether every goal is met; None without goals."""
        return all(goal.met(self) for goal in self.goals) if self.goals else None


@dataclass(frozen=True, slots=True)
class Section:
    """One table.

    Attributes:
        unit: of every figure in it.
        reference: what the reference is; empty where there is none.
        remarks: sentences below it.
    """

    title: str
    unit: str
    reference: str
    rows: Sequence[Row]
    remarks: Sequence[str] = ()


def table(section: Section) -> str:
    """Return a section as text."""
    head = ("what", "reference", "ours", "ratio", "goal", "", "spread of ours", "")
    lines = [
        (
            row.what,
            "" if row.reference is None else _figure(row.reference.median),
            _figure(row.ours.median),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            ", ".join(goal.text() for goal in row.goals),
            {True: "met", False: "MISSED", None: ""}[row.met],
            f"{_figure(row.ours.low)} .. {_figure(row.ours.high)}" if len(row.ours.values) > 1 else "",
            row.note,
        )
        for row in section.rows
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    right = {1, 2, 3}
    text = [f"{section.title} [{section.unit}{f'; reference: {section.reference}' if section.reference else ''}]"]
    for line in (head, *lines):
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  " + "  ".join(cells).rstrip())
    text += [f"  {remark}" for remark in section.remarks]
    return "\n".join(text)


def as_json(section: Section) -> dict[str, Any]:
    """Return a section as plain data, every round's figure included."""
    return {
        "title": section.title,
        "unit": section.unit,
        "reference": section.reference,
        "remarks": list(section.remarks),
        "rows": [
            {
                "what": row.what,
                "ours": {"median": row.ours.median, "rounds": list(row.ours.values)},
                "reference": None if row.reference is None else {"median": row.reference.median, "rounds": list(row.reference.values)},
                "ratio": row.ratio,
                "goals": [goal.text() for goal in row.goals],
                "met": row.met,
                "note": row.note,
            }
            for row in section.rows
        ],
    }


def _figure(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"
