"""The circuit breaker of a subscription: when what its handlers need is down, backlog stays in the log instead of being parked.

After Nygard, "Release It!": closed, open, half-open. `Breaker` is the policy, a value; `Circuit` is the state of one subscription in one
process. Failures of one key are not an outage, whatever their number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from typing import Literal, NamedTuple

from tidings.clock import elapsed
from tidings.errors import ConfigurationError

__all__ = ["Breaker", "Circuit", "CircuitView"]

logger = logging.getLogger("tidings.consume")

_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a subscription stops taking events because what its handlers need is down.

    It opens when `keys` distinct keys failed in a row with no success between them, or when the share of failures within `window` has
    reached `failure_rate`. While it is open, its events stay in the log, and one event at a time probes, after `pause`, then ever more rarely;
    keys that are parked already are tried again as their own policy says, and count as probes too. One success closes it.

    Until it opens, at most `keys + concurrency - 1` keys are parked for failures in a row; each probe that fails parks one more.

    Attributes:
        keys: how many distinct keys have to fail in a row, 1 to 10,000; None leaves this rule out.
        failure_rate: above 0 to 1; the share of attempts that failed, where a key that fails several times counts once; None leaves this
            rule out.
        window: the time over which that share is taken, 1 second to 1 day, as seconds or timedelta; it begins with its first failure.
        minimum: how many attempts there must have been within it, 1 to 1,000,000.
        pause, longest: the time until the first probe, and the longest one between two, 0.001 seconds to 1 day.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    keys: int | None = 10
    failure_rate: float | None = 0.5
    window: timedelta | float = 60.0
    minimum: int = 20
    pause: timedelta | float = 1.0
    longest: timedelta | float = 60.0

    def __post_init__(self) -> None:
        for name, most in (("keys", 10_000), ("minimum", 1_000_000)):
            value = getattr(self, name)
            if name == "keys" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                none = ", or None for no limit" if name == "keys" else ""
                raise ConfigurationError(f"Breaker({name}={value!r}): give a whole number from 1 to {most:,}{none}")
        rate = self.failure_rate
        if rate is not None and (not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 < rate <= 1):
            raise ConfigurationError(f"Breaker(failure_rate={rate!r}): give a share above 0, up to 1, or None for no limit")
        for name, least in (("window", 1.0), ("pause", 0.001), ("longest", 0.001)):
            value = getattr(self, name)
            if not isinstance(value, timedelta | int | float) or isinstance(value, bool) or not least <= _seconds(value) <= _DAY:
                raise ConfigurationError(f"Breaker({name}={value!r}): give seconds or a timedelta, from {least:g} s to 1 day")
        if _seconds(self.pause) > _seconds(self.longest):
            raise ConfigurationError(f"Breaker(pause={self.pause!r}, longest={self.longest!r}): give pause <= longest")

    @classmethod
    def off(cls) -> Breaker:
        """Return a breaker that never opens: every failure is parked, up to the service's bound on parked events."""
        return cls(keys=None, failure_rate=None)


class CircuitView(NamedTuple):
    """What a circuit is like now.

    Attributes:
        state: `closed`, `open`, or `half-open`: one event may probe, or does.
        age: seconds since it opened; 0 while it is closed.
        reason: why it opened; empty while it is closed.
    """

    state: Literal["closed", "open", "half-open"]
    age: float
    reason: str


