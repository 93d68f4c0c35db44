"""How many events are handled at once, and how many in a time: values, and the pure decisions on what is granted.

A rate is a token bucket in its shortest form, one time: until when what was taken is paid for (the "theoretical arrival time" of the generic
cell rate algorithm). Permits are shared out among the processes that want some, as fairly as their number allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, floor, isfinite
from typing import NamedTuple

from tidings.errors import ConfigurationError
from tidings.stores.base import Claim

__all__ = ["Limit", "Rate", "Taken", "portion", "share", "take"]

#: Processes take tokens for so many seconds at a time, so that a fast rate does not cost a statement for each event.
PORTION = 0.1


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many events in a time; in any time t, `burst + events * t / per`.

    Attributes:
        events: how many, 1 to 1,000,000.
        per: in which time, 0.001 seconds to 31 days, as seconds or timedelta.
        burst: how many may be handled at once after a quiet time, 1 to 1,000,000; None is what comes in a tenth of a second, at least 1.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    events: int
    per: timedelta | float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        for name in ("events", "burst"):
            value = getattr(self, name)
            if name == "burst" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
                slower = (
                    "; for less than one event a second give a longer time: Rate(1, per=timedelta(minutes=1))" if name == "events" else ""
                )
                raise ConfigurationError(f"Rate({name}={value!r}): give a whole number from 1 to 1,000,000{slower}")
        if not isinstance(self.per, timedelta | int | float) or isinstance(self.per, bool) or not 0.001 <= _seconds(self.per) <= 31 * 86400:
            raise ConfigurationError(f"Rate(per={self.per!r}): give seconds or a timedelta, from 0.001 s to 31 days")

    @property
    def interval(self) -> float:
        """The seconds that one event stands for."""
        return _seconds(self.per) / self.events

    @property
    def depth(self) -> int:
        """How many events may be handled at once."""
        return self.burst if self.burst is not None else max(1, floor(PORTION / self.interval))


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds that hold over all processes together, for new events and for those that are tried again.

    Attributes:
        concurrency: how many handlers run at once, 1 to 1,000; None for no limit.
        rate: how many events are handled in a time; None for no limit.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    concurrency: int | None = None
    rate: Rate | None = None

    def __post_init__(self) -> None:
        value = self.concurrency
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000):
            raise ConfigurationError(f"Limit(concurrency={value!r}): give a whole number from 1 to 1000, or None for no limit")
        if self.rate is not None and not isinstance(self.rate, Rate):
            raise ConfigurationError(f"Limit(rate={self.rate!r}): give a Rate(...), e.g. Rate(100, per=timedelta(seconds=1)), or None")

    def __bool__(self) -> bool:
        return self.concurrency is not None or self.rate is not None


class Taken(NamedTuple):
    """Tokens that were taken.

    Attributes:
        tokens: how many.
        ahead: seconds from now until when they, and all before them, are paid for.
        wait: seconds until there are more, if there were none.
    """

    tokens: int
    ahead: float
    wait: float


def take(rate: Rate, ahead: float | None, wanted: int) -> Taken:
    """Take up to `wanted` tokens out of a bucket that is paid for until `ahead` seconds from now; None is a new one, which is full.

    A clock that was set back would let it look paid for long into the future: more than its depth is taken for its depth.
    """
    interval, depth = rate.interval, rate.depth
    paid = min(max(ahead or 0.0, 0.0), depth * interval)
    free = floor(depth - paid / interval + 1e-6)
    tokens = max(0, min(wanted, free))
    if tokens or wanted <= 0:
        return Taken(tokens, paid + tokens * interval, 0.0)
    least = max(1, min(wanted, depth, portion(rate) // 2))
    return Taken(0, paid, max(0.0, paid + least * interval - depth * interval))


def portion(rate: Rate) -> int:
    """Return how many tokens a process takes at a time."""
    return max(1, min(rate.depth, ceil(PORTION / rate.interval)))


def share(limit: int, mine: Claim, busy: int, others: Sequence[Claim]) -> int:
    """Return how many permits a process has from now on: never more than are free, never fewer than it uses (`busy`).

    While another one has less than its fair share and wants more, nobody takes more than a fair share.
    """
    free = limit - sum(other.held for other in others)
    claimants = [other for other in others if other.wanted > 0]
    if not mine.wanted:
        return max(0, min(busy, free))
    fair = limit // (len(claimants) + 1)
    hungry = any(other.held < min(other.wanted, max(fair, 1)) for other in claimants)
    most = mine.wanted
    if hungry:
        # With more processes than permits they take turns: who has had one lets it go.
        most = min(most, fair or 1 - min(mine.held, 1))
    return max(min(busy, max(free, 0)), min(most, free), 0)


def _seconds(value: timedelta | float) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    return seconds if isfinite(seconds) else -1.0
