"""Which parked events may be what ends the process, and what becomes of them. Pure decisions.

A handler that kills its process (a segmentation fault, the operating system's memory killer, `os._exit`) leaves no failure behind: only a
lane whose lease ran out in the middle of an attempt. Others that ran beside it look the same. So after two attempts that ended that way a
lane is tried alone, and only what ended the process while nothing else ran in it is given up.
"""

from __future__ import annotations

from tidings.consume.retry import Retry
from tidings.stores.base import Claimed

__all__ = ["CAREFUL", "given_up", "suspected"]

#: From how many restarts without progress on events are handled one at a time; from which attempt on an interrupted lane runs alone.
CAREFUL = 3


def suspected(lane: Claimed, retry: Retry) -> bool:
    """Whether a claimed lane runs alone in its process."""
    return lane.interrupted and (lane.was_alone or lane.attempts >= CAREFUL or lane.attempts > retry.attempts)


def given_up(lane: Claimed, number: int, retry: Retry) -> bool:
    """Whether the head of a claimed lane is dead without attempt number `number`, because the one before ended the process, alone."""
    return lane.interrupted and lane.was_alone and number > retry.attempts
