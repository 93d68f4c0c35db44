"""`tidings subscriptions`: who handles what, and retiring what no code handles any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidings.cli.acting import operations
from tidings.cli.command import Command, Failed
from tidings.cli.confirm import confirmed
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.table import Cell, show_table
from tidings.cli.text import as_json, when

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.queries import Subscription

__all__ = ["subscriptions"]


@click.group()
def subscriptions() -> None:
    """Who handles what."""


@subscriptions.command("list", cls=Command, examples=(("tidings subscriptions list --json", "an array of objects"),))
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(target: Target, json_: bool) -> None:
    """List the subscriptions of every service, with what is parked in them.

    The breaker is that of the process that reads for the group now; nothing is shown where none does.
    """
    found = on_store(target, _all)
    if json_:
        click.echo(as_json(list(found)))
        return
    show_table(
        ("subscription", "service", "state", "breaker", "ordered", "events", "retrying", "dead", "parked"),
        [
            (
                item.label, item.service, Cell(item.state, "dim" if item.state == "retired" else ""), _breaker(item),
                "yes" if item.ordered else "no", ", ".join(item.events), item.retrying, Cell(item.dead, "bold red" if item.dead else ""),
                item.parked,
            )
            for item in found
        ],
        right=("retrying", "dead", "parked"),
    )  # fmt: skip


@subscriptions.command(
    cls=Command,
    examples=(("tidings subscriptions retire billing/charge-card", "its handler was removed, not renamed"),),
)
@store_options
@click.argument("name", metavar="GROUP/NAME")
@click.option("--of", metavar="SERVICE", help="Of this service, if several have a subscription of that name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def retire(target: Target, name: str, of: str | None, yes: bool) -> None:
    """Forget a subscription that no code has any more.

    Events are no longer kept for it. What is parked in it stays, untouched. A renamed subscription is not retired: give the new one
    renamed_from=... in the code, or it handles old events again. Should the code come back, it is active again, from then on.
    """
    group, slash, short = name.partition("/")
    if not slash or not group or not short:
        raise click.UsageError(f"{name!r} is not GROUP/NAME: 'tidings subscriptions list' lists them")
    matching = [
        item
        for item in on_store(target, _all)
        if (item.group, item.name) == (group, short) and of in (None, item.service) and item.state != "retired"
    ]
    if not matching:
        raise Failed(f"there is no subscription {name!r} that is not retired: 'tidings subscriptions list' lists them")
    if len(matching) > 1:
        raise click.UsageError(f"several services have it: say which with --of ({', '.join(item.service for item in matching)})")
    (found,) = matching
    parked = f" {found.parked:,} parked events stay in it, untouched." if found.parked else ""
    confirmed(f"Retire subscription {name} of service {found.service}?{parked}", yes)

    on_store(target, lambda store: operations(store, found.service).retire_subscription(group, short))
    click.echo(f"retired {name} of service {found.service}")


def _breaker(item: Subscription) -> Cell:
    if item.breaker is None or item.breaker == "closed":
        return Cell(item.breaker or "")
    return Cell(f"{item.breaker} since {when(item.breaker_since)}: {item.breaker_reason or ''}", "red")


async def _all(store: SQLStore) -> list[Subscription]:
    from tidings.stores.sql.queries import Queries

    return await store.call(Queries(store.names, store.dialect).subscriptions)
