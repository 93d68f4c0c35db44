"""The moments at which a worker can be told to stop itself, as a paused container or a suspended machine stops: with everything as it is.

The process pauses once, by a signal to itself, so the moment is exact. It goes on when somebody sends SIGCONT.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.workers.journal import Journal
from tidings.stores import SQLStore
from tidings.stores.base import Batch

__all__ = ["MOMENTS", "pause_at"]

Pause = Callable[[], None]

#: Where a moment lies: in which method of which part of the store, and on which side of it.
MOMENTS: dict[str, tuple[str, str, str]] = {
    "before the proof": ("inbox", "proving", "after"),
    "between proof and COMMIT": ("inbox", "prove", "after"),
    "with events just read": ("log", "read", "after"),
    "before the checkpoint": ("leases", "move", "before"),
    "before renewing": ("leases", "renew", "before"),
    "before parking is fenced": ("leases", "holds", "before"),
    "with the fence just checked": ("leases", "holds", "after"),
    "before moving": ("upkeep", "move_due", "before"),
    "after moving": ("upkeep", "move_due", "after"),
    "before purging": ("upkeep", "purge_log", "before"),
}


def pause_at(moment: str, store: SQLStore, journal: Journal, when: Path | None) -> None:
    """Pause this process at a moment, the first time that it comes after the file `when` has appeared.

    `in the handler` and the like are moments of the app's own.
    """
    pause = once(journal, moment, when)
    if moment not in MOMENTS:
        return
    part, name, side = MOMENTS[moment]
    # The class and not the object: a store makes its parts again when it has found its schema.
    cls = type(getattr(store, part))
    method = getattr(cls, name)
    if name == "prove":
        # As with drivers that cannot send it with COMMIT: there is nothing between them otherwise.
        setattr(cls, "proving", lambda *_: None)  # noqa: B010

    @functools.wraps(method)
    def wrapped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if side == "before":
            pause()
        result = method(self, *arguments, **keywords)
        if side == "after" and (result.rows if isinstance(result, Batch) else result):
            pause()
        if name in ("purge_log", "move_due", "move"):
            journal.say(name, result=result if isinstance(result, int) else bool(result))
        return result

    setattr(cls, name, wrapped)


def once(journal: Journal, moment: str, when: Path | None) -> Pause:
    """Return what pauses this process, the first time that it is called when the file is there."""
    paused = False

    def pause() -> None:
        nonlocal paused
        if paused or (when is not None and not when.exists()):
            return
        paused = True
        journal.say("pausing", moment=moment)
        os.kill(os.getpid(), signal.SIGSTOP)
        journal.say("resumed", moment=moment)

    return pause
