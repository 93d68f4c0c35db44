"""When a failed event is tried again: a value, and a pure decision."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from tidings.errors import ConfigurationError

__all__ = ["Decision", "Discard", "Reject", "Retry", "RetryLater"]

_YEAR = 366 * 86400


class RetryLater(Exception):
    """Raised by a handler: try this event again after this time. It counts as an attempt."""

    def __init__(self, after: timedelta | float, reason: str = "") -> None:
        self.after = after.total_seconds() if isinstance(after, timedelta) else float(after)
        if not 0 <= self.after < _YEAR:
            raise ValueError(f"RetryLater(after={after!r}): give a time from 0 seconds to one year")
        super().__init__(reason or f"retry after {self.after:g} s")


class Reject(Exception):
    """Raised by a handler: this event can never be handled; it is dead at once, with this reason."""


class Discard(Exception):
    """Raised by a handler: this event needs no handling after all; it is finished without effects, with this reason."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of an event whose attempt failed.

    Attributes:
        state: `retrying`, `dead`, or `discarded`.
        delay: seconds until the next attempt.
    """

    state: Literal["retrying", "dead", "discarded"]
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed event is tried again.

    The delay before attempt n + 1 is `base * factor ** (n - 1)`, at most `max`, less a random part of up to `jitter` of it. The default
    gives ten attempts over about seventeen minutes.

    Attributes:
        attempts: how often an event is tried in all; at least 1.
        base, max: shortest and longest delay, as seconds or timedelta.
        factor: growth of the delay; at least 1.
        jitter: 0 to 1; the part of each delay that is random.
        immediate: how many of the attempts follow at once, before the first delay.
        give_up_on: exception types that are not tried again (business errors).
        give_up_after: the longest time from the first attempt to the last; None for no limit.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    attempts: int = 10
    base: timedelta | float = 1.0
    factor: float = 2.0
    max: timedelta | float = 600.0
    jitter: float = 0.2
    immediate: int = 0
    give_up_on: tuple[type[BaseException], ...] = ()
    give_up_after: timedelta | float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("attempts", 1, 1000), ("factor", 1, 100), ("jitter", 0, 1), ("immediate", 0, 1000)):
            value = getattr(self, name)
            whole = name in ("attempts", "immediate")
            if not isinstance(value, int if whole else int | float) or not low <= value <= high:
                raise ConfigurationError(f"Retry({name}={value!r}): give a {'whole ' if whole else ''}number from {low} to {high}")
        times = (self.base, self.max)
        if (
            not all(isinstance(time, timedelta | int | float) for time in times)
            or not 0 <= _seconds(self.base) <= _seconds(self.max) <= _YEAR
        ):
            raise ConfigurationError(f"Retry(base={self.base!r}, max={self.max!r}): give 0 <= base <= max <= one year")
        after = self.give_up_after
        if after is not None and (not isinstance(after, timedelta | int | float) or not _seconds(after) >= 0):
            raise ConfigurationError(f"Retry(give_up_after={after!r}): give seconds or a timedelta, or None for no limit")
        if not isinstance(self.give_up_on, tuple) or not all(isinstance(t, type) and issubclass(t, BaseException) for t in self.give_up_on):
            raise ConfigurationError(f"Retry(give_up_on={self.give_up_on!r}): give a tuple of exception types")

    def decide(self, error: BaseException, attempt: int, age: float = 0.0, chance: Callable[[], float] = random.random) -> Decision:
        """Decide after attempt number `attempt` (from 1) failed, `age` seconds after the first attempt."""
        if isinstance(error, Discard):
            return Decision("discarded")
        if self.refuses(error) or attempt >= self.attempts:
            return Decision("dead")
        delay = error.after if isinstance(error, RetryLater) else self.delay(attempt, chance)
        if self.give_up_after is not None and age + delay > _seconds(self.give_up_after):
            return Decision("dead")
        return Decision("retrying", delay)

    def refuses(self, error: BaseException) -> bool:
        """Whether a handler that raised this has come to a decision on its event: that is no sign of an outage."""
        return isinstance(error, (Reject, *self.give_up_on))

    def delay(self, attempt: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after attempt number `attempt` failed."""
        later = attempt - self.immediate
        if later <= 0:
            return 0.0
        try:
            delay = min(_seconds(self.base) * float(self.factor) ** (later - 1), _seconds(self.max))
        except OverflowError:  # factor ** 999 is more than a float can hold
            delay = _seconds(self.max) if _seconds(self.base) > 0 else 0.0
        return delay * (1.0 - self.jitter * chance())


def _seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
