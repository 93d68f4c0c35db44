"""Versions: the chains of upcasters that lead from an older version of an event to a newer one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Upcaster", "chain", "stranded"]


class Upcaster(NamedTuple):
    """One step: the version that it leads to, always a newer one, and the function that takes it."""

    to: int
    function: Callable[[Any], Any]


def chain(steps: Mapping[int, Upcaster], start: int, end: int) -> tuple[Upcaster, ...] | None:
    """Return the steps from one version to another: empty when they are the same, None when there is no way.

    Every version has one step at most and every step leads upward, so there is one way at most, and no cycle.
    """
    taken = []
    while start != end:
        step = steps.get(start)
        if step is None:
            return None
        taken.append(step)
        start = step.to
    return tuple(taken)


def stranded(versions: Iterable[int], steps: Mapping[int, Upcaster]) -> list[int]:
    """Return the versions from which no chain leads to the newest, oldest first."""
    known = sorted(versions)
    return [version for version in known if chain(steps, version, known[-1]) is None]
