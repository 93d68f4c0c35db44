"""`tidings services`: which services share the tables, for how long each wants what kept, and forgetting one that is gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidings.cli.acting import operations
from tidings.cli.command import Command, Failed
from tidings.cli.confirm import confirmed
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.table import Cell, show_table
from tidings.cli.text import as_json, counted, duration, when
from tidings.observability.status import many

if TYPE_CHECKING:
    from tidings.observability.status import Status
    from tidings.stores import SQLStore
    from tidings.stores.sql.services import ServiceState

__all__ = ["services"]


@click.group()
def services() -> None:
    """Which services share the tables."""


@services.command("list", cls=Command, examples=(("tidings services list --json", "an array of objects"),))
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(target: Target, json_: bool) -> None:
    """List the services, also those that are gone, with how long each wants the log, the inbox, dead events and its audit kept.

    The log is kept as long as the service wants it that wants it longest, whether it still runs or not, until it is forgotten.
    """
    found = on_store(target, lambda store: operations(store).services())
    if json_:
        click.echo(as_json([item._asdict() for item in found]))
        return
    show_table(
        ("service", "state", "workers", "groups", "parked", "log", "inbox", "dead", "audit", "moved"),
        [
            (
                item.name, Cell(item.state, {"stopped": "yellow", "forgotten": "dim"}.get(item.state, "")), item.workers, ", ".join(item.groups),
                item.parked, *_kept(item), "" if item.moved_at is None else when(item.moved_at),
            )
            for item in found
        ],
        right=("workers", "parked", "log", "inbox", "dead", "audit"),
    )  # fmt: skip


@services.command(
    cls=Command,
    examples=(("tidings services forget legacy-billing", "it was shut down for good, and the log need not wait for it"),),
)
@store_options
@click.argument("name", metavar="SERVICE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(target: Target, name: str, yes: bool) -> None:
    """Forget a service that is gone for good: its word on how long the log is kept, its groups and its subscriptions.

    What is parked in them stays, untouched. Refused while a worker of it is alive. Should it come back, it reads on where it was, as far as the
    log still has that.
    """

    async def look(store: SQLStore) -> tuple[list[ServiceState], Status]:
        from tidings.observability.status import gather

        return await operations(store).services(), await gather(store)

    known, status = on_store(target, look)
    found = next((item for item in known if item.name == name), None)
    if found is None or found.state == "forgotten":
        there = ", ".join(item.name for item in known if item.state != "forgotten") or "none"
        raise Failed(f"there is no service {name!r} that is not forgotten; there are: {there}")
    if found.state == "running":
        several = f"{found.workers} workers of service {name!r} are alive: stop them"
        alive = f"a worker of service {name!r} is alive: stop it" if found.workers == 1 else several
        raise Failed(f"{alive} first; 'tidings services list' lists them")
    confirmed(f"Forget service {name}? {_lost(status, found)}", yes)
    done = on_store(target, lambda store: operations(store).forget_service(name))
    if done is None:
        raise Failed(f"service {name!r} was forgotten by somebody else meanwhile")
    stay = many(done.parked, "event stays", "events stay")
    parked = f"; {stay} parked: 'tidings dead list' lists what is dead" if done.parked else ""
    groups, subscriptions = many(len(done.groups), "group", "groups"), many(len(done.subscriptions), "subscription", "subscriptions")
    click.echo(f"forgot service {name}: retired {groups} and {subscriptions}{parked}")


def _kept(item: ServiceState) -> tuple[str, str, str, str]:
    if item.outbox is None or item.inbox is None:
        return "", "", "", ""
    dead, audit = ("ever" if seconds is None else duration(seconds) for seconds in (item.dead, item.audit))
    return duration(item.outbox) if item.outbox else "", duration(item.inbox), dead, audit


def _lost(status: Status, found: ServiceState) -> str:
    from tidings.stores.sql.queries import COUNTED

    unread = [
        f"{counted(status.backlogs[reader.reader].events, COUNTED)} in {reader.group}"
        for reader in status.readers
        if reader.service == found.name and reader.reader in status.backlogs and status.backlogs[reader.reader].events
    ]
    parked = f" {found.parked:,} parked events stay, untouched." if found.parked else ""
    return (
        f"It has not read or sent all events ({', '.join(unread)}), and never will." if unread else "It receives nothing more."
    ) + parked
