"""What happened to one event, in order: from what the log, the inbox, the deliveries and the checkpoints say. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tidings.stores.sql.parked import Parked
from tidings.stores.sql.queries import RELAY, Event, Subscription, Worker
from tidings.stores.sql.remembered import Ended
from tidings.stores.sql.views import LogRow, Passed

__all__ = ["Step", "Story", "correlation_of", "ended_steps", "steps_of"]


class Step(NamedTuple):
    """One thing that happened to an event, or has not yet.

    Attributes:
        worker: the process that did it, as `host:pid`.
        quotes: whether `detail` may quote what stands in the event, as errors do.
    """

    at: datetime | None
    what: str
    who: str
    state: str
    detail: str = ""
    link: str = ""
    worker: str = ""
    quotes: bool = False


class Story(NamedTuple):
    """An event with all that is known of it."""

    event: Event
    steps: list[Step]
    parked: list[Parked]
    conversation: list[tuple[LogRow, str | None]]
    correlation: str


def correlation_of(event: Event) -> str:
    """Return the conversation that an event belongs to."""
    try:
        found = json.loads(event.headers)
    except ValueError:
        return event.id
    return str(found.get("correlationid", event.id)) if isinstance(found, dict) else event.id


def ended_steps(ended: Ended) -> list[Step]:
    """Return what was tried in vain, and the step with which an event was over for a subscription."""
    word = "relayed" if ended.subscription.startswith(RELAY) and ended.word == "handled" else ended.word
    steps = [_attempt(attempt, ended.title) for attempt in ended.attempts]
    # Attempts are timed by the worker's clock, the end by the database's: it is the last.
    at = max((time for time in (ended.at, *(step.at for step in steps)) if time is not None), default=None)
    return [*steps, Step(at, word, ended.title, "bad" if word == "dead" else "ok", worker=ended.worker or "")]


def _attempt(attempt: Mapping[str, Any], who: str, link: str = "") -> Step:
    what = f"attempt {attempt.get('attempt', '?')} failed"
    error, worker = str(attempt.get("error", "")), str(attempt.get("worker", ""))
    return Step(_parsed(attempt.get("at")), what, who, "bad", error, link, worker, quotes=True)


def steps_of(
    event: Event, parked: Iterable[Parked], remembered: Iterable[Ended], passed: Iterable[Passed], subscriptions: Iterable[Subscription],
    workers: Iterable[Worker],
) -> list[Step]:  # fmt: skip
    """Return what happened to an event of the log, and what has not yet."""
    steps = [Step(event.time, "committed", event.source, "ok", f"position {event.position:,} of the log, topic {event.topic}")]
    handled = {item.subscription_id: item for item in remembered}
    readers = {(item.service, item.group): item for item in passed}
    hosts = {worker.id: f"{worker.host}:{worker.pid}" for worker in workers}
    held = {(item.service, item.label): item for item in parked}
    for item in subscriptions:
        relay = item.name.startswith(RELAY)
        if (relay and item.service != event.source) or (not relay and event.name not in item.events):
            continue
        reader = readers.get((item.service, item.group))
        yes = reader is not None and reader.passed
        if (delivery := held.get((item.service, item.label))) is not None:
            steps += _attempts(delivery)
        elif item.id in handled:
            steps += ended_steps(handled[item.id])
        elif reader is None:
            continue
        elif relay:
            who = hosts.get(reader.owner or "", "") if yes else ""
            what = "relayed" if yes else "not relayed yet"
            steps.append(Step(None, what, item.title, "ok" if yes else "wait", _since(reader), worker=who))
        elif item.state != "retired":
            steps.append(Step(None, "passed" if yes else "not handled yet", item.title, "ok" if yes else "wait", _passed(yes)))
    known = [step for step in steps if step.at is not None]
    return sorted(known, key=lambda step: step.at or event.time or datetime.now(UTC)) + [step for step in steps if step.at is None]


def _attempts(delivery: Parked) -> list[Step]:
    link, who = f"/deliveries/{delivery.number}", delivery.title
    steps = [_attempt(attempt, who, link) for attempt in delivery.history if isinstance(attempt, dict)]
    if not steps:
        steps.append(Step(delivery.parked_at, "parked", who, "wait", delivery.reason, link))
    if delivery.state == "retrying":
        steps.append(Step(delivery.due_at, "is tried again", who, "wait", "", link))
    elif delivery.state == "waiting":
        steps.append(Step(None, "waits behind another", who, "wait", f"delivery {delivery.head}", link))
    else:
        # Attempts are timed by the worker's clock, the rest by the database's: what is the last must not come before them.
        at = max((time for time in (steps[-1].at, delivery.failed_at) if time is not None), default=None)
        steps.append(Step(at, delivery.state, who, "bad", delivery.reason, link))
    return steps


def _parsed(at: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(at) if isinstance(at, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def _since(reader: Passed) -> str:
    return f"at the latest at {reader.moved_at:%Y-%m-%d %H:%M:%S} UTC" if reader.passed and reader.moved_at is not None else ""


def _passed(yes: bool) -> str:
    return "its reader has it behind it; the inbox does not remember it any more, or never wanted it" if yes else ""
