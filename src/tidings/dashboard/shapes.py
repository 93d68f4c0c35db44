"""What the JSON API answers with, as values: their fields are the document's schemas."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from tidings.dashboard.charts import Chart, Charts
from tidings.dashboard.desk import ReaderState, WorkerState
from tidings.dashboard.payload import Redaction, Shown, hide
from tidings.dashboard.story import Step, Story, ended_steps
from tidings.stores.sql.audit import Entry
from tidings.stores.sql.parked import Parked
from tidings.stores.sql.remembered import Found
from tidings.stores.sql.views import LogRow
from tidings.stores.sql.views_keys import KeyRow
from tidings.stores.sql.views_parked import FailedRow, Group, Waiting

__all__ = [
    "AuditPage",
    "Charted",
    "Delivery",
    "Ending",
    "EventStory",
    "FailureGroups",
    "FailureList",
    "KeyPage",
    "Page",
    "Payload",
    "Result",
    "ScheduledEvent",
    "ScheduledPage",
    "Task",
    "Workers",
    "charted",
    "delivery_of",
    "ending_of",
    "payload_of",
    "story_of",
]


class Payload(NamedTuple):
    """Data or headers as this user may see them. `text` is JSON if `json` says so, with numbers exactly as they were written."""

    text: str
    json: bool
    redacted: bool


class Page(NamedTuple):
    """Events, newest first; `before` leads to the next page, also where the search ended after looking through `searched` rows."""

    events: list[LogRow]
    before: int | None
    searched: int | None
    reached: datetime | None


class Happened(NamedTuple):
    """One thing that happened to an event; `worker` is the process that did it, as `host:pid`, where that is known."""

    at: datetime | None
    what: str
    who: str
    state: str
    detail: str
    worker: str | None


class Said(NamedTuple):
    """An event of a conversation, and the id of the event that caused it."""

    event: LogRow
    cause: str | None


class EventStory(NamedTuple):
    """An event with what happened to it, and its conversation."""

    position: int
    id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime | None
    correlation: str
    headers: Payload
    data: Payload
    happened: list[Happened]
    parked: list[int]
    conversation: list[Said]


class Ending(NamedTuple):
    """What is left of an event that is not in the log: how it ended for whom, and where it is parked.

    `source` is the producer under which the inbox knows it. Where that is null, what happened may have happened to another event, made in the
    same millisecond: give the producer to be sure.
    """

    id: str
    source: str | None
    happened: list[Happened]
    parked: list[int]


class Delivery(NamedTuple):
    """A parked event in full."""

    number: int
    state: str
    service: str
    group: str
    subscription: str
    event_id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime | None
    sequence: int | None
    reason: str
    attempts: int
    error_type: str | None
    error_message: str | None
    traceback: str | None
    fingerprint: str | None
    history: list[dict[str, Any]]
    parked_at: datetime | None
    failed_at: datetime | None
    head: int
    depth: int
    due_at: datetime | None
    headers: Payload
    data: Payload


class FailureGroups(NamedTuple):
    """Groups of failures, the latest first; `more` says that there are more than were looked at."""

    groups: list[Group]
    more: bool


class FailureList(NamedTuple):
    """Failed events that are parked, newest first."""

    failures: list[FailedRow]
    before: int | None
    searched: int | None


class KeyPage(NamedTuple):
    """Blocked keys; `after` leads to the next page, also where the search ended after looking through `searched` keys."""

    keys: list[KeyRow]
    after: str | None
    searched: int | None


class ScheduledPage(NamedTuple):
    """Scheduled events, the next one due first."""

    events: list[Waiting]
    after: str | None


class ScheduledEvent(NamedTuple):
    """A scheduled event in full."""

    event: Waiting
    headers: Payload
    data: Payload


class Task(NamedTuple):
    """A task that one process at a time does under a lease, such as publishing what is due."""

    task: str
    service: str
    kind: str
    owner: str | None
    host: str | None
    pid: int | None
    lease_until: datetime | None


class Workers(NamedTuple):
    """Processes, readers, and leased tasks."""

    workers: list[WorkerState]
    readers: list[ReaderState]
    tasks: list[Task]


class AuditPage(NamedTuple):
    """What operators have done, newest first."""

    entries: list[Entry]
    before: int | None


class Line(NamedTuple):
    """A line of a chart: one value for each time."""

    label: str
    values: list[float | None]


class Drawn(NamedTuple):
    """A chart; times are seconds since 1970."""

    title: str
    unit: str
    times: list[int]
    series: list[Line]


class Charted(NamedTuple):
    """The charts of all services, or of one subscription."""

    charts: list[Drawn]


class Result(NamedTuple):
    """How an action ended, or what it would do.

    `status` is `planned` (a dry run), `done`, or `running`: then the audit shows how far it came.
    """

    status: str
    changed: int | None
    sentence: str


def payload_of(raw: str | bytes, event: str | None, redaction: Redaction) -> Payload:
    """Return a payload as a user may see it."""
    shown = Shown.of(raw, event, redaction)
    return Payload(shown.text, shown.json, shown.redacted)


def story_of(story: Story, redaction: Redaction) -> EventStory:
    """Return an event with what happened to it."""
    event = story.event
    hidden = bool(redaction)
    return EventStory(
        event.position, event.id, event.source, event.name, event.version, event.topic, event.key, event.time, story.correlation,
        payload_of(event.headers, event.name, redaction), payload_of(event.data, event.name, redaction),
        [_happened(step, hidden) for step in story.steps],
        [item.number for item in story.parked], [Said(row, cause) for row, cause in story.conversation],
    )  # fmt: skip


def ending_of(event_id: str, found: Found, parked: list[Parked], redaction: Redaction) -> Ending:
    """Return what is left of an event."""
    steps = [_happened(step, bool(redaction)) for item in found.ended for step in ended_steps(item)]
    return Ending(event_id, found.source, steps, [item.number for item in parked])


def _happened(step: Step, hidden: bool) -> Happened:
    return Happened(step.at, step.what, step.who, step.state, "" if hidden and step.quotes else step.detail, step.worker or None)


def delivery_of(item: Parked, redaction: Redaction) -> Delivery:
    """Return a parked event as a user may see it."""
    data, headers = Shown.of(item.data, item.name, redaction), Shown.of(item.headers, item.name, redaction)
    values = item._asdict()
    values |= {
        "error_message": hide(item.error_message, data, headers),
        "traceback": hide(item.traceback, data, headers),
        "history": [_attempt(attempt, data, headers) for attempt in item.history if isinstance(attempt, dict)],
        "headers": Payload(headers.text, headers.json, headers.redacted),
        "data": Payload(data.text, data.json, data.redacted),
    }
    return Delivery(**values)


def _attempt(attempt: dict[str, Any], *payloads: Shown) -> dict[str, Any]:
    return {name: hide(value, *payloads) if name == "error" and isinstance(value, str) else value for name, value in attempt.items()}


def charted(charts: Charts) -> Charted:
    """Return charts as data."""

    def drawn(chart: Chart) -> Drawn:
        return Drawn(chart.title, chart.unit, chart.times, [Line(*line) for line in chart.series])

    return Charted([drawn(chart) for chart in charts])
