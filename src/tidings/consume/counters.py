"""Counts of this process, since it started and since the last flush into `stats`."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import time
from typing import Any

__all__ = ["BOUNDS", "Counters", "Histogram", "bound_names", "percentile"]

#: Upper bounds of histograms, in seconds; what is above the last one is `inf`.
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


def bound_names() -> tuple[str, ...]:
    """Return what the bounds are called in measures: `took:5` counts what took at most 5 ms and more than the bound before."""
    return (*(f"{round(bound * 1000)}" for bound in BOUNDS), "inf")


def percentile(counts: Mapping[str, int], share: float) -> float | None:
    """Return the bound, in seconds, that this share of what was counted did not exceed; None for nothing counted.

    Args:
        counts: by the names of bounds, as `took:` and `lag:` have them.
        share: above 0 to 1.
    """
    total = sum(counts.values())
    if not total:
        return None
    reached = 0
    for name, bound in zip(bound_names(), (*BOUNDS, float("inf")), strict=True):
        reached += counts.get(name, 0)
        if reached >= share * total:
            return bound
    return float("inf")


class Histogram:
    """How many durations there were up to each bound; `total` is their sum in seconds.

    The hot path is one search in a tuple of 15 and one increment of a list: whoever wants to know reads them, and is not told. One thread at a
    time may observe.
    """

    __slots__ = ("_drained", "counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self._drained = [0] * (len(BOUNDS) + 1)

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, so many times."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.total += seconds * times

    def observe_each(self, durations: Sequence[float]) -> None:
        """Count durations, in seconds. Those of a portion are mostly in one bucket: then two of them are looked up."""
        if len(durations) < 2:
            if durations:
                self.observe(durations[0])
            return
        first = bisect_left(BOUNDS, min(durations))
        if first == bisect_left(BOUNDS, max(durations)):
            self.counts[first] += len(durations)
        else:
            counts = self.counts
            for seconds in durations:
                counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += sum(durations)

    def since_one(self, moment: Any, now: float) -> None:
        """Do what `since` does for one time."""
        with suppress(*_UNREADABLE):
            self.observe(_age(moment, now))

    def since(self, times: Sequence[Any], now: float | None = None) -> None:
        """Count how long ago each of these times was.

        Those of a portion are mostly in one bucket: then they cost two comparisons each, and the sum takes their middle for all of them.

        Args:
            times: as the log, or a broker, gave them: aware datetimes, or ISO 8601; what cannot be read is left out.
            now: the time on the clock that gave them, as a Unix timestamp; without one this computer's.
        """
        if not times:
            return
        if now is None:
            now = time()
        try:
            # Texts are not compared: those of several time zones have another order than their times.
            if len(times) > 1 and type(times[0]) is datetime:
                youngest, oldest = _age(max(times), now), _age(min(times), now)
                if bisect_left(BOUNDS, youngest) == bisect_left(BOUNDS, oldest):
                    self.observe((youngest + oldest) / 2, len(times))
                    return
            ages = [_age(each, now) for each in times]
        except _UNREADABLE:
            ages = _readable(times, now)
        self.observe_each(ages)

    def drain(self) -> list[int]:
        """Return what was counted since the last drain."""
        counts = list(self.counts)
        fresh = [count - before for count, before in zip(counts, self._drained, strict=True)]
        self._drained = counts
        return fresh


class Counters:
    """Counts by (subject, measure). The subject is a subscription as `group/name`, a relay, a group, or empty for the service.

    Histograms are counted by measures too: `took:20` of `billing/charge` is how often its handlers took 10 to 20 ms.
    """

    def __init__(self) -> None:
        self.total: Counter[tuple[str, str]] = Counter()
        self.histograms: dict[tuple[str, str], Histogram] = {}
        #: How much of the total has been drained, and what was drained and came back.
        self._drained: dict[tuple[str, str], int] = {}
        self._back: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._names = bound_names()
        self._published = self._scheduled = 0

    def add(self, subject: str, measure: str, amount: int = 1) -> None:
        """Count. Only the thread of the service's event loop may."""
        self.total[subject, measure] += amount

    def committed(self, published: int, scheduled: int) -> None:
        """Count events of a transaction that has committed; any thread may."""
        with self._lock:
            self._published += published
            self._scheduled += scheduled

    def histogram(self, subject: str, measure: str) -> Histogram:
        """Return the histogram of a subject: `took`, how long its handlers took, or `lag`, how long ago events were published."""
        found = self.histograms.get((subject, measure))
        if found is None:
            found = self.histograms[subject, measure] = Histogram()
        return found

    def totals(self) -> dict[tuple[str, str], int]:
        """Return all counts as they are now; any thread may ask, and changes nothing by it."""
        with self._lock:
            found = dict(self.total)
            for measure, count in (("published", self._published), ("scheduled", self._scheduled)):
                if count:
                    found["", measure] = found.get(("", measure), 0) + count
        return found

    def of(self, measure: str) -> int:
        """Return the count of a measure over all subjects."""
        return sum(value for (_, name), value in self.totals().items() if name == measure)

    def drain(self) -> dict[tuple[str, str], int]:
        """Return what was counted since the last drain, and start anew."""
        self._take_committed()
        fresh, self._back = self._back, Counter()
        for what, count in self.total.items():
            fresh[what] += count - self._drained.get(what, 0)
        self._drained = dict(self.total)
        for (subject, measure), histogram in self.histograms.items():
            for name, count in zip(self._names, histogram.drain(), strict=True):
                if count:
                    fresh[subject, f"{measure}:{name}"] += count
        return {what: count for what, count in fresh.items() if count}

    def restore(self, counts: dict[tuple[str, str], int]) -> None:
        """Put back what could not be written down."""
        self._back.update(counts)

    def _take_committed(self) -> None:
        with self._lock:
            published, self._published = self._published, 0
            scheduled, self._scheduled = self._scheduled, 0
            for measure, count in (("published", published), ("scheduled", scheduled)):
                if count:
                    self.add("", measure, count)


#: What `_age` raises. A broker brings what it likes: a message is not lost for its time.
_UNREADABLE = (TypeError, ValueError, OverflowError)


def _readable(times: Sequence[Any], now: float) -> list[float]:
    ages: list[float] = []
    for each in times:
        with suppress(*_UNREADABLE):
            ages.append(_age(each, now))
    return ages


def _age(moment: Any, now: float) -> float:
    if type(moment) is not datetime:
        if isinstance(moment, str):
            moment = datetime.fromisoformat(moment)
        if not isinstance(moment, datetime):
            raise TypeError(f"{moment!r} is no time")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    age: float = now - moment.timestamp()
    return max(0.0, age)
