"""Runs of several contenders, interleaved, so that what the machine does meanwhile hits all of them alike."""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

__all__ = ["Run", "Series", "interleave", "percentile", "progress", "throughput"]

#: One run of one contender: returns its figure.
Run = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Series:
    """The figures of one contender, one a round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)

    def relative(self, reference: Series) -> float:
        """Return the median of the ratios to the reference, round by round: a slow minute of the machine cancels out."""
        return statistics.median(ours / raw for ours, raw in zip(self.values, reference.values, strict=True))


async def interleave(title: str, contenders: Mapping[str, Run], rounds: int) -> dict[str, Series]:
    """Run every contender once a round, each round beginning with another one; return their figures by name."""
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            progress(f"{title}: round {number + 1}/{rounds}, {name}")
            gc.collect()
            figures[name].append(await contenders[name]())
    progress("")
    return {name: Series(tuple(values)) for name, values in figures.items()}


async def throughput(transaction: Callable[[int], Awaitable[None]], tasks: int, seconds: float) -> tuple[int, float]:
    """Call `transaction(task number)` from that many tasks at once for that long; return how many were done, and in how many seconds."""
    done = 0
    started = perf_counter()
    deadline = started + seconds

    async def work(number: int) -> None:
        nonlocal done
        while perf_counter() < deadline:
            await transaction(number)
            done += 1

    async with asyncio.TaskGroup() as group:
        for number in range(tasks):
            group.create_task(work(number))
    return done, perf_counter() - started


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def progress(sentence: str) -> None:
    """Show what runs, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{sentence}", end="", file=sys.stderr, flush=True)
