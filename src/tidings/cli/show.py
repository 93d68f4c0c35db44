"""`tidings show`: one event, what is in it, where it went, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from tidings.cli.command import Command, Failed
from tidings.cli.store import Target, on_store, store_options
from tidings.cli.text import as_json, parsed, pretty, safe, when

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.parked import Parked
    from tidings.stores.sql.timeline import Timeline

__all__ = ["show"]

_OUTCOMES = {1: "expired before it was handled", 2: "discarded", 3: "dead, set aside"}


@click.command(
    cls=Command,
    examples=(
        ("tidings show 0199a3f0-5b1c-7cc2-a6d1-3f2a9c01d4e5", "its way, and its payload"),
        ("tidings show 0199a3f0-5b1c-7cc2-a6d1-3f2a9c01d4e5 --json | jq .timeline", "for a script"),
        ("tidings show 4711 --source /legacy/orders", "one that another producer made, whatever its ids look like"),
    ),
)
@store_options
@click.argument("event_id", metavar="EVENT")
@click.option("--source", metavar="PRODUCER", help="Who published it, for an event from elsewhere: the CloudEvents attribute 'source'.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def show(target: Target, event_id: str, source: str | None, json_: bool) -> None:
    """Show one event by its id: when it was published, who has read it, each attempt, how it ended, and its headers and data.

    Of an event that came from elsewhere, through a broker, there is all of it while it is parked ('tidings dead list'). When it is over, there
    remains for whom, when, and which worker handled it.
    """
    wanted = _canonical(event_id)
    if wanted is None and source is None:
        raise click.UsageError(f"{event_id!r} is no UUID, as ids of events of this log are: for one from elsewhere, add --source PRODUCER")
    event_id = wanted or event_id

    async def work(store: SQLStore) -> tuple[Timeline, list[Parked]]:
        from tidings.stores.sql.parked import ParkedQueries
        from tidings.stores.sql.timeline import Timelines

        timeline = await store.call(Timelines(store.names, store.dialect).of, event_id, source)
        parked = await store.call(ParkedQueries(store.names, store.dialect).by_event, event_id)
        return timeline, [item for item in parked if source in (None, item.source)]

    timeline, parked = on_store(target, work)
    if timeline.source is None and _content(timeline, parked) is not None:
        # What else was made in its millisecond is of no interest then.
        timeline = timeline._replace(ended=[])
    if timeline.event is None and timeline.waiting is None and not parked and not timeline.ended:
        more = "" if source is not None else "; if it came from elsewhere, --source PRODUCER finds what the inbox remembers of it"
        raise Failed(f"there is no event {event_id}: it was purged, or never committed here{more}")
    lines = sorted(_lines(timeline, parked), key=lambda line: (line[0] is None, line[0]))
    if json_:
        click.echo(as_json(_as_object(event_id, timeline, parked, lines)))
    else:
        _show(event_id, timeline, parked, lines)


def _canonical(event_id: str) -> str | None:
    try:
        return str(UUID(event_id))
    except ValueError:
        return None


def _lines(timeline: Timeline, parked: list[Parked]) -> Iterator[tuple[datetime | None, str]]:
    if timeline.waiting is not None:
        yield timeline.waiting.event.time, f"scheduled for {when(timeline.waiting.due_at)}"
    event = timeline.event
    if event is not None:
        yield event.time, f"published by {event.source} to topic {event.topic}, position {event.position}"
    # What was set aside dead is parked as well, and may be on its way again.
    held = {delivery.title for delivery in parked}
    over = [item for item in timeline.ended if item.title not in held or item.word != "dead"]
    ended = {item.title for item in over}
    for item in over:
        for attempt in item.attempts:
            yield _failed(attempt, item.title)
        by = "" if item.worker is None else f" by {item.worker}"
        yield item.at, f"{_OUTCOMES.get(item.outcome, item.word)} for {item.title}{by}"
    for delivery in parked:
        if delivery.title in ended:
            continue
        for attempt in delivery.history:
            if isinstance(attempt, dict):
                yield _failed(attempt, delivery.title)
        if delivery.state == "waiting":
            state = f"waits behind event {delivery.head} of its key"
        elif delivery.state == "dead":
            state = "is dead: 'tidings dead redrive' lets it be tried again"
        else:
            state = f"is tried again at {when(delivery.due_at)}"
        yield None, f"{delivery.title}: {state} (delivery {delivery.number})"
    for reader in timeline.passed:
        if reader.group.startswith("relay:"):
            # A relay sends what its own service has published.
            if event is None or reader.service == event.source:
                yield None, f"{reader.group} has {'sent it, or parked it' if reader.passed else 'not sent it yet'}"
        else:
            yield None, f"group {reader.group} of {reader.service} has {'read it' if reader.passed else 'not read it to its end yet'}"


def _failed(attempt: dict[str, Any], label: str) -> tuple[datetime | None, str]:
    by = f" in {attempt['worker']}" if "worker" in attempt else ""
    return _time(attempt.get("at")), f"attempt {attempt.get('attempt', '?')} of {label} failed{by}: {attempt.get('error', '')}"


def _show(event_id: str, timeline: Timeline, parked: list[Parked], lines: list[tuple[datetime | None, str]]) -> None:
    found = _content(timeline, parked)
    if found is None:
        click.echo(f"event {safe(event_id)}{'' if timeline.source is None else f' of {safe(timeline.source)}'}: {_note(timeline)}")
        _show_lines(lines)
        return
    version = "" if found.version is None else f" v{found.version}"
    click.echo(f"{safe(found.name)}{version}, key {safe(found.key) or '-'}")
    _show_lines(lines)
    for title, content in (("headers", found.headers), ("data", found.data)):
        text = pretty(content if isinstance(content, bytes) else content.encode())
        click.echo(f"\n{title}")
        for line in text.rstrip().split("\n"):
            click.echo(f"  {line}")


def _show_lines(lines: list[tuple[datetime | None, str]]) -> None:
    click.echo("\ntimeline")
    for time, line in lines:
        click.echo(f"  {when(time) or 'now':<19}  {safe(line)}")


def _content(timeline: Timeline, parked: list[Parked]) -> Any:
    """Return what has the event's data, or None."""
    return timeline.event or (timeline.waiting.event if timeline.waiting is not None else parked[0] if parked else None)


