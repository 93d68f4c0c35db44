"""Putting things right: `tidings dead redrive|discard`, `tidings keys`, `tidings subscriptions pause|resume`, `tidings replay`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from tidings.cli.acting import operations
from tidings.cli.command import Command, Failed
from tidings.cli.confirm import confirmed
from tidings.cli.loading import load_service
from tidings.cli.progress import progress
from tidings.cli.store import Target, failed, on_store, require_subscription, store_options
from tidings.cli.table import Cell, show_table
from tidings.cli.text import as_json, when
from tidings.cli.urls import masked
from tidings.observability.status import many

if TYPE_CHECKING:
    from tidings.consume.replay import Progress
    from tidings.operations import Matched
    from tidings.stores import SQLStore
    from tidings.stores.sql.repair import BlockedKey, Standing

__all__ = ["discard", "keys", "pause", "redrive", "replay", "resume"]

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which events are meant, by the heads of their keys, as arguments `filters` and `of`."""

    @click.option("--id", "number", type=int, metavar="ID", help="The one with this id in 'tidings dead list' or 'tidings keys blocked'.")
    @click.option("--event-id", metavar="UUID", help="The one with this event id.")
    @click.option("--subscription", metavar="NAME", help="Of this subscription: name, or group/name.")
    @click.option("--of", metavar="SERVICE", help="Of this service.")
    @click.option("--event", metavar="NAME", help="Events of this name.")
    @click.option("--key", metavar="KEY", help="Of this partition key.")
    @click.option("--fingerprint", metavar="HEX", help="With this kind of error; 'tidings dead show' has it.")
    @click.option("--since", type=click.DateTime(_TIMES), help="Whose last attempt was then or later (UTC).")
    @click.option("--until", type=click.DateTime(_TIMES), help="Whose last attempt was before (UTC).")
    @click.option("--all", "everything", is_flag=True, help="All of them.")
    @functools.wraps(function)
    def command(everything: bool, of: str | None, since: datetime | None, until: datetime | None, **rest: Any) -> Any:
        names = ("number", "event_id", "subscription", "event", "key", "fingerprint")
        filters: dict[str, Any] = {name: rest.pop(name) for name in names}
        filters |= {"since": _utc(since), "until": _utc(until)}
        if not everything and of is None and all(value is None for value in filters.values()):
            raise click.UsageError("say which events: an option that chooses some, or --all")
        return function(filters=filters, of=of, **rest)

    return command


@click.command(
    cls=Command,
    examples=(
        ("tidings dead redrive --subscription billing/charge --dry-run", "how many keys and events that would be"),
        ("tidings dead redrive --fingerprint 3f2a9c01d4e5b677 --rate 10", "all with one kind of error, ten keys a second"),
    ),
)
@store_options
@_filters
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="So many keys a second; without: all at once.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def redrive(target: Target, filters: dict[str, Any], of: str | None, rate: float | None, dry_run: bool, yes: bool) -> None:
    """Let dead events be tried again, each key in order from its dead head.

    Events that were set aside (on_dead="continue") come back out of order: their keys have gone on without them.
    """
    found = _count(target, filters, of)
    if dry_run or not found.lanes:
        click.echo(_counted(found))
        return
    confirmed(f"Redrive {_counted(found)}?", yes)
    with progress("redriving keys", found.lanes) as show:
        done = on_store(target, lambda store: operations(store, of).redrive(**filters, rate=rate, progress=show))
    click.echo(f"redrove {many(done, 'key', 'keys')}")


def _counted(found: Matched) -> str:
    return f"{many(found.lanes, 'dead key', 'dead keys')} with {many(found.events, 'event', 'events')}"


