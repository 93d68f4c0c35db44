"""`tidings groups`: who reads the log or a broker, how far each has come, and retiring a group that no code has any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tidings.cli.acting import operations
from tidings.cli.command import Command, Failed
from tidings.cli.confirm import confirmed
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.table import show_table
from tidings.cli.text import as_json, counted, duration
from tidings.observability.status import Status, gather

if TYPE_CHECKING:
    from tidings.stores.sql.queries import Reader

__all__ = ["groups"]

#: What groups read: the log, or a broker.
_KINDS = ("log", "queue", "stream")


@click.group()
def groups() -> None:
    """Who reads the log, and how far each has come."""


@groups.command("list", cls=Command, examples=(("tidings groups list --json", "an array of objects"),))
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(target: Target, json_: bool) -> None:
    """List the groups with their checkpoints.

    The log keeps every event that a group has not read, whatever the retention says, until the group is retired.
    """
    found = on_store(target, gather)
    rows = [reader for reader in found.readers if reader.kind in _KINDS]
    if json_:
        click.echo(as_json([_as_object(found, reader.reader) for reader in rows]))
        return
    from tidings.stores.sql.queries import COUNTED

    show_table(
        ("group", "service", "state", "backlog", "checkpoint", "moved"),
        [
            (
                reader.group, reader.service, reader.state,
                counted(found.backlogs[reader.reader].events, COUNTED) if reader.reader in found.backlogs else "",
                _checkpoint(reader), "" if reader.moved_at is None else f"{duration(found.now - reader.moved_at)} ago",
            )
            for reader in rows
        ],
        right=("backlog", "moved"),
    )  # fmt: skip


@groups.command(cls=Command, examples=(("tidings groups retire reporting", "nothing reads for it any more, and the log need not wait"),))
@store_options
@click.argument("group")
@click.option("--of", metavar="SERVICE", help="Of this service, if several have a group of that name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def retire(target: Target, group: str, of: str | None, yes: bool) -> None:
    """Forget a group that no code has any more, with its subscriptions.

    Until then the log keeps what the group has not read. Refused while a worker reads for it.
    """
    found = on_store(target, gather)
    matching = [
        reader
        for reader in found.readers
        if reader.kind in _KINDS and reader.group == group and of in (None, reader.service) and reader.state != "retired"
    ]
    if not matching:
        raise Failed(f"there is no group {group!r} that is not retired: 'tidings groups list' lists them")
    services = sorted({reader.service for reader in matching})
    if len(services) > 1:
        raise click.UsageError(f"several services have it: say which with --of ({', '.join(services)})")
    if any(reader.lease_until is not None and reader.lease_until > found.now for reader in matching):
        raise Failed(f"a worker reads for group {group!r} right now: take its subscriptions out of the code first, and deploy")
    from tidings.stores.sql.queries import COUNTED

    (service,) = services
    unread = [counted(found.backlogs[reader.reader].events, COUNTED) for reader in matching if reader.reader in found.backlogs]
    missed = f"It has not read {unread[0]} events, and never will." if unread else "It receives nothing more."
    confirmed(f"Retire group {group} of service {service}? {missed}", yes)

    on_store(target, lambda store: operations(store, service).retire_group(group))
    click.echo(f"retired group {group} of service {service}")


def _checkpoint(reader: Reader) -> str:
    if reader.kind == "queue":
        return "kept by the broker"
    if reader.kind == "stream":
        return reader.place or "the beginning"
    previous, current, position = reader.mark
    if previous is None:
        return f"position {position:,}"
    return f"snapshot {previous}" if current is None else f"position {position:,} of window {previous} to {current}"


def _as_object(found: Status, name: str) -> dict[str, object]:
    (reader,) = (reader for reader in found.readers if reader.reader == name)
    values = reader._asdict()
    previous, current, position = values.pop("mark")
    backlog = found.backlogs.get(name)
    return {
        **values,
        "checkpoint": {"previous": previous, "current": current, "position": position},
        "backlog": None if backlog is None else backlog.events,
        "oldest": None if backlog is None else backlog.oldest,
    }
