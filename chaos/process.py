"""What publishers and workers have in common as processes: they end with the run, whatever ends it, and log where it looks."""

from __future__ import annotations

import logging
import os
import sys
import threading

__all__ = ["Surprise", "end_with_parent", "log_to_stderr"]


class Surprise(Exception):
    """Something that no fault of ours explains."""


def end_with_parent() -> None:
    """End this process as soon as the run's own process is gone: it holds the other end of our standard input."""

    def wait() -> None:
        # Not sys.stdin: a thread that waits in its buffer keeps the interpreter from ending.
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def log_to_stderr(level: int) -> None:
    """Log with times, to compare with the schedule and with the server's log."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr)
