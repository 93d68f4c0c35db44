"""How many events may share a transaction: enough to be fast, few enough that locks are not held for long."""

from __future__ import annotations

import time

__all__ = ["Pace"]

#: Seconds that the handlers of one transaction may take by themselves, and on a clock while everything else runs too.
_SECONDS = 0.020
_SECONDS_CROWDED = 0.250
#: Seconds over which the use of the processor is averaged.
_WINDOW = 0.05


class Pace:
    """Measures the seconds that one event takes.

    Runs that overlap wait for one another's processor, so on a busy processor every handler looks slow: transactions would shrink, and their
    cost would make everything slower still. The time of a run is therefore divided by how many ran at once, as far as the processor was
    busy: wholly for handlers that compute, not at all for handlers that wait for a network. The time on the clock bounds the whole
    transaction more loosely.
    """

    def __init__(self) -> None:
        self.itself: float | None = None
        self.clock = 0.0
        self._active = 0
        self._use = 0.0
        self._processor = time.process_time()
        self._since = time.perf_counter()

    def begin(self) -> None:
        """A run begins."""
        self._active += 1

    def end(self, seconds: float, events: int, now: float | None = None) -> None:
        """A run of this many events has ended, after so many seconds; `now` is what `time.perf_counter` says, if that is known."""
        at_once = self._active
        self._active -= 1
        if now is None:
            now = time.perf_counter()
        if now - self._since >= _WINDOW:
            self._look(now)
        if not events:
            return
        each = seconds / events
        itself = each / (1.0 + (at_once - 1) * self._use)
        if self.itself is None:
            self.itself, self.clock = itself, each
        else:
            self.itself = 0.7 * self.itself + 0.3 * itself
            self.clock = 0.7 * self.clock + 0.3 * each

    def share(self) -> int:
        """Return how many events may share a transaction; at least 1."""
        if self.itself is None:
            return 1
        return max(1, min(int(_SECONDS / max(self.itself, 1e-6)), int(_SECONDS_CROWDED / max(self.clock, 1e-6))))

    def _look(self, now: float) -> None:
        processor = time.process_time()
        self._use = min(1.0, (processor - self._processor) / (now - self._since))
        self._processor, self._since = processor, now
