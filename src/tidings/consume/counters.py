"""Counts of this process, since it started and since the last flush into `stats`."""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters:
    """Counts by (subject, measure). The subject is a subscription as `group/name`, a task, or empty for the service."""

    def __init__(self) -> None:
        self.total: Counter[tuple[str, str]] = Counter()
        self._fresh: Counter[tuple[str, str]] = Counter()

    def add(self, subject: str, measure: str, amount: int = 1) -> None:
        """Count."""
        self.total[subject, measure] += amount
        self._fresh[subject, measure] += amount

    def of(self, measure: str) -> int:
        """Return the count of a measure over all subjects."""
        return sum(value for (_, name), value in self.total.items() if name == measure)

    def drain(self) -> dict[tuple[str, str], int]:
        """Return what was counted since the last drain, and start anew."""
        fresh, self._fresh = self._fresh, Counter()
        return dict(fresh)

    def restore(self, counts: dict[tuple[str, str], int]) -> None:
        """Put back what could not be written down."""
        self._fresh.update(counts)