@click.command(
    cls=Command,
    examples=(("tidings dead discard --id 17 --reason 'test order'", "the key of that event goes on without it"),),
)
@store_options
@_filters
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is logged.")
@click.option("--whole-key", is_flag=True, help="Also what waits behind them.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard(target: Target, filters: dict[str, Any], of: str | None, reason: str, whole_key: bool, dry_run: bool, yes: bool) -> None:
    """Give dead events up, and let what waits behind them go on. They are not handled any more, whoever sends them again."""
    _discard(target, filters, of, "dead", reason, whole_key, dry_run, yes)


def _discard(
    target: Target, filters: dict[str, Any], of: str | None, state: Literal["dead", "retrying"], reason: str, whole_key: bool, dry_run: bool,
    yes: bool,
) -> None:  # fmt: skip
    found = _count(target, filters, of, "dead" if state == "dead" else "idle")
    number = found.events if whole_key else found.lanes
    if dry_run or not number:
        click.echo(many(number, "event", "events"))
        return
    confirmed(f"Discard {many(number, 'event', 'events')} for good?", yes)
    with progress("discarding events", number) as show:
        done = on_store(
            target, lambda store: operations(store, of).discard(reason=reason, whole=whole_key, state=state, progress=show, **filters)
        )
    click.echo(f"discarded {many(done, 'event', 'events')}")


@click.group()
def keys() -> None:
    """Keys that wait behind a failed event."""


@keys.command(cls=Command, examples=(("tidings keys blocked --state dead", "those that nobody tries again by itself"),))
@store_options
@click.option("--subscription", metavar="NAME", help="Only of this subscription: name, or group/name.")
@click.option("--of", metavar="SERVICE", help="Only of this service.")
@click.option("--key", metavar="KEY", help="Only this partition key.")
@click.option("--state", type=click.Choice(["retrying", "dead"]), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def blocked(target: Target, subscription: str | None, of: str | None, key: str | None, state: str | None, limit: int, json_: bool) -> None:
    """List blocked keys with the error of their head, the longest blocked first, and how many events wait behind it."""

    async def work(store: SQLStore) -> list[BlockedKey]:
        await require_subscription(store, subscription, of)
        return await operations(store, of).blocked(subscription=subscription, state=state, key=key, limit=limit)

    found = on_store(target, work)
    if json_:
        click.echo(as_json([item._asdict() for item in found]))
        return
    if not found:
        click.echo("no blocked keys")
        return
    show_table(
        ("subscription", "service", "key", "state", "waiting", "attempts", "blocked since", "id", "event", "error"),
        [
            (
                item.subscription, item.service, item.key, item.state, item.depth - 1, item.attempts, when(_time(item.blocked_at)), item.number, item.event,
                Cell(item.error or item.reason, "red"),
            )
            for item in found
        ],
        right=("waiting", "attempts", "id"),
    )  # fmt: skip


@keys.command(
    "try-now",
    cls=Command,
    examples=(
        ("tidings keys try-now --subscription billing/charge --dry-run", "how many keys wait for another attempt"),
        ("tidings keys try-now --key order-17", "the bank answers again: do not wait for the delay"),
    ),
)
@store_options
@_filters
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def try_now(target: Target, filters: dict[str, Any], of: str | None, dry_run: bool, yes: bool) -> None:
    """Try keys that wait for another attempt at once, without their delay. It is their next attempt, not one more.

    Dead ones are tried again by 'tidings dead redrive'.
    """
    found = _count(target, filters, of, "retrying")
    if dry_run or not found.lanes:
        click.echo(f"{many(found.lanes, 'key waits', 'keys wait')} for another attempt, with {many(found.events, 'event', 'events')}")
        return
    confirmed(f"Try {many(found.lanes, 'key', 'keys')} now?", yes)
    with progress("keys that are tried now", found.lanes) as show:
        done = on_store(target, lambda store: operations(store, of).try_now(**filters, progress=show))
    click.echo(many(done, "key is tried now", "keys are tried now"))


@keys.command(
    "discard",
    cls=Command,
    examples=(("tidings keys discard --id 17 --reason 'the shop was closed'", "do not try it again; its key goes on without it"),),
)
@store_options
@_filters
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is logged.")
@click.option("--whole-key", is_flag=True, help="Also what waits behind them.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def discard_waiting(
    target: Target, filters: dict[str, Any], of: str | None, reason: str, whole_key: bool, dry_run: bool, yes: bool
) -> None:
    """Give up events that would be tried again, and let what waits behind them go on. They are not handled any more, whoever sends them again.

    What is being tried at this moment is left alone. Dead ones are given up by 'tidings dead discard'.
    """
    _discard(target, filters, of, "retrying", reason, whole_key, dry_run, yes)


@click.command(cls=Command, examples=(("tidings subscriptions pause billing/charge --of shop", "until 'resume', across restarts"),))
@store_options
@click.argument("name", metavar="GROUP/NAME")
@click.option("--of", metavar="SERVICE", required=True, help="Of this service.")
def pause(target: Target, name: str, of: str) -> None:
    """Let a subscription take no more events, across restarts, until it is resumed. Its events stay in the log."""
    _pause(target, name, of, paused=True)


@click.command(cls=Command, examples=(("tidings subscriptions resume billing/charge --of shop", "within a second"),))
@store_options
@click.argument("name", metavar="GROUP/NAME")
@click.option("--of", metavar="SERVICE", required=True, help="Of this service.")
def resume(target: Target, name: str, of: str) -> None:
    """Let a paused subscription go on."""
    _pause(target, name, of, paused=False)


@click.command(
    cls=Command,
    examples=(
        ("tidings replay shop.app:service --subscription billing --name fix-42 --from 2026-11-01", "since then, for one subscription"),
        ("tidings replay shop.app:service --subscription billing --name fix-42", "again with the same name: goes on where it stopped"),
    ),
)
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option("--subscription", required=True, metavar="NAME", help="The subscription: name, or group/name.")
@click.option("--name", required=True, metavar="NAME", help="What the replay is resumed by.")
@click.option("--from", "since", type=click.DateTime(_TIMES), help="Published then or later (UTC).")
@click.option("--to", "until", type=click.DateTime(_TIMES), help="Published before (UTC).")
@click.option("--key", metavar="KEY", help="Only of this partition key.")
@click.option("--app-dir", default=".", metavar="DIR", show_default=True, help="Where to import from.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay(
    target: str, subscription: str, name: str, since: datetime | None, until: datetime | None, key: str | None, app_dir: str, yes: bool
) -> None:
    """Handle part of the log again for one subscription, on purpose although it has been handled.

    The log is read up to where it is now. An ordered subscription is paused meanwhile; what fails is parked like any other failure.
    """
    confirmed(f"Handle events again for {subscription}?", yes)
    result = asyncio.run(_replay(target, app_dir, subscription, name, _utc(since), _utc(until), key))
    click.echo(f"handled {result.handled:,} events again, {result.failed:,} failed")
    if result.failed:
        raise Failed("what failed is parked: 'tidings keys blocked' lists it")


async def _replay(
    target: str, app_dir: str, subscription: str, name: str, since: datetime | None, until: datetime | None, key: str | None
) -> Progress:
    service = await load_service(target, app_dir)

    last: Progress | None = None

    def in_lines(_done: int, _total: int | None = None) -> None:
        assert last is not None
        click.echo(f"position {last.position:,} of {last.end:,}: {last.handled:,} handled, {last.failed:,} failed", err=True)

    try:
        with progress("reading the log again", 0, in_lines) as told:

            def show(now: Progress) -> None:
                nonlocal last
                last = now
                told(now.position, now.end)

            return await service.replay(subscription, name=name, since=since, until=until, key=key, progress=show)
    except Exception as error:
        url = service.store.connections.sync_engine.url
        raise failed(error, masked(url), url.password) from error
    finally:
        service.store.close()


def _count(target: Target, filters: dict[str, Any], of: str | None, state: Standing = "dead") -> Matched:
    async def work(store: SQLStore) -> Matched:
        await require_subscription(store, filters["subscription"], of)
        return await operations(store, of).count(**filters, state=state)

    return on_store(target, work)


def _pause(target: Target, name: str, of: str, *, paused: bool) -> None:
    async def work(store: SQLStore) -> bool:
        found = operations(store, of)
        return await (found.pause if paused else found.resume)(name)

    if not on_store(target, work):
        raise Failed(f"service {of!r} has no subscription {name!r} that is not retired: 'tidings subscriptions list' lists them")
    click.echo(f"{'paused' if paused else 'resumed'} {name} of service {of}")


def _utc(value: datetime | None) -> datetime | None:
    return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


def _time(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value
