"""The JSON API: everything that the pages can do, with the same parameters, rules and queries."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import Response

from tidings.dashboard import single
from tidings.dashboard.actions import Action
from tidings.dashboard.call import Call, Endpoint, Later, Problem, body_of, cursor
from tidings.dashboard.desk import Overview, SubscriptionState, Topics
from tidings.dashboard.pages import search
from tidings.dashboard.params import Param, read
from tidings.dashboard.putting_right import perform
from tidings.dashboard.shapes import (
    AuditPage,
    Charted,
    Delivery,
    Ending,
    EventStory,
    FailureGroups,
    FailureList,
    KeyPage,
    Page,
    Result,
    ScheduledEvent,
    ScheduledPage,
    Task,
    Workers,
    charted,
    delivery_of,
    ending_of,
    payload_of,
    story_of,
)
from tidings.dashboard.views import (
    AUDIT,
    EVENTS,
    FAILURES,
    KEYS,
    RANGE,
    SCHEDULED,
    SPANS,
    failure_filter,
    lane_of_place,
    number_of,
    place_of,
    place_text,
)
from tidings.stores.sql.audit import Entry
from tidings.stores.sql.services import ServiceState
from tidings.stores.sql.views_parked import GROUPS

__all__ = ["READS", "Read", "acting", "openapi"]


@dataclass(frozen=True, slots=True)
class Read:
    """One thing to look at.

    Attributes:
        path: under `/api`.
        about: one sentence, for the document.
        params: of the query.
        shape: what the answer looks like.
    """

    path: str
    about: str
    params: tuple[Param, ...]
    shape: Any
    work: Callable[[Call, dict[str, Any]], Awaitable[Any]]

    @property
    def endpoint(self) -> Endpoint:
        """What answers."""

        async def answer(call: Call) -> Response:
            values = read(self.params, call.request.query_params, text=True, strict=True)
            return _answer(await self.work(call, values))

        return answer


def acting(action: Action) -> Endpoint:
    """Return what runs an action, or says with `dry_run` what it would do."""

    async def answer(call: Call) -> Response:
        try:
            given = json.loads(await body_of(call.request))
        except (ValueError, RecursionError):
            raise Problem(400, "The body is not JSON.") from None
        if not isinstance(given, dict):
            raise Problem(400, "The body is no JSON object.")
        values = read((*action.params, DRY_RUN), given, text=False, strict=True)
        dry = values.pop("dry_run")
        if dry:
            planned = await action.plan(call.desk, values)
            if not planned.known:
                raise Problem(404, planned.sentence)
            return _answer(Result("planned", planned.keys, planned.sentence))
        done = await perform(call, action, values)
        if not done.known:
            raise Problem(404, done.sentence)
        if done.later is None:
            return _answer(Result("done", done.changed, done.sentence))
        return _answer(Result("running", None, done.sentence), 202, Later(done.later))

    return answer


async def openapi(call: Call) -> Response:
    """Return the OpenAPI document."""
    from tidings.dashboard.openapi import document

    return _answer(document(call.base))


async def _overview(call: Call, _: dict[str, Any]) -> Overview:
    return await call.desk.overview(quoting=not call.redaction)  # type: ignore[no-any-return]


async def _charts(call: Call, values: dict[str, Any]) -> Charted:
    return charted(await call.desk.charts(SPANS[values["range"]], values["service"], values["subscription"]))


async def _events(call: Call, values: dict[str, Any]) -> Page:
    return Page(*await search(call, values))


async def _event(call: Call, _: dict[str, Any]) -> EventStory:
    story, further = await single.event_of(call)
    if story is None:
        more = f" within the window that was searched: search further with after={further}" if further is not None else ""
        raise Problem(404, f"There is no event of this id in the log{more}. /ending has what is left of one that came from elsewhere.")
    return story_of(story, call.redaction)


async def _ending(call: Call, _: dict[str, Any]) -> Ending:
    found, parked = await single.left_of(call)
    if not found.ended and not parked:
        raise Problem(404, "The inbox remembers no event of this id; one from elsewhere is found with its producer: source=...")
    return ending_of(call.request.path_params["event_id"], found, parked, call.redaction)


async def _subscriptions(call: Call, _: dict[str, Any]) -> list[SubscriptionState]:
    return await call.desk.subscriptions(quoting=not call.redaction)  # type: ignore[no-any-return]


async def _groups(call: Call, values: dict[str, Any]) -> FailureGroups:
    groups, more = await call.desk.ask(call.desk.parked.groups, GROUPS, values["service"], values["subscription"])
    return FailureGroups([_quiet(call, group) for group in groups], more)


async def _failures(call: Call, values: dict[str, Any]) -> FailureList:
    found = await call.desk.ask(call.desk.parked.failures, values["limit"], values["before"], failure_filter(values))
    return FailureList([_quiet(call, row) for row in found.rows], found.before, found.searched)


async def _delivery(call: Call, _: dict[str, Any]) -> Delivery:
    return delivery_of(await single.parked_of(call), call.redaction)


async def _keys(call: Call, values: dict[str, Any]) -> KeyPage:
    limit, after, state = values.pop("limit"), values.pop("after"), values.pop("state")
    found = await call.desk.ask(call.desk.keys.page, limit, state, lane_of_place(after), **values)
    return KeyPage([_quiet(call, row) for row in found.rows], place_text(found.after), found.searched)


async def _scheduled(call: Call, values: dict[str, Any]) -> ScheduledPage:
    limit = values["limit"]
    found = await call.desk.ask(call.desk.parked.scheduled, limit + 1, place_of(values["after"]))
    return ScheduledPage(found[:limit], cursor(found[limit - 1].due_at, found[limit - 1].id) if len(found) > limit else None)


async def _waiting(call: Call, _: dict[str, Any]) -> ScheduledEvent:
    found = await single.waiting_of(call, call.request.path_params["event_id"])
    if found is None:
        raise Problem(404, "No scheduled event of this id waits: it was published or cancelled.")
    item, headers, data = found
    return ScheduledEvent(item, payload_of(headers, item.name, call.redaction), payload_of(data, item.name, call.redaction))


async def _topics(call: Call, _: dict[str, Any]) -> Topics:
    return await call.desk.topics()  # type: ignore[no-any-return]


async def _workers(call: Call, _: dict[str, Any]) -> Workers:
    workers, readers, tasks = await call.desk.workers()
    return Workers(
        workers, readers, [Task(item.reader, item.service, item.kind, item.owner, item.host, item.pid, item.lease_until) for item in tasks]
    )


async def _services(call: Call, _: dict[str, Any]) -> list[ServiceState]:
    return await call.desk.services()  # type: ignore[no-any-return]


async def _audit(call: Call, values: dict[str, Any]) -> AuditPage:
    limit = values["limit"]
    found = await call.desk.audit(limit + 1, values["before"])
    return AuditPage(found[:limit], found[limit - 1].number if len(found) > limit else None)


async def _entry(call: Call, _: dict[str, Any]) -> Entry:
    found = await call.desk.entry(number_of(call, 2**53))
    if found is None:
        raise Problem(404, "There is no such action.")
    return found  # type: ignore[no-any-return]


def _quiet(call: Call, row: Any) -> Any:
    """Leave out what may quote a payload of which something is hidden from this user."""
    if not call.redaction:
        return row
    hidden = {"error_message": None, "traceback": None}
    return row._replace(**{name: value for name, value in hidden.items() if name in row._fields})


DRY_RUN = Param("dry_run", "say what would be done, and do nothing", "boolean", default=False)

_OF = (Param("service", "of this service", high=255), Param("subscription", "of this subscription, as group/name", high=512))

READS = (
    Read("/overview", "Whether all is well: readers, subscriptions, workers.", (), Overview, _overview),
    Read("/charts", "Counts and durations of the last hours, as the pages draw them.", (RANGE, *_OF), Charted, _charts),
    Read("/events", "The log, newest first.", EVENTS, Page, _events),
    Read("/events/{event_id}", "One event: data, headers, what happened to it, its conversation.", single.AT, EventStory, _event),
    Read(
        "/events/{event_id}/ending", "What is left of an event that is not in the log: for whom it is over, since when, by which worker.",
        (single.SOURCE,), Ending, _ending,
    ),
    Read("/subscriptions", "The subscriptions and how they do.", (), list[SubscriptionState], _subscriptions),
    Read("/failures/groups", "Failures by fingerprint and subscription.", _OF, FailureGroups, _groups),
    Read(
        "/failures", "Failed events that are parked, newest first.",
        (*FAILURES, Param("fingerprint", "failures of this fingerprint", high=64), Param("subscription_id", "of the subscription with this number", "integer", low=0, high=2**31 - 1)),
        FailureList, _failures,
    ),
    Read("/deliveries/{number}", "A parked event in full.", (), Delivery, _delivery),
    Read("/keys", "Blocked keys.", KEYS, KeyPage, _keys),
    Read("/scheduled", "Events that wait for their time.", SCHEDULED, ScheduledPage, _scheduled),
    Read("/scheduled/{event_id}", "One of them in full.", (), ScheduledEvent, _waiting),
    Read("/topics", "Types of events, who publishes and who subscribes.", (), Topics, _topics),
    Read("/workers", "Processes, readers, and leased tasks.", (), Workers, _workers),
    Read("/services", "The services, also those that are gone, and how long each wants what kept.", (), list[ServiceState], _services),
    Read("/audit", "What operators have done.", AUDIT, AuditPage, _audit),
    Read("/audit/{number}", "One of these actions.", (), Entry, _entry),
)  # fmt: skip


def _answer(value: Any, status: int = 200, background: Later | None = None) -> Response:
    # Pure ASCII: lone surrogates and whatever else a payload holds stay escaped.
    text = json.dumps(_plain(value), separators=(",", ":"))
    return Response(text, status, media_type="application/json", background=background)


def _plain(value: Any) -> Any:
    if (fields := getattr(value, "_asdict", None)) is not None:
        labelled = {"label": value.label} if hasattr(value, "label") else {}
        return {**{name: _plain(item) for name, item in fields().items()}, **labelled}
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value
