"""`tidings dead`: events that could not be handled, kept with their reason until someone decides."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from tidings.cli.command import Command, Failed
from tidings.cli.store import Target, on_store, require_subscription, store_options
from tidings.cli.table import Cell, show_table
from tidings.cli.text import as_json, parsed, pretty, safe, when

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.parked import Parked

__all__ = ["dead"]


@click.group()
def dead() -> None:
    """Events that could not be handled, and what waits behind them."""


@dead.command(
    "list",
    cls=Command,
    examples=(
        ("tidings dead list", "the newest, one for each blocked key"),
        ("tidings dead list --subscription billing/charge --json", "for a script: an array of objects"),
    ),
)
@store_options
@click.option("--subscription", metavar="NAME", help="Only of this subscription: name, or group/name.")
@click.option("--of", metavar="SERVICE", help="Only of this service.")
@click.option("--event", metavar="NAME", help="Only events of this name.")
@click.option("--key", metavar="KEY", help="Only of this partition key.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many, the newest.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def list_(target: Target, subscription: str | None, of: str | None, event: str | None, key: str | None, limit: int, json_: bool) -> None:
    """List dead events, newest first.

    A dead event blocks its key in its subscription: what comes later with that key waits behind it, in order. Everything else goes on.
    """

    async def work(store: SQLStore) -> list[Parked]:
        from tidings.stores.sql.parked import ParkedQueries

        await require_subscription(store, subscription, of)
        # One more than is shown says that there are more.
        return await store.call(ParkedQueries(store.names, store.dialect).dead, limit + 1, subscription, event, key, of)

    found = on_store(target, work)
    shown = found[:limit]
    if json_:
        click.echo(as_json([_as_object(item, full=False) for item in shown]))
        return
    if not shown:
        click.echo("no dead events")
        return
    show_table(
        ("id", "subscription", "service", "event", "key", "attempts", "waiting", "failed at", "error"),
        [
            (
                item.number, item.label, item.service, _event(item), item.key, item.attempts, item.depth - 1, when(item.failed_at)[5:16],
                Cell(_error(item), "red"),
            )
            for item in shown
        ],
        right=("id", "attempts", "waiting"),
    )  # fmt: skip
    if len(found) > limit:
        click.echo(f"and more: --limit shows more than {limit}", err=True)


@dead.command(
    cls=Command,
    examples=(
        ("tidings dead show 17", "by the id that `tidings dead list` prints"),
        ("tidings dead show 01a1fdd5-3c23-733d-8027-1459f0e17dcd", "by the event's id, for every subscription that has it parked"),
    ),
)
@store_options
@click.argument("id_", metavar="ID|EVENT_ID")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def show(target: Target, id_: str, json_: bool) -> None:
    """Show a parked event in full: data, headers, error, traceback and the last ten attempts."""

    async def work(store: SQLStore) -> list[Parked]:
        from tidings.stores.sql.parked import ParkedQueries

        queries = ParkedQueries(store.names, store.dialect)
        if id_.isascii() and id_.isdigit() and len(id_) < 19:
            return await store.call(queries.by_number, int(id_))
        return await store.call(queries.by_event, _event_id(id_))

    found = on_store(target, work)
    if not found:
        raise Failed(f"no parked event has the id {id_!r}: 'tidings dead list' lists what is dead")
    if json_:
        click.echo(as_json([_as_object(item, full=True) for item in found]))
        return
    for item in found:
        _show(item)


def _show(item: Parked) -> None:
    state = item.state if item.state != "waiting" else f"waiting behind {item.head}"
    behind = item.depth - 1 if item.number == item.head else 0
    sequence = "" if item.sequence is None else f", sequence {item.sequence}"
    facts = (
        ("id", item.number),
        ("state", f"{state}, {behind} waiting behind it" if behind else state),
        ("next attempt", when(item.due_at) if item.state == "retrying" else None),
        ("subscription", f"{item.label} of service {item.service}"),
        ("event", f"{_event(item)}, {item.event_id}"),
        ("published", f"{when(item.time)} by {item.source}, topic {item.topic}{sequence}"),
        ("key", item.key),
        ("parked", f"{when(item.parked_at)}, reason: {item.reason}"),
        ("attempts", item.attempts),
    )
    for label, value in facts:
        if value is not None:
            click.echo(f"{label + ':':<14}{safe(value)}")
    _section("data", pretty(item.data))
    _section("headers", pretty(item.headers))
    if item.error_type is not None:
        text = f"{item.error_type}: {item.error_message}\n"
        _section("error", safe(text, lines=True))
        _section("traceback", safe(item.traceback, lines=True))
    lines = [
        f"{attempt.get('attempt', '?')}  {attempt.get('at', '?')}  {attempt.get('error', '')}"
        for attempt in item.history
        if isinstance(attempt, dict)
    ]
    _section("history", "\n".join(map(safe, lines)))
    click.echo()


def _section(title: str, text: str) -> None:
    if text.strip():
        click.echo(f"\n{title}")
        for line in text.rstrip().split("\n"):
            click.echo(f"  {line}")


def _event(item: Parked) -> str:
    return item.name if item.version is None else f"{item.name} v{item.version}"


def _error(item: Parked) -> str:
    if item.error_type is None:
        return item.reason
    line = f"{item.error_type.rpartition('.')[2]}: {(item.error_message or '').partition(chr(10))[0]}"
    return line if len(line) <= 120 else line[:119] + "…"


def _event_id(given: str) -> str:
    try:
        return str(UUID(given))
    except ValueError:
        return given


def _as_object(item: Parked, *, full: bool) -> dict[str, Any]:
    values = item._asdict()
    headers, data = values.pop("headers"), values.pop("data")
    if not full:
        for name in ("traceback", "history"):
            del values[name]
        return {**values, "waiting_behind": item.depth - 1}
    return {**values, "headers": _json_or_text(headers), "data": _json_or_text(data)}


def _json_or_text(raw: bytes) -> Any:
    """Return what JSON bytes say, else the text, else `{"base64": …}`."""
    try:
        return parsed(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
