"""Differences of some percent: the ways take turns within one run, a fraction of a second each, beside a yardstick.

Two runs of the same thing differ by more than that, in processor time, too: on a virtual machine the processor itself is up to twice as slow
from one tenth of a second to the next, as its other users have it. So a piece of work that is always the same is done every ten milliseconds
in between, and the processor time of each turn is divided by what that took meanwhile. Each round of turns gives a ratio of its own: the median
says what the difference is, and the quartiles how sure that is.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from time import perf_counter, process_time

from benchmarks.measuring import Series
from benchmarks.report import Goal, Row
from benchmarks.workload import WrongResult

__all__ = ["Turns"]

PATIENCE = 120.0


@dataclass(slots=True)
class Turn:
    """What was done, and what it took, of one way in one round."""

    events: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    yardsticks: int = 0
    yardstick_cpu: float = 0.0

    @property
    def yardstick(self) -> float:
        """Seconds of processor time that the yardstick took."""
        return self.yardstick_cpu / self.yardsticks


@dataclass(slots=True)
class Turns:
    """What each way took, turn by turn.

    Args:
        ways: what switches each of them on, and everything else off.
        portion: how much is done in a turn.

    Attributes:
        rounds: of each round what each way took.
    """

    ways: Mapping[str, Callable[[], None]]
    portion: int
    rounds: list[dict[str, Turn]] = field(default_factory=list)

    async def round(self, done: Callable[[], int], most: float = inf) -> bool:
        """Let each way have two turns, there and back, so that what grows or shrinks meanwhile hits all of them alike; each round begins with
        another one.

        Args:
            done: returns how many events are done.
            most: how many there are to be done; return False, and count nothing of this round, when they are.
        """
        first = len(self.rounds) % len(self.ways)
        order = [*self.ways][first:] + [*self.ways][:first]
        turns = {name: Turn() for name in self.ways}
        for name in (*order, *reversed(order)):
            self.ways[name]()
            # What has begun the other way ends first.
            before = await _reach(done, min(done() + self.portion // 8, most))
            turn = turns[name]
            started, used = perf_counter(), process_time()
            measuring = asyncio.ensure_future(_measure(turn))
            try:
                after = await _reach(done, min(before + self.portion, most))
                turn.cpu += process_time() - used
            finally:
                measuring.cancel()
            with suppress(asyncio.CancelledError):
                await measuring
            if after >= most:
                return False
            turn.events += after - before
            turn.seconds += perf_counter() - started
        self.rounds.append(turns)
        return True

    def rows(self, reference: str, goals: Callable[[str], tuple[Goal, ...]]) -> list[Row]:
        """Return a row for each way but the reference; their figures are processor time."""
        if not self.rounds:
            return []
        usual = statistics.median(turn.yardstick for turns in self.rounds for turn in turns.values())

        def cpu(name: str) -> Series:
            found = (turns[name] for turns in self.rounds)
            return Series(tuple((turn.cpu - turn.yardstick_cpu) / turn.events * usual / turn.yardstick * 1e6 for turn in found))

        def rate(name: str) -> Series:
            return Series(tuple(turns[name].events / turns[name].seconds for turns in self.rounds))

        rows: list[Row] = []
        for name in self.ways:
            if name != reference:
                ours, raw = cpu(name), cpu(reference)
                ratios = [one / other for one, other in zip(ours.values, raw.values, strict=True)]
                low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
                note = f"quartiles {low:.3f} .. {high:.3f} of {len(ratios)}; rate {rate(name).relative(rate(reference)):.2f}"
                rows.append(Row(name, ours, raw, goals(name), note))
        return rows


async def _measure(turn: Turn) -> None:
    while True:
        used = process_time()
        _yardstick()
        turn.yardstick_cpu += process_time() - used
        turn.yardsticks += 1
        await asyncio.sleep(0.01)


def _yardstick() -> None:
    """Do what an interpreter mostly does: calls, small objects, texts, dictionaries."""
    kept: dict[str, tuple[int, str]] = {}
    for number in range(400):
        name = f"name-{number % 50}"
        kept[name] = (number, name.upper())
        kept.get(name[:-1])


async def _reach(done: Callable[[], int], least: float) -> int:
    since = perf_counter()
    while (found := done()) < least:
        await asyncio.sleep(0.002)
        if perf_counter() - since > PATIENCE:
            raise WrongResult(f"after {PATIENCE:.0f} s only {found:,} of {least:,.0f} events")
    return found
