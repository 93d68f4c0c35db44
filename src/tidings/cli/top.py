"""`tidings top`: rates, backlog and failures, refreshed until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from tidings.cli.command import Command
from tidings.cli.store import Target, on_store, patiently, store_options
from tidings.cli.table import console
from tidings.cli.text import counted, duration, safe
from tidings.observability.status import gather, is_inbound, is_relay, many

if TYPE_CHECKING:
    from rich.console import Group

    from tidings.observability.status import Status
    from tidings.stores import SQLStore
    from tidings.stores.sql.queries import Activity

__all__ = ["top"]

#: What rates are taken over: counts arrive every ten seconds.
_PAST = timedelta(seconds=60)


@click.command(
    cls=Command,
    examples=(
        ("tidings top", "until Ctrl-C"),
        ("tidings top --every 10 --service shop.app:service", "more slowly"),
        ("tidings top --once", "one look, also through a pipe"),
    ),
)
@store_options
@click.option("--every", type=click.FloatRange(0.5, 3600), default=2.0, show_default=True, metavar="SECONDS", help="Between two looks.")
@click.option("--once", is_flag=True, help="Look once; the default where the output is no terminal.")
def top(target: Target, every: float, once: bool) -> None:
    """Show what happens now: events a second, lag and handler duration over the last minute, backlog, retries, dead events.

    Counts of running services arrive every ten seconds.
    """

    async def work(store: SQLStore) -> None:
        screen = console()
        if once or not screen.is_terminal:
            if not screen.is_terminal:
                # Nothing is cut off through a pipe.
                screen.width = 160
            screen.print(_view(*await _look(store), target))
            return
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        view = _view(*await _look(store), target)
        with Live(view, console=screen, screen=True, auto_refresh=False) as live:

            def away(message: str) -> None:
                # What was seen last stays below it.
                live.update(Group(Text(safe(message), style="bold red"), view), refresh=True)

            while True:
                await asyncio.sleep(every)
                view = _view(*await patiently(target, lambda: _look(store), away), target)
                live.update(view, refresh=True)

    try:
        on_store(target, work)
    except KeyboardInterrupt:
        return


async def _look(store: SQLStore) -> tuple[Status, Sequence[Activity]]:
    from tidings.stores.sql.queries import Queries

    status = await gather(store)
    return status, await store.call(Queries(store.names, store.dialect).activity, _PAST)


def _view(status: Status, activity: Sequence[Activity], target: Target) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    counts = {(item.service, item.subject, item.measure): item.total for item in activity}
    published = sum(item.total for item in activity if (item.subject, item.measure) == ("", "published"))

    def rate(total: int) -> str:
        value = total / _PAST.total_seconds()
        return f"{value:,.0f}/s" if value >= 10 or not value else f"{value:.1f}/s"

    def table(title: str, *columns: str) -> Table:
        made = Table(
            title=title, box=None, title_justify="left", title_style="bold", header_style="dim", padding=(0, 2, 0, 0), pad_edge=False
        )
        for number, column in enumerate(columns):
            made.add_column(
                column, justify="left" if not number else "right", overflow="fold" if not number else "ellipsis", no_wrap=bool(number)
            )
        return made

    readers = table("Readers", "reader", "backlog", "oldest", "received")
    for reader in status.readers:
        if reader.reader in status.backlogs:
            from tidings.stores.sql.queries import COUNTED

            backlog = status.backlogs[reader.reader]
            age = "" if backlog.oldest is None else duration(status.now - backlog.oldest)
            came = rate(counts.get((reader.service, reader.group, "relayed" if is_relay(reader) else "received"), 0))
            readers.add_row(Text(safe(reader.reader)), counted(backlog.events, COUNTED), age, came)
    names = ("handled", "failed", "lag p50", "lag p99", "took p50", "took p99", "retrying", "dead", "waiting")
    work = table("Subscriptions and relays, over the last minute", "subscription", *names)
    for item in status.subscriptions:
        if item.state == "retired" or is_inbound(item):
            continue
        what = item.service, item.label
        dead = Text(f"{item.dead:,}", style="bold red" if item.dead else "")
        closed = item.breaker in (None, "closed") and item.state == "active"
        name = Text(safe(item.title), style="" if closed else "yellow")
        if not closed:
            name.append(f" ({item.state if item.state != 'active' else item.breaker})")
        work.add_row(
            name, rate(counts.get((*what, "relayed" if is_relay(item) else "handled"), 0)), rate(counts.get((*what, "failed"), 0)),
            *(_bound(counts, what, histogram, share) for histogram in ("lag", "took") for share in (0.5, 0.99)),
            f"{item.retrying:,}", dead, f"{item.waiting:,}",
        )  # fmt: skip
    alive = sum(worker.alive for worker in status.workers)
    time = status.now.astimezone().strftime("%H:%M:%S")
    head = Text(f"{safe(target.describe())}  {time}  published {rate(published)}  {many(alive, 'worker', 'workers')} alive")
    well = (
        [Text("all is well", style="green")]
        if not status.problems
        else [Text(f"- {safe(each)}", style="red") for each in status.problems[:10]]
    )
    return Group(head, Text(), readers, Text(), work, Text(), *well)


def _bound(counts: dict[tuple[str, str, str], int], what: tuple[str, str], histogram: str, share: float) -> str:
    from tidings.consume.counters import bound_names, percentile

    found = percentile({name: counts.get((*what, f"{histogram}:{name}"), 0) for name in bound_names()}, share)
    if found is None:
        return ""
    if found == float("inf"):
        return "> 60 s"
    return f"≤ {found * 1000:.0f} ms" if found < 1 else f"≤ {found:.0f} s"
