"""What happens, as it happens: the log records of the shop and of the library, as short lines."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

__all__ = ["CHAPTER", "console", "narrated"]

_COLOURS = {
    "customers": "bold cyan", "inventory": "green", "receipts": "green", "shipping": "green", "payments": "green", "mail": "green",
    "sales": "green", "tidings": "dim",
}  # fmt: skip
_LEVELS = {logging.WARNING: "yellow", logging.ERROR: "bold red"}
_NOISE = re.compile(r"tidings\.demo\.(\w+\.)*| [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: What begins a chapter of the story.
CHAPTER = "chapter"


def console() -> Console:
    """Return a console on the standard output as it is now: colours on a terminal, plain text elsewhere."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Lines(logging.Handler):
    def __init__(self, out: Console) -> None:
        super().__init__(logging.INFO)
        self._out = out
        self._began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = _NOISE.sub("", record.getMessage()).partition("\n")[0]
            if hasattr(record, CHAPTER):
                self._out.print(Text(f"\n{message}", style="bold"))
                return
            actor = record.name.rpartition(".")[2] if record.name.startswith("tidings.demo.") else "tidings"
            # The library's records say in `extra` what they are about.
            key = getattr(record, "key", None)
            line = Text(f"{time.monotonic() - self._began:6.2f}  ", style="dim")
            line.append(f"{actor:<10} ", style=_COLOURS.get(actor, ""))
            line.append(message if key is None else f"{key}: {message}", style=_LEVELS.get(record.levelno, ""))
            self._out.print(line)
        except Exception:  # noqa: BLE001 - as every handler of the logging package does
            self.handleError(record)


@contextmanager
def narrated(out: Console) -> Iterator[None]:
    """Print what the package `tidings` logs, and nothing anywhere else."""
    logger = logging.getLogger("tidings")
    handler = _Lines(out)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