class Circuit:
    """Decides whether a subscription may take events. Shared by everything in this process that handles for it.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, breaker: Breaker | None = None, *, clock: Callable[[], float] = elapsed, label: str = "") -> None:
        breaker = breaker or Breaker()
        self.breaker = breaker
        self.label = label
        self._shortest, self._longest, self._window = _seconds(breaker.pause), _seconds(breaker.longest), _seconds(breaker.window)
        self._clock = clock
        self._in_a_row: set[str] = set()
        #: What failed, and how much succeeded, in this half of the window and in the one before.
        self._failed: tuple[set[str], set[str]] = (set(), set())
        self._earlier = 0
        self._succeeded = 0
        self._half_since: float | None = None
        self._pause = self._shortest
        self._until: float | None = None
        self._opened = 0.0
        self._shared = False
        self._probing = False
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether events are held back."""
        return self._until is not None

    def wait(self, now: float) -> float:
        """Return the seconds until an event may be taken; 0 when it may now. While open, each 0 is for one probe."""
        if self._until is None:
            return 0.0
        if now < self._until:
            return self._until - now
        # Half open: whoever asked probes, the others wait for the outcome.
        self._probing = True
        self._until = now + self._pause
        return 0.0

    def returned(self) -> None:
        """Note that a probe is over. One that proved nothing, because its event was no longer to be handled, makes way for the next."""
        if self._probing and self._until is not None:
            self._probing = False
            self._until = self._clock()

    def failed(self, lane: str, why: str = "") -> None:
        """Note that an attempt of this lane failed."""
        now = self._clock()
        self._in_a_row.add(lane)
        if self._until is not None:
            # Parked events are tried again by their own policy all the while: that they still fail must not keep the next probe away.
            if self._probing:
                self._probing = False
                self._pause = min(self._pause * 2, self._longest)
                self._until = now + self._pause
            return
        self._roll(now)
        self._failed[0].add(lane)
        keys, share = self.breaker.keys, self._share()
        if keys is not None and len(self._in_a_row) >= keys:
            count = len(self._in_a_row)
            self._open(now, "1 key failed" if count == 1 else f"{count} keys failed in a row", why)
        elif share is not None:
            self._shared = True
            self._open(now, f"{share[0]} of {share[1]} attempts failed within {self._window:g} s", why)

    def succeeded(self, attempts: int = 1) -> None:
        """Note that so many attempts succeeded."""
        self._succeeded += attempts
        if self._in_a_row:
            self._in_a_row.clear()
        # Where others succeed while many fail, what was under way as it opened says nothing: a probe has to.
        if self._until is not None and (not self._shared or self._probing or self._clock() >= self._opened + self._shortest):
            self._close()

    def view(self) -> CircuitView:
        """Return what it is like now."""
        if self._until is None:
            return CircuitView("closed", 0.0, "")
        now = self._clock()
        return CircuitView("half-open" if self._probing or now >= self._until else "open", max(0.0, now - self._opened), self._reason)

    def inherit(self, age: float, reason: str) -> None:
        """Go on half-open where another process left an open circuit: the first event probes."""
        never = self.breaker.keys is None and self.breaker.failure_rate is None
        if self._until is None and not never:
            self._opened = self._clock() - age
            self._reason = reason
            self._pause, self._until = self._shortest, self._clock()

    def _open(self, now: float, reason: str, why: str) -> None:
        self._opened = now
        self._pause = self._shortest
        self._until = now + self._pause
        self._probing = False
        self._reason = f"{reason}: {why}" if why else reason
        logger.error(
            "%s: %s; its events stay in the log until one succeeds", self.label, self._reason, extra={"subscription": self.label}
        )  # fmt: skip

    def _close(self) -> None:
        self._until = None
        self._shared = self._probing = False
        self._reason = ""
        self._half_since = None
        self._roll(self._clock())
        logger.info("%s: events are handled again", self.label, extra={"subscription": self.label})

    def _share(self) -> tuple[int, int] | None:
        """Return how many keys failed of how many attempts, if that is too many."""
        if self.breaker.failure_rate is None:
            return None
        failed = len(self._failed[0] | self._failed[1])
        attempts = failed + self._succeeded + self._earlier
        enough = attempts >= self.breaker.minimum and failed >= self.breaker.failure_rate * attempts
        return (failed, attempts) if enough else None

    def _roll(self, now: float) -> None:
        """Forget what is older than the window, by halves. Nothing rolls on success: those are counted, and no more, on every event."""
        half = self._window / 2
        if self._half_since is None or now - self._half_since >= 2 * half:
            self._failed = (set(), set())
            self._earlier = self._succeeded = 0
            self._half_since = now
        elif now - self._half_since >= half:
            self._failed = (set(), self._failed[0])
            self._earlier, self._succeeded = self._succeeded, 0
            self._half_since = now


def _seconds(value: timedelta | float) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    return seconds if isfinite(seconds) else -1.0
