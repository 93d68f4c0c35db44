"""The pages of single things: an event of the log, a parked one, a scheduled one; and their data as files."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import RedirectResponse, Response

from tidings.dashboard.call import Call, Problem
from tidings.dashboard.diagrams import conversation
from tidings.dashboard.pages import done, leave
from tidings.dashboard.params import Param, canonical, read
from tidings.dashboard.payload import SHOWN, Shown, hide
from tidings.dashboard.story import ended_steps
from tidings.dashboard.views import number_of
from tidings.stores.sql.parked import Parked
from tidings.stores.sql.remembered import Found
from tidings.stores.sql.views import CONVERSATION, LogRow

__all__ = [
    "AT",
    "SOURCE",
    "delivery",
    "delivery_data",
    "event",
    "event_data",
    "event_of",
    "find",
    "left_of",
    "parked_of",
    "waiting",
    "waiting_of",
]

#: How the page of an event is told where the event is.
AT = (
    Param("at", "the event's position in the log, if it is known", "integer", low=0, high=2**62),
    Param("after", "the position at which to search further", "integer", low=-(2**62), high=2**62),
)


#: Who made an event that came from elsewhere.
SOURCE = Param("source", "the producer of an event from elsewhere: the CloudEvents attribute `source`", high=255)


async def event_of(call: Call) -> tuple[Any, int | None]:
    """Return the story of the event in the path, and where to search further."""
    values = read(AT, call.request.query_params, text=True)
    event_id = canonical(call.request.path_params["event_id"])
    if event_id is None:
        return None, None
    return await call.desk.story(event_id, values["at"], values["after"])  # type: ignore[no-any-return]


async def find(call: Call) -> Response:
    """Lead to the page of an event."""
    event_id = read((Param("id", "the event's id", "uuid", required=True),), call.request.query_params, text=True)["id"]
    return RedirectResponse(f"{call.base}/events/{event_id}", 303)


async def event(call: Call) -> Response:
    """Show one event: its data, what happened to it, and the conversation that it belongs to."""
    story, further = await event_of(call)
    given = call.request.path_params["event_id"]
    if story is None:
        waiting = await waiting_of(call, given)
        found, parked = await left_of(call)
        if found.source is None and (parked or waiting):
            # What else was made in its millisecond is of no interest then.
            found = found._replace(ended=[])
        steps = [step for item in found.ended for step in ended_steps(item)]
        return call.page(
            "no_event.html", 404 if found.source is None else 200, event_id=given, further=further, parked=parked, waiting=waiting, steps=steps, source=found.source,
            own=canonical(given) is not None,
        )  # fmt: skip
    found = story.event

    def link(row: LogRow) -> str:
        return f"{call.base}/events/{row.id}?at={row.position}"

    tree = conversation(story.conversation, found.id, link)
    return call.page(
        "event.html", story=story, event=found, data=Shown.of(found.data, found.name, call.redaction),
        headers=Shown.of(found.headers, found.name, call.redaction), tree=tree, cut=CONVERSATION, limit=SHOWN, hide=bool(call.redaction),
    )  # fmt: skip


async def left_of(call: Call) -> tuple[Found, list[Parked]]:
    """Return what is left of an event that is not in the log: in the inbox, and where it is parked."""
    source = read((SOURCE,), call.request.query_params, text=True)["source"]
    given = call.request.path_params["event_id"]
    if "\0" in given or len(given) > 255:
        return Found(None, []), []
    parked = await call.desk.ask(call.desk.deliveries_of, given)
    return await call.desk.remembered(canonical(given) or given, source), [item for item in parked if source in (None, item.source)]


async def event_data(call: Call) -> Response:
    """Give the data of an event as a file."""
    story, _ = await event_of(call)
    if story is None:
        raise Problem(404, "There is no such event within reach: open its page, and search further there.")
    return _file(Shown.of(story.event.data, story.event.name, call.redaction), story.event.id)


async def parked_of(call: Call) -> Parked:
    """Return the parked event in the path.

    Raises:
        Problem: there is none.
    """
    number = number_of(call, 2**53)
    found = await call.desk.delivery(number)
    if found is None:
        raise Problem(404, f"Nothing is parked under number {number}: it was handled or discarded, and the audit may say by whom.")
    return found  # type: ignore[no-any-return]


async def delivery(call: Call) -> Response:
    """Show a parked event: why it failed, its attempts, and what can be done."""
    try:
        found = await parked_of(call)
    except Problem:
        leave(call, "/failures")
        raise
    data, headers = Shown.of(found.data, found.name, call.redaction), Shown.of(found.headers, found.name, call.redaction)
    return call.page(
        "delivery.html", item=found, data=data, headers=headers, limit=SHOWN, message=hide(found.error_message, data, headers),
        traceback=hide(found.traceback, data, headers), quoted=not (data.redacted or headers.redacted), editable=data.json and not data.redacted, did=await done(call),
    )  # fmt: skip


async def delivery_data(call: Call) -> Response:
    """Give the data of a parked event as a file."""
    found = await parked_of(call)
    return _file(Shown.of(found.data, found.name, call.redaction), str(found.number))


async def waiting_of(call: Call, given: str) -> Any:
    """Return a scheduled event with headers and data, if there is one of this id."""
    event_id = canonical(given)
    return None if event_id is None else await call.desk.ask(call.desk.parked.scheduled_one, event_id)


async def waiting(call: Call) -> Response:
    """Show a scheduled event."""
    found = await waiting_of(call, call.request.path_params["event_id"])
    if found is None:
        leave(call, "/scheduled")
        raise Problem(404, "No scheduled event of this id waits: it was published or cancelled.")
    item, headers, data = found
    return call.page(
        "waiting.html",
        item=item,
        data=Shown.of(data, item.name, call.redaction),
        headers=Shown.of(headers, item.name, call.redaction),
        limit=SHOWN,
        did=await done(call),
    )


def _file(shown: Shown, name: str) -> Response:
    kind, end = ("application/json", "json") if shown.json else ("text/plain; charset=utf-8", "txt")
    plain = re.sub(r"[^0-9A-Za-z-]", "_", name)[:80]
    return Response(
        shown.text.encode("utf-8", "backslashreplace"),
        media_type=kind,
        headers={"content-disposition": f'attachment; filename="{plain}.{end}"'},
    )
