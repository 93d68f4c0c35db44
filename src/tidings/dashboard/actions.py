"""What an operator may do, as values: parameters, dry run and work of each action. Pages and JSON API have no others; `Operations` does it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from tidings.dashboard.desk import Desk, SubscriptionState
from tidings.dashboard.params import BadParameter, Param
from tidings.errors import StillRunning
from tidings.observability.status import many
from tidings.operations import Operations
from tidings.stores.sql.repair import Heads, Standing
from tidings.stores.sql.views_parked import MATCHED

__all__ = ["ACTIONS", "FILTERS", "Action", "Done", "Planned", "heads_of"]

#: More keys than this are worked through after the answer was given; the audit shows how far it came.
AT_ONCE = 1_000

#: Most names in the sentence that says which there are.
_NAMED = 20

FILTERS = (
    Param("number", "the number of a parked event", "integer", low=1, high=2**53),
    Param("event_id", "the id of the event at the head", high=255),
    Param("service", "of this service", high=255),
    Param("subscription", "of this subscription: name, or group/name", high=512),
    Param("event", "events of this name", high=255),
    Param("key", "of this partition key", high=1024),
    Param("fingerprint", "failures of this fingerprint", high=64),
    Param("since", "failed last at this time or later", "time"),
    Param("until", "failed last before this time", "time"),
)
_NOT_WAITING = "no scheduled event of this id waits: it was published or cancelled"
_ALL = Param("all", "everything, when nothing else says which", "boolean", default=False)


class Planned(NamedTuple):
    """A dry run: how many keys, events or things would be changed, at most 10,001 keys counted, and the sentence that says so."""

    keys: int
    events: int
    sentence: str
    known: bool = True


class Done(NamedTuple):
    """How an action ended.

    Attributes:
        changed: how many; None while it runs on.
        later: the rest of the work, for after the answer.
        known: whether there is what was named at all.
        entry: its number in the audit, where it has one already.
    """

    changed: int | None
    sentence: str
    later: Callable[[], Awaitable[Any]] | None = None
    known: bool = True
    entry: int | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """One action.

    Attributes:
        params: what it can be told; the first ones say what is meant.
        danger: whether what it does cannot be undone.
    """

    name: str
    title: str
    about: str
    params: tuple[Param, ...]
    plan: Callable[[Desk, Mapping[str, Any]], Awaitable[Planned]]
    run: Callable[[Desk, Mapping[str, Any], str], Awaitable[Done]]
    danger: bool = False


def heads_of(values: Mapping[str, Any]) -> Heads:
    """Return the lanes that are meant.

    Raises:
        BadParameter: nothing says which, not even `all`.
    """
    heads = Heads(**{param.name: values[param.name] for param in FILTERS})
    if all(value is None for value in heads) and not values.get("all"):
        raise BadParameter("all", None, "nothing says which events: give a filter that chooses some, or all=true")
    return heads


async def _missing(desk: Desk, values: Mapping[str, Any]) -> str | None:
    """Return what filters name that there is not at all; to be asked when they match nothing."""
    number, service, name = values["number"], values["service"], values["subscription"]
    if number is not None and await desk.delivery(number) is None:
        return _not_parked(number)
    if service is not None and not await desk.ask(desk.queries.has_subscription, service, None):
        known = {item.service for item in await desk.ask(desk.queries.subscriptions)}
        return f"there is no service {service!r} with subscriptions; there are {_some(known)}"
    if name is not None and not await desk.ask(desk.queries.has_subscription, service, name):
        known = {item.label for item in await desk.ask(desk.queries.subscriptions) if service in (None, item.service)}
        return f"there is no subscription {name!r}; there are {_some(known)}"
    return None


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return f"{', '.join(found[:_NAMED]) or 'none'}{' …' if len(found) > _NAMED else ''}"


def _not_parked(number: int) -> str:
    return f"there is no parked event {number}: it was handled or discarded"


def _standing(values: Mapping[str, Any]) -> Standing:
    return "idle" if values.get("state") == "retrying" else "dead"


async def _plan_heads(desk: Desk, values: Mapping[str, Any]) -> Planned:
    keys, events = await desk.ask(desk.parked.matched, heads_of(values), state=_standing(values))
    if not keys and (missing := await _missing(desk, values)) is not None:
        return Planned(0, 0, missing, known=False)
    if keys > MATCHED:
        return Planned(keys, events, f"more than {MATCHED:,} blocked keys")
    waiting = f", {many(events - keys, 'event waits', 'events wait')} behind {'it' if keys == 1 else 'them'}" if events > keys else ""
    return Planned(keys, events, f"{many(keys, 'blocked key', 'blocked keys')}{waiting}")


async def _redrive(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    heads = heads_of(values)
    rate = values["rate"]

    operations = _operations(desk, values, actor)

    async def work() -> int:
        return await operations.redrive(**_filters(heads), rate=rate)

    return await _now_or_later(desk, values, operations, work, ("key is tried again", "keys are tried again"))


async def _discard(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    heads = heads_of(values)

    operations = _operations(desk, values, actor)

    async def work() -> int:
        told = {"reason": values["reason"], "whole": values["whole"], "state": values["state"]}
        return await operations.discard(**told, **_filters(heads))

    return await _now_or_later(desk, values, operations, work, ("event was given up", "events were given up"), _standing(values))


async def _plan_try_now(desk: Desk, values: Mapping[str, Any]) -> Planned:
    keys, events = await desk.ask(desk.parked.matched, heads_of(values), state="retrying")
    if not keys and (missing := await _missing(desk, values)) is not None:
        return Planned(0, 0, missing, known=False)
    if keys > MATCHED:
        return Planned(keys, events, f"more than {MATCHED:,} keys that wait for another attempt")
    return Planned(keys, events, f"{many(keys, 'key that waits', 'keys that wait')} for another attempt")


async def _try_now(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    heads = heads_of(values)

    operations = _operations(desk, values, actor)

    async def work() -> int:
        return await operations.try_now(**_filters(heads))

    return await _now_or_later(desk, values, operations, work, ("key is tried now", "keys are tried now"), "retrying")


async def _now_or_later(
    desk: Desk, values: Mapping[str, Any], operations: Operations, work: Callable[[], Awaitable[int]], words: tuple[str, str],
    state: Standing = "dead",
) -> Done:  # fmt: skip
    keys, _ = await desk.ask(desk.parked.matched, heads_of(values), AT_ONCE, state)
    if keys > AT_ONCE:
        return Done(None, "it goes on in the background; the audit shows how far it came", work)
    changed = await work()
    # The attempt is in the audit, whatever there was.
    if not changed and (missing := await _missing(desk, values)) is not None:
        return Done(0, missing, known=False)
    return Done(changed, many(changed, *words), entry=operations.entry)


async def _plan_edit(desk: Desk, values: Mapping[str, Any]) -> Planned:
    found = await desk.delivery(values["number"])
    if found is None:
        return Planned(0, 0, _not_parked(values["number"]), known=False)
    if found.state != "dead":
        return Planned(0, 0, "it is not dead any more")
    return Planned(1, 1, f"{found.name} in {found.label}, as a new event for this subscription only")


async def _edit(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    data = values["data"]
    try:
        json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadParameter("data", data, f"give JSON ({error})") from None
    operations = Operations(desk.store, actor=actor)
    new = await operations.edit(values["number"], data.encode())
    if new is None and await desk.delivery(values["number"]) is None:
        return Done(0, _not_parked(values["number"]), known=False)
    sentence = f"the new event is {new}" if new else "it is not dead any more: nothing was changed"
    return Done(int(new is not None), sentence, entry=operations.entry)


async def _plan_switch(desk: Desk, values: Mapping[str, Any]) -> Planned:
    found = [
        item
        for item in await desk.subscriptions()
        if item.service == values["service"] and item.state != "retired" and values["subscription"] in (item.label, item.name)
    ]
    if not found:
        return Planned(0, 0, _no_subscription(values, await desk.subscriptions()), known=False)
    return Planned(len(found), 0, ", ".join(f"{item.label} of {item.service}, which is {item.state}" for item in found))


def _no_subscription(values: Mapping[str, Any], known: Iterable[SubscriptionState]) -> str:
    of = ", ".join(sorted(item.label for item in known if item.service == values["service"] and item.state != "retired"))
    there = f"; it has {of}" if of else ""
    return f"service {values['service']!r} has no subscription {values['subscription']!r} that is not retired{there}"


def _switch(paused: bool) -> Callable[[Desk, Mapping[str, Any], str], Awaitable[Done]]:
    async def run(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
        operations = Operations(desk.store, values["service"], actor)
        found = await (operations.pause if paused else operations.resume)(values["subscription"])
        if not found:
            return Done(0, _no_subscription(values, await desk.subscriptions()), known=False)
        return Done(1, "it is paused" if paused else "it goes on", entry=operations.entry)

    return run


async def _plan_scheduled(desk: Desk, values: Mapping[str, Any]) -> Planned:
    found = await desk.ask(desk.parked.scheduled_one, values["event_id"])
    return (
        Planned(0, 0, _NOT_WAITING, known=False)
        if found is None
        else Planned(1, 1, f"{found[0].name}, due at {found[0].due_at:%Y-%m-%d %H:%M:%S} UTC")
    )


async def _cancel(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    operations = Operations(desk.store, actor=actor)
    found = await operations.cancel_scheduled(UUID(values["event_id"]))
    return Done(1, "it is cancelled", entry=operations.entry) if found else Done(0, _NOT_WAITING, known=False)


async def _run_now(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    operations = Operations(desk.store, actor=actor)
    found = await operations.run_scheduled(UUID(values["event_id"]))
    return Done(1, "it is published within a second", entry=operations.entry) if found else Done(0, _NOT_WAITING, known=False)


async def _plan_forget(desk: Desk, values: Mapping[str, Any]) -> Planned:
    known = await desk.services()
    found = next((item for item in known if item.name == values["service"] and item.state != "forgotten"), None)
    if found is None:
        there = ", ".join(item.name for item in known if item.state != "forgotten")
        return Planned(0, 0, f"there is no service {values['service']!r} that is not forgotten; there are: {there or 'none'}", known=False)
    if found.state == "running":
        alive = many(found.workers, "worker is alive: stop it", "workers are alive: stop them")
        return Planned(0, 0, f"service {found.name}, of which {alive} first")
    parked = f"; {many(found.parked, 'parked event stays', 'parked events stay')}, untouched" if found.parked else ""
    groups, subscriptions = many(len(found.groups), "group", "groups"), many(found.subscriptions, "subscription", "subscriptions")
    return Planned(1, 0, f"service {found.name} with {groups} and {subscriptions}{parked}")


async def _forget(desk: Desk, values: Mapping[str, Any], actor: str) -> Done:
    operations = Operations(desk.store, actor=actor)
    try:
        found = await operations.forget_service(values["service"])
    except StillRunning as error:
        return Done(0, f"{error}: nothing was changed")
    if found is None:
        planned = await _plan_forget(desk, values)
        return Done(0, planned.sentence, known=planned.known)
    groups, subscriptions = many(len(found.groups), "group", "groups"), many(len(found.subscriptions), "subscription", "subscriptions")
    return Done(1, f"{groups} and {subscriptions} are retired", entry=operations.entry)


def _operations(desk: Desk, values: Mapping[str, Any], actor: str) -> Operations:
    return Operations(desk.store, values["service"], actor)


def _filters(heads: Heads) -> dict[str, Any]:
    filters = heads._asdict()
    del filters["service"]
    return filters


_SUBSCRIPTION = (
    Param("service", "the service", high=255, required=True, low=1),
    Param("subscription", "the subscription: name, or group/name", high=512, required=True, low=1),
)
_SCHEDULED = (Param("event_id", "the id of the scheduled event", "uuid", required=True),)

ACTIONS = {
    action.name: action
    for action in (
        Action(
            "redrive", "Redrive", "Dead events are tried again, each key in order from its head.",
            (*FILTERS, _ALL, Param("rate", "how many keys become due each second; all at once unless given", "number", low=0.01, high=100_000)),
            _plan_heads, _redrive,
        ),
        Action(
            "try-now", "Try now", "Keys that wait for another attempt are tried at once. It is their next attempt, not one more.",
            (*FILTERS, _ALL), _plan_try_now, _try_now,
        ),
        Action(
            "discard", "Discard",
            "Dead events, or with state=retrying such as would be tried again, are given up for good, and what waits behind them goes on. They are "
            "remembered as discarded: a copy is not handled either. What is being tried at this moment is left alone.",
            (
                *FILTERS, _ALL, Param("state", "of keys in this state", among=("dead", "retrying"), default="dead"),
                Param("reason", "why; the audit keeps it", low=1, high=1000, required=True),
                Param("whole", "also give up everything that waits behind them", "boolean", default=False),
            ),
            _plan_heads, _discard, danger=True,
        ),
        Action(
            "edit", "Edit and retry",
            "A new event with the data below takes the place of the dead one, at the head of its key. The old one is remembered as discarded.",
            (
                Param("number", "the number of the parked event", "integer", low=1, high=2**53, required=True),
                Param("data", "the new data, JSON", low=1, high=4_000_000, required=True),
            ),
            _plan_edit, _edit, danger=True,
        ),
        Action("pause", "Pause", "The subscription takes no more events, across restarts, until it is resumed.", _SUBSCRIPTION, _plan_switch, _switch(True)),
        Action("resume", "Resume", "The subscription goes on.", _SUBSCRIPTION, _plan_switch, _switch(False)),
        Action(
            "forget-service", "Forget this service",
            "It is gone for good: the log is not kept for it any more, and its groups and subscriptions are retired.",
            (Param("service", "the service", high=255, required=True, low=1),), _plan_forget, _forget, danger=True,
        ),
        Action("cancel", "Cancel", "The scheduled event is never published.", _SCHEDULED, _plan_scheduled, _cancel, danger=True),
        Action("run-now", "Run now", "The scheduled event is published now.", _SCHEDULED, _plan_scheduled, _run_now),
    )
}  # fmt: skip
