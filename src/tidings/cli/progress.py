"""Progress of long work: a bar on the standard error where that is a terminal, and lines, if at all, where it is not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Told", "progress"]


class Told(Protocol):
    """Is told how much is done so far, and of how much, where that changes."""

    def __call__(self, done: int, total: int | None = None, /) -> None: ...


def _nobody(_done: int, _total: int | None = None, /) -> None:
    return


@contextmanager
def progress(what: str, total: int, plain: Told = _nobody) -> Iterator[Told]:
    """Show how much of some work is done.

    Args:
        total: how much there is.
        plain: told instead where nobody sees a bar.
    """
    if not sys.stderr.isatty():
        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total or None)

        def told(done: int, of: int | None = None, /) -> None:
            bar.update(task, completed=done, total=max(of or total, done))

        yield told
