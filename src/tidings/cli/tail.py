"""`tidings tail`: the end of the log, and what is appended to it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

import click

from tidings.cli.command import Command
from tidings.cli.store import Target, on_store, patiently, store_options
from tidings.cli.text import as_json, parsed, safe

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.base import Batch
    from tidings.stores.sql.queries import Event

__all__ = ["tail"]

#: Seconds between two looks at the log.
_PAUSE = 0.5
_PAGE = 500
#: Characters of a payload in a line of text.
_SHOWN = 1000


@click.command(
    cls=Command,
    examples=(
        ("tidings tail -n 5", "the last five events"),
        ("tidings tail --follow --name 'order.*'", "those of orders, as they are committed; Ctrl-C ends it"),
        ("tidings tail --key o-17 --json | jq .data", "one JSON object a line"),
    ),
)
@store_options
@click.option("-n", "count", type=click.IntRange(0, 10_000), default=20, show_default=True, help="How many events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is committed from now on.")
@click.option("--name", metavar="NAME", help="Only events of this name; * stands for anything.")
@click.option("--key", metavar="KEY", help="Only events with this partition key.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object a line.")
def tail(target: Target, count: int, follow: bool, name: str | None, key: str | None, json_: bool) -> None:
    """Print the end of the log, oldest first.

    Payloads are cut after 1,000 characters; --json has them whole. With --name or --key, among the newest 100,000 events. --follow shows
    every event that is committed, also those of transactions that were open for long, which appear with a lower position than the ones
    before, and goes on when the database was away.
    """
    show = _as_line if json_ else _as_text

    async def work(store: SQLStore) -> None:
        from tidings.stores.sql.queries import Queries

        queries = Queries(store.names, store.dialect)
        # The end is taken first: what is committed between the two looks is seen by both, and shown by the first.
        snapshot, position = await store.call(queries.end)
        newest = await store.call(queries.newest, count, name, key) if count else []
        _print(newest, show)
        if follow:
            shown = {event.position for event in newest}
            await _follow(target, store, snapshot, position, lambda event: event.position not in shown and _wanted(event, name, key), show)

    try:
        on_store(target, work)
    except KeyboardInterrupt:
        if not follow:
            raise


async def _follow(
    target: Target,
    store: SQLStore,
    snapshot: str | None,
    position: int,
    wanted: Callable[[Event], bool],
    show: Callable[[Event], str],
) -> None:
    from tidings.stores.base import Mark
    from tidings.stores.sql.queries import event_of

    # The reader's own way through the log: nothing that is committed late is missed.
    mark = Mark(snapshot, None, 0 if snapshot is not None else position)

    async def read() -> Batch:
        return await store.call(store.log.read, mark, _PAGE)

    while True:
        # The mark moves with what was read, and not before: whatever is asked again is neither lost nor printed twice.
        batch = await patiently(target, read, partial(click.echo, err=True))
        mark = batch.end
        _print([event for row in batch.rows if wanted(event := event_of(row))], show)
        if not batch.rows:
            await asyncio.sleep(_PAUSE)


def _print(events: Sequence[Event], show: Callable[[Event], str]) -> None:
    for event in events:
        click.echo(show(event))
    sys.stdout.flush()


def _wanted(event: Event, name: str | None, key: str | None) -> bool:
    # Brackets and question marks stand for themselves, as in the query.
    pattern = None if name is None else name.replace("[", "[[]").replace("?", "[?]")
    return (pattern is None or fnmatchcase(event.name, pattern)) and (key is None or event.key == key)


def _as_text(event: Event) -> str:
    time = "" if event.time is None else event.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    version = "" if event.version is None else f" v{event.version}"
    line = f"{time}  {event.position:>7}  {safe(event.name)}{version}  {safe(event.key) or '-'}  {safe(event.data, limit=_SHOWN)}"
    width = shutil.get_terminal_size().columns
    return line[: width - 1] + "…" if sys.stdout.isatty() and len(line) > width else line


def _as_line(event: Event) -> str:
    values = event._asdict()
    values["headers"] = parsed(event.headers)
    values["data"] = parsed(event.data)
    return as_json(values, indent=None)