def _note(timeline: Timeline) -> str:
    """Say what it means that only the inbox knows of an event."""
    if timeline.source is not None:
        return "it is over, and came from elsewhere or was purged; the inbox remembers for whom"
    return "neither in the log nor parked; these events have an id of the same millisecond, and --source PRODUCER says whether it is one of them"


def _as_object(
    event_id: str, timeline: Timeline, parked: list[Parked], lines: list[tuple[datetime | None, str]]
) -> dict[str, Any]:  # fmt: skip
    found = _content(timeline, parked)
    timed = [{"at": time, "what": what} for time, what in lines]
    if found is None:
        return {
            "id": event_id, "source": timeline.source, "certain": timeline.source is not None, "note": _note(timeline), "timeline": timed,
            "readers": [], "ended": [item._asdict() for item in timeline.ended], "parked": [],
        }  # fmt: skip
    return {
        "id": timeline.event.id if timeline.event is not None else str(getattr(found, "event_id", None) or found.id),
        "name": found.name, "version": found.version, "topic": found.topic, "key": found.key, "source": found.source,
        "headers": _json(found.headers), "data": _json(found.data),
        "timeline": timed,
        "readers": [reader._asdict() for reader in timeline.passed], "ended": [item._asdict() for item in timeline.ended],
        "parked": [item.number for item in parked],
    }  # fmt: skip


def _json(content: str | bytes) -> Any:
    try:
        return parsed(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "backslashreplace") if isinstance(content, bytes) else content


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
