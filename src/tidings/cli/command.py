"""Commands whose `--help` teaches by example, and the errors that end one: a sentence and an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

import click

from tidings.cli.text import safe

__all__ = ["NOT_WELL", "Command", "Failed", "Misused", "Unreachable"]

#: The exit code of a command that did what it should, and found that something is not well.
NOT_WELL = 1


class Failed(click.ClickException):
    """Ends the command with a sentence on the standard error and exit code 1: not well, or not found."""

    exit_code = NOT_WELL

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence; what it quotes may come from anywhere."""
        click.echo(f"tidings: {safe(self.message, lines=True)}", file=file, err=file is None)


class Misused(Failed):
    """The command cannot be understood, or its service cannot be imported: exit code 2, as for click's own usage errors."""

    exit_code = 2


class Unreachable(Failed):
    """The store cannot be reached, or has no tables that can be used: exit code 3."""

    exit_code = 3


class Command(click.Command):
    """A command with examples: pairs of what to type and what it does."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples under the options."""
        if self.examples:
            with formatter.section("Examples"):
                for command, meaning in self.examples:
                    # One to a line and unwrapped, to be copied.
                    formatter.write(f"{'':{formatter.current_indent}}$ {command}\n")
                    formatter.write(f"{'':{formatter.current_indent}}    {meaning}\n")
        super().format_epilog(ctx, formatter)
