"""The circuit breaker of a subscription: when what its handlers need is down, backlog stays in the log instead of being parked.

After Nygard, "Release It!": closed, open, half-open. Failures of one key are not an outage, whatever their number: it opens when distinct
keys fail in a row with no success between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tidings.clock import elapsed

__all__ = ["Breaker"]

logger = logging.getLogger("tidings.consume")


class Breaker:
    """Decides whether a subscription may take events. Shared by everything in this process that handles for it.

    Args:
        threshold: how many distinct keys have to fail in a row.
        pause: seconds until one event is let through to probe; doubled after each probe that fails, up to `longest`.
        clock: seconds that never go back.
    """

    def __init__(
        self, threshold: int = 10, pause: float = 1.0, longest: float = 60.0, clock: Callable[[], float] = elapsed, label: str = ""
    ) -> None:
        self.threshold = threshold
        self.label = label
        self._shortest = pause
        self._longest = longest
        self._clock = clock
        self._failed: set[str] = set()
        self._pause = pause
        self._until: float | None = None

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
        self._until = now + self._pause
        return 0.0

    def failed(self, lane: str) -> None:
        """Note that an attempt of this lane failed."""
        self._failed.add(lane)
        if self._until is not None:
            self._pause = min(self._pause * 2, self._longest)
            self._until = self._clock() + self._pause
        elif len(self._failed) >= self.threshold:
            self._pause = self._shortest
            self._until = self._clock() + self._pause
            logger.error(
                "%s: %d keys failed in a row; its events stay in the log until one succeeds", self.label, len(self._failed),
                extra={"subscription": self.label},
            )  # fmt: skip

    def succeeded(self) -> None:
        """Note that an attempt succeeded."""
        if self._failed:
            self._failed.clear()
        if self._until is not None:
            self._until = None
            logger.info("%s: events are handled again", self.label, extra={"subscription": self.label})
