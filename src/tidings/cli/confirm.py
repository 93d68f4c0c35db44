"""Asking before something that cannot simply be undone."""

from __future__ import annotations

import sys

import click

from tidings.cli.text import safe

__all__ = ["confirmed"]


def confirmed(question: str, yes: bool) -> None:
    """Ask, unless `--yes` was given; ends the command when the answer is no, or when nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: give --yes to do it")
    click.confirm(safe(question), abort=True)
