"""The pages with lists: they read what the query says, ask the desk, and fill a template. The address is the whole state."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from tidings.dashboard.call import Call, Problem, cursor
from tidings.dashboard.diagrams import graph
from tidings.dashboard.live import followed
from tidings.dashboard.params import Param, read, refuse_unknown
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
    log_filter,
    number_of,
    place_of,
    place_text,
)

__all__ = [
    "audit",
    "done",
    "events",
    "failures",
    "group",
    "keys",
    "leave",
    "overview",
    "scheduled",
    "subscription",
    "subscriptions",
    "topics",
    "workers",
]

_DONE = Param("did", "the number of an action in the audit", "integer", low=1, high=2**53)


def _given(call: Call, *params: Param) -> dict[str, Any]:
    query = call.request.query_params
    refuse_unknown(query, [param.name for param in params], (_DONE.name,))
    return read(params, query, text=True)


async def done(call: Call) -> Any:
    """Return the action that led back to this page, as the audit has it; None when none did."""
    number = read((_DONE,), call.request.query_params, text=True)["did"]
    return None if number is None else await call.desk.entry(number)


def leave(call: Call, page: str) -> None:
    """Lead on to a list if an action led back here: what the page was about may be gone by it, and that is no error.

    Raises:
        Problem: the redirection.
    """
    number = read((_DONE,), call.request.query_params, text=True)["did"]
    if number is not None:
        raise Problem(303, "it is gone", {"location": f"{call.base}{page}?did={number}"})


@followed
async def overview(call: Call) -> Response:
    """Show whether all is well, on one screen."""
    span = _given(call, RANGE)["range"]
    return call.page(
        "overview.html",
        found=await call.desk.overview(quoting=not call.redaction),
        charts=await call.desk.charts(SPANS[span]),
        span=span,
        spans=SPANS,
    )


async def events(call: Call) -> Response:
    """Show the log."""
    values = _given(call, *EVENTS)
    found = await search(call, values)
    size = await call.desk.ask(call.desk.log.size)
    return call.page("events.html", found=found, values=values, size=size)


async def search(call: Call, values: dict[str, Any]) -> Any:
    """Return a page of the log; text is looked for in what this user may see."""
    found = await call.desk.ask(call.desk.log.page, log_filter(values), values["limit"], values["before"])
    text = values["text"]
    if text is None or not call.redaction:
        return found
    from tidings.dashboard.payload import Shown

    seen = []
    for row in found.rows:
        event = await call.desk.ask(call.desk.log.at, row.position)
        if event is not None and text.lower() in Shown.of(event.data, event.name, call.redaction).text.lower():
            seen.append(row)
    return found._replace(rows=seen)


@followed
async def subscriptions(call: Call) -> Response:
    """Show all subscriptions."""
    _given(call)
    return call.page("subscriptions.html", found=await call.desk.subscriptions(quoting=not call.redaction), did=await done(call))


@followed
async def subscription(call: Call) -> Response:
    """Show one subscription with its charts."""
    number = number_of(call)
    span = _given(call, RANGE)["range"]
    found = next((item for item in await call.desk.subscriptions(quoting=not call.redaction) if item.id == number), None)
    if found is None:
        raise Problem(404, f"There is no subscription {number}.")
    charts = await call.desk.charts(SPANS[span], found.service, found.label)
    return call.page("subscription.html", item=found, charts=charts, span=span, spans=SPANS, did=await done(call))


@followed
async def failures(call: Call) -> Response:
    """Show failures, grouped by what went wrong; with a filter also one by one."""
    values = _given(call, *FAILURES)
    groups, many = await call.desk.ask(call.desk.parked.groups, 25, values["service"], values["subscription"])
    one_by_one = await call.desk.ask(call.desk.parked.failures, values["limit"], values["before"], failure_filter(values))
    return call.page("failures.html", groups=groups, many=many, found=one_by_one, values=values, did=await done(call))


async def group(call: Call) -> Response:
    """Show the failures of one fingerprint in one subscription."""
    values = _given(call, *FAILURES)
    number, fingerprint = number_of(call), call.request.path_params["fingerprint"]
    found = await call.desk.ask(call.desk.parked.group, fingerprint, number)
    if found is None:
        leave(call, "/failures")
        raise Problem(404, "Nothing fails this way any more: it was handled, discarded, or fails in another way now.")
    chosen = failure_filter(values, fingerprint=fingerprint, subscription_id=number)
    page = await call.desk.ask(call.desk.parked.failures, values["limit"], values["before"], chosen)
    return call.page("group.html", group=found, found=page, values=values, did=await done(call))


@followed
async def keys(call: Call) -> Response:
    """Show what is blocked, by key."""
    values = _given(call, *KEYS)
    found = await call.desk.ask(
        call.desk.keys.page, values["limit"], values["state"], lane_of_place(values["after"]), service=values["service"],
        subscription=values["subscription"], key=values["key"],
    )  # fmt: skip
    return call.page("keys.html", found=found, after=place_text(found.after), values=values, did=await done(call))


@followed
async def scheduled(call: Call) -> Response:
    """Show what waits for its time."""
    values = _given(call, *SCHEDULED)
    limit = values["limit"]
    found = await call.desk.ask(call.desk.parked.scheduled, limit + 1, place_of(values["after"]))
    after = cursor(found[limit - 1].due_at, found[limit - 1].id) if len(found) > limit else None
    return call.page("scheduled.html", found=found[:limit], after=after, values=values, did=await done(call))


async def topics(call: Call) -> Response:
    """Show the types of events, and who has to do with them."""
    _given(call)
    found = await call.desk.topics()
    return call.page("topics.html", found=found, graph=graph(found.types[:150]))


@followed
async def workers(call: Call) -> Response:
    """Show the processes and what they hold."""
    _given(call)
    found, readers, tasks = await call.desk.workers()
    return call.page("workers.html", found=found, readers=readers, tasks=tasks, services=await call.desk.services())


@followed
async def audit(call: Call) -> Response:
    """Show who has done what."""
    values = _given(call, *AUDIT)
    limit = values["limit"]
    found = await call.desk.audit(limit + 1, values["before"])
    before = found[limit - 1].number if len(found) > limit else None
    return call.page("audit.html", found=found[:limit], before=before, values=values, did=await done(call))
