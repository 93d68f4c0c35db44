"""Lists on a terminal as tables, and through a pipe as aligned columns that nothing cuts off."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from tidings.cli.text import safe

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Cell", "console", "show_table"]


class Cell(NamedTuple):
    """A value with a style, e.g. `red`; plain values need no cell."""

    value: object
    style: str = ""


def console() -> Console:
    """Return a console on the standard output as it is now."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = (), title: str | None = None) -> None:
    """Print rows; every value is made safe for a terminal.

    Args:
        right: the columns that are aligned to the right, numbers mostly.
    """
    if not rows:
        click.echo(f"{(title or 'rows').partition(' (')[0].lower()}: none\n" if title is not None else "none")
        return
    cells = [[value if isinstance(value, Cell) else Cell(value) for value in row] for row in rows]
    out = console()
    if not out.is_terminal:
        _show_plain(columns, [[safe(cell.value) for cell in row] for row in cells], right, title)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left", title_style="bold", header_style="dim")
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(safe(cell.value), style=cell.style) for cell in row))
    out.print(table)
    if title is not None:
        click.echo()


def _show_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str], title: str | None) -> None:
    widths = [max([len(column), *(len(row[index]) for row in rows)]) for index, column in enumerate(columns)]
    if title is not None:
        click.echo(title)
    for row in (columns, *rows):
        parts = [
            text.rjust(width) if column in right else text.ljust(width) for text, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())
    if title is not None:
        click.echo()
