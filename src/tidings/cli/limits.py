"""`tidings limits`: who uses what is bounded over all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidings.cli.command import Command
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.table import show_table
from tidings.cli.text import as_json, duration

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.limits import Usage

__all__ = ["limits"]


@click.command(
    cls=Command,
    examples=(("tidings limits", "one line for each limit and process"), ("tidings limits --json", "an array of objects")),
)
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def limits(target: Target, json_: bool) -> None:
    """List the limits that are in use: permits that each process has and wants, and for how long a rate is used up ahead.

    A limit is known to the store once something has asked for it; how large it is stands in the code.
    """

    async def work(store: SQLStore) -> list[Usage]:
        return await store.call(store.limits.usage)

    found = on_store(target, work)
    if json_:
        click.echo(as_json([item._asdict() for item in found]))
        return
    if not found:
        click.echo("no limit is in use")
        return
    show_table(
        ("limit", "rate used ahead", "process", "permits", "wanted"),
        [
            (
                item.scope, "" if not item.ahead else duration(item.ahead),
                "" if item.owner is None else f"{item.host}:{item.pid}" if item.host is not None else f"worker {item.owner[-12:]}",
                item.held if item.owner is not None else "", item.wanted if item.owner is not None else "",
            )
            for item in found
        ],
        right=("rate used ahead", "permits", "wanted"),
    )  # fmt: skip
