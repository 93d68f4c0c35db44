"""`tidings demo`: a small shop, to see what Tidings does."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

from tidings.cli.command import NOT_WELL, Command, Misused
from tidings.cli.loop import run_loop, stop_on_signals
from tidings.cli.store import failed
from tidings.cli.urls import masked, url_of

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["demo"]


@click.command(
    cls=Command,
    examples=(
        ("tidings demo", "until Ctrl-C, then the summary; look at it from another terminal meanwhile"),
        ("tidings demo --once", "a few seconds; exit code 0 when the sums add up"),
        ("tidings demo --store postgresql://postgres@localhost/test", "in a schema of its own there, tidings_demo"),
    ),
)
@click.option("--once", is_flag=True, help="End by itself after the story.")
@click.option("--store", "given", metavar="URL", help="Another database than a new SQLite file.")
def demo(once: bool, given: str | None) -> None:
    """Run a small shop in one process.

    Orders are placed in real transactions, some of which roll back; inventory, receipts and shipping handle them, with failures, a
    restart and duplicates. What happens is printed as it happens, and checked against the database's rows at the end.

    Nothing of yours is touched: without --store it is a new SQLite file; on PostgreSQL a schema of its own, which the next demo replaces.
    """
    # A store named for the other commands is not meant for the demo: TIDINGS_STORE is not looked at.
    url = None if given is None else url_of(given, asynchronous=True)
    try:
        import_module("tidings.demo.run")
    except ImportError as error:
        raise Misused(f"the demo needs SQLAlchemy and a driver ({error}): pip install 'tidings[sqlite]'") from None
    with suppress(KeyboardInterrupt):
        if not run_loop(_demo(url, once)):
            click.get_current_context().exit(NOT_WELL)


async def _demo(url: URL | None, once: bool) -> bool:
    from tidings.demo.run import run_demo

    stop = stop_on_signals()
    try:
        return await run_demo(url, stop, once=once)
    except Exception as error:
        if click.get_current_context().find_root().params.get("debug"):
            raise
        raise failed(error, "a new SQLite file" if url is None else masked(url), None if url is None else url.password) from error
