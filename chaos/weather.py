"""What handlers do wrong, and when. Pure, but for the clock: storms come and go with the seconds since the start of the run."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Literal

__all__ = ["Misdeed", "Weather"]

#: fine: nothing. early, late: raise before or after the effect. later, reject: `RetryLater`, `Reject`. slow: beyond `tuning.slow`.
#: timeout: beyond the handler's time limit. nested: a database error inside begin_nested(), as it should be. swallow: one outside of it,
#: caught. rollback, commit: of the session. cut: its own connection, which raises; swallow cut: the same, caught.
Misdeed = Literal[
    "fine", "early", "late", "later", "reject", "slow", "timeout", "nested", "swallow", "rollback", "commit", "cut", "swallow cut"
]

#: How many of ten thousand attempts end so when the weather is bad.
_BAD: tuple[tuple[Misdeed, int], ...] = (
    ("early", 250), ("late", 250), ("later", 40), ("reject", 20), ("slow", 25), ("timeout", 5), ("nested", 100), ("swallow", 80),
    ("rollback", 40), ("commit", 60), ("cut", 8), ("swallow cut", 8),
)  # fmt: skip
#: Storms: what the chances of an epoch are multiplied with.
_STORMS = (0.0, 0.05, 0.05, 0.3, 1.0, 3.0)
_EPOCH = 3.0


class Weather:
    """Decides what an attempt does wrong.

    Args:
        clock: seconds since the start of the run.
        calm: whether everything goes well now, as at the end of the run.
        forbidden: misdeeds that make no sense on this database.
    """

    def __init__(self, seed: int, clock: Callable[[], float], calm: Callable[[], bool], forbidden: frozenset[Misdeed]) -> None:
        self._seed = seed
        self._clock = clock
        self._calm = calm
        self._forbidden = forbidden

    def of(self, subscription: str, number: int, attempt: int) -> Misdeed:
        """Return what this attempt does wrong."""
        if self._calm():
            return "fine"
        epoch = int(self._clock() / _EPOCH)
        storm = _STORMS[self._draw("storm", epoch) % len(_STORMS)]
        drawn = self._draw(subscription, number, attempt, epoch) % 10_000
        for misdeed, chances in _BAD:
            drawn -= int(chances * storm)
            if drawn < 0:
                return "fine" if misdeed in self._forbidden else misdeed
        return "fine"

    def _draw(self, *what: object) -> int:
        return int.from_bytes(blake2b(repr((self._seed, *what)).encode(), digest_size=8).digest(), "big")
