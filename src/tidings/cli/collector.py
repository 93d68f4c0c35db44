"""The garbage collector of a process that does nothing but handle events."""

from __future__ import annotations

import gc

__all__ = ["THRESHOLD", "settle"]

#: New containers until the collector looks at them. A page of messages makes some thousands, which are gone when it is handled: with Python's 700 they
#: are looked at again and again meanwhile, and with them, because so little is left after `freeze` to compare with, all events that wait.
THRESHOLD = 5_000


def settle() -> None:
    """Let the collector leave alone what there is now, which lives as long as the process, and look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD)
