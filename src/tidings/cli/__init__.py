"""The command `tidings`: one module per command or group of commands. Commands that do not need a database load no SQLAlchemy."""

from __future__ import annotations

import io
import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line, and exit."""
    try:
        import click
    except ImportError:
        sys.stderr.write("tidings: the command line needs two more packages: pip install 'tidings[cli]'\n")
        sys.exit(2)
    del click
    for stream in (sys.stdout, sys.stderr):
        # What a payload holds may have no place in the terminal's encoding.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from tidings.cli.root import tidings

    tidings(prog_name="tidings")
    raise AssertionError("click exits by itself")
