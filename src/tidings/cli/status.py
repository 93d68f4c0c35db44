"""`tidings status`: one screen that says whether all is well."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from tidings.cli.command import NOT_WELL, Command
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.table import Cell, show_table
from tidings.cli.text import as_json, counted, duration, safe
from tidings.observability.status import Status, gather, is_inbound, is_relay

if TYPE_CHECKING:
    from tidings.stores.sql.queries import Reader, Subscription

__all__ = ["status"]

#: Most characters of an error in a table.
_ERROR = 60

_MEASURES = ("handled", "failed", "duplicates")


@click.command(
    cls=Command,
    examples=(
        ("tidings status", "exit code 0 when all is well, 1 when something has to be done"),
        ("watch -n 2 tidings status --service shop.app:service", "every two seconds"),
        ("tidings status --json | jq '.readers[].backlog'", "for a script"),
    ),
)
@store_options
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def status(target: Target, json_: bool) -> None:
    """Say whether all is well: readers and their backlog, subscriptions, what is scheduled, workers.

    Not well is: a key that is blocked by a dead event; a backlog that nobody reads, or that does not get smaller; a group that
    nobody receives for from its broker; keys or scheduled events that are overdue. Counts end at 100,000.
    """
    found = on_store(target, gather)
    if json_:
        click.echo(as_json(_as_object(found)))
    else:
        _show(found, target)
    if found.problems:
        click.get_current_context().exit(NOT_WELL)


def _show(found: Status, target: Target) -> None:
    from tidings.stores.sql.queries import COUNTED

    click.echo(f"{safe(target.describe())}, schema version {found.schema_version}\n")
    show_table(
        ("group", "service", "state", "backlog", "oldest", "owner", "lease", "moved"),
        [
            (
                reader.group, reader.service, reader.state, counted(found.backlogs[reader.reader].events, COUNTED)
                if reader.reader in found.backlogs else "", _age(found, found.backlogs[reader.reader].oldest)
                if reader.reader in found.backlogs else "", _owner(reader), _lease(reader, found.now), _age(found, reader.moved_at),
            )
            for reader in found.readers
            if reader.kind == "log" and not is_relay(reader)
        ],
        right=("backlog", "oldest", "lease", "moved"),
        title="Readers",
    )  # fmt: skip
    recent = {(item.service, item.subject, item.measure): item.total for item in found.activity}
    show_table(
        ("subscription", "service", "state", "breaker", "retrying", "dead", "waiting", "blocked", *_MEASURES),
        [
            (
                item.label, item.service, item.state, _breaker(found, item), Cell(f"{item.retrying:,}", "yellow" if item.retrying else ""),
                Cell(f"{item.dead:,}", "bold red" if item.dead else ""), f"{item.waiting:,}", _age(found, item.blocked_since),
                *(f"{recent.get((item.service, item.label, measure), 0):,}" for measure in _MEASURES),
            )
            for item in found.subscriptions
            if item.state != "retired" and not is_relay(item) and not is_inbound(item)
        ],
        right=("retrying", "dead", "waiting", "blocked", *_MEASURES),
        title="Subscriptions (handled, failed, duplicates: in the last 15 minutes)",
    )  # fmt: skip
    _show_brokers(found)
    _show_inbound(found, recent)
    _show_relays(found, recent)
    alive = [worker for worker in found.workers if worker.alive]
    show_table(
        ("service", "host", "pid", "roles", "version", "started", "seen"),
        [
            (item.service, item.host, item.pid, item.roles, item.version, _age(found, item.started_at), _age(found, item.seen_at))
            for item in alive
        ],
        right=("pid", "started", "seen"),
        title="Workers",
    )
    _show_rest(found)


def _show_brokers(found: Status) -> None:
    if found.brokers:
        show_table(
            ("broker", "service", "kind", "address", "state", "for", "last error", "ago"),
            [
                (
                    item.name, item.service, item.kind, safe(item.address),
                    Cell(item.state, {"down": "bold red", "connected": ""}.get(item.state, "yellow")), _age(found, item.since),
                    safe((item.error or "")[:_ERROR]), _age(found, item.error_at),
                )
                for item in found.brokers
            ],
            right=("for", "ago"),
            title="Brokers",
        )  # fmt: skip


def _show_relays(found: Status, recent: dict[tuple[str, str, str], int]) -> None:
    from tidings.stores.sql.queries import COUNTED

    readers = {(reader.service, reader.group): reader for reader in found.readers if reader.kind == "log"}
    relays = [(item, readers.get((item.service, item.group))) for item in found.subscriptions if is_relay(item) and item.state != "retired"]
    if not relays:
        return
    show_table(
        ("relay", "service", "broker", "backlog", "oldest", "retrying", "dead", "waiting", "sent", "owner", "moved"),
        [
            (
                item.label, item.service, _broker(found, item),
                counted(found.backlogs[reader.reader].events, COUNTED) if reader is not None and reader.reader in found.backlogs else "",
                _age(found, found.backlogs[reader.reader].oldest) if reader is not None and reader.reader in found.backlogs else "",
                Cell(f"{item.retrying:,}", "yellow" if item.retrying else ""), Cell(f"{item.dead:,}", "bold red" if item.dead else ""),
                f"{item.waiting:,}", f"{recent.get((item.service, item.label, 'relayed'), 0):,}", "" if reader is None else _owner(reader),
                "" if reader is None else _age(found, reader.moved_at),
            )
            for item, reader in relays
        ],
        right=("backlog", "oldest", "retrying", "dead", "waiting", "sent", "moved"),
        title="Relays (sent: in the last 15 minutes)",
    )  # fmt: skip


def _show_inbound(found: Status, recent: dict[tuple[str, str, str], int]) -> None:
    inbound = [item for item in found.subscriptions if is_inbound(item) and item.state != "retired"]
    if inbound:
        show_table(
            ("inbound", "service", "broker", "dead", "gaps", "reader"),
            [
                (
                    item.label, item.service, _broker(found, item), Cell(f"{item.dead:,}", "bold red" if item.dead else ""),
                    f"{recent.get((item.service, item.label, 'gaps'), 0):,}",
                    "" if (reader := _inbound_reader(found, item)) is None else "each" if reader.kind == "queue" else _owner(reader),
                )
                for item in inbound
            ],
            right=("dead", "gaps"),
            title="Inbound (dead: messages that nobody understands; gaps: in the last 15 minutes)",
        )  # fmt: skip


def _inbound_reader(found: Status, item: Subscription) -> Reader | None:
    from tidings.stores.sql.queries import INBOUND

    name = f"{item.service}/{item.group}@{item.name.removeprefix(INBOUND)}"
    return next((reader for reader in found.readers if reader.reader == name), None)


def _broker(found: Status, item: Subscription) -> Cell:
    from tidings.stores.sql.brokers import state_of

    state = state_of(item)
    if state == "down":
        return Cell(f"down {_age(found, item.breaker_since)}", "bold red")
    return Cell(state, "" if state == "connected" else "yellow")


def _show_rest(found: Status) -> None:
    from tidings.stores.sql.queries import COUNTED

    due = found.scheduled.next_due
    when = "" if due is None else f", the next one {'is due in ' + duration(due - found.now) if due > found.now else 'is due'}"
    click.echo(f"scheduled: {counted(found.scheduled.events, COUNTED)}{when}")
    if not found.problems:
        click.secho("all is well", fg="green")
        return
    click.secho("not well:", fg="red", bold=True)
    for problem in found.problems:
        click.echo(f"- {safe(problem)}")


def _age(found: Status, time: datetime | None) -> str:
    return "" if time is None else duration(found.now - time)


def _breaker(found: Status, item: Subscription) -> Cell:
    if item.breaker is None or item.breaker == "closed":
        return Cell(item.breaker or "")
    return Cell(f"{item.breaker} {_age(found, item.breaker_since)}", "bold red" if item.breaker == "open" else "yellow")


def _owner(reader: Reader) -> str:
    if reader.owner is None:
        return "nobody"
    return f"{reader.host}:{reader.pid}" if reader.host is not None else f"worker {reader.owner[-12:]}"


def _lease(reader: Reader, now: datetime) -> Cell:
    if reader.owner is None or reader.lease_until is None:
        return Cell("")
    left = reader.lease_until - now
    return Cell(f"{duration(left)} left") if left.total_seconds() >= 0 else Cell(f"ended {duration(-left)} ago", "red")


def _as_object(found: Status) -> dict[str, object]:
    from tidings.stores.sql.brokers import state_of

    recent = {(item.service, item.subject, item.measure): item.total for item in found.activity}
    readers = []
    for reader in found.readers:
        values = reader._asdict()
        del values["mark"]
        if (backlog := found.backlogs.get(reader.reader)) is not None:
            values |= {"backlog": backlog.events, "oldest": backlog.oldest}
        readers.append(values)
    relays = [
        {
            "relay": item.label,
            "service": item.service,
            "broker": state_of(item),
            "since": item.breaker_since,
            "reason": item.breaker_reason,
            "retrying": item.retrying,
            "dead": item.dead,
            "waiting": item.waiting,
            "sent": recent.get((item.service, item.label, "relayed"), 0),
        }
        for item in found.subscriptions
        if is_relay(item) and item.state != "retired"
    ]
    inbound = [
        {
            "inbound": item.label,
            "service": item.service,
            "group": item.group,
            "broker": state_of(item),
            "since": item.breaker_since,
            "reason": item.breaker_reason,
            "dead": item.dead,
            "gaps": recent.get((item.service, item.label, "gaps"), 0),
        }
        for item in found.subscriptions
        if is_inbound(item) and item.state != "retired"
    ]
    subscriptions = [
        {**item._asdict(), "recently": {measure: recent.get((item.service, item.label, measure), 0) for measure in _MEASURES}}
        for item in found.subscriptions
    ]
    return {
        "well": not found.problems,
        "problems": found.problems,
        "time": found.now,
        "schema_version": found.schema_version,
        "readers": readers,
        "brokers": [{**broker._asdict(), "links": [link._asdict() for link in broker.links]} for broker in found.brokers],
        "inbound": inbound,
        "relays": relays,
        "subscriptions": subscriptions,
        "scheduled": found.scheduled,
        "workers": list(found.workers),
    }
