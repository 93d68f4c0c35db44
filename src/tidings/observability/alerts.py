"""Telling somebody that events wait too long, or that a breaker is open: once when it begins, once when it is over, by one worker of a service.

What has been told is kept in the row of the task's lease, so that whoever takes over does not tell it again. A worker that dies between
telling and writing that down tells it twice rather than never.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tidings.consume.parking import guarded
from tidings.errors import LeaseLost
from tidings.stores.base import Lease, Mark
from tidings.stores.sql.observed import Observed, Observer
from tidings.stores.sql.store import SQLStore
from tidings.stores.sql.upkeep import ALERTS

__all__ = ["Alerts", "BacklogAlert", "BreakerAlert", "OnBacklog", "Watch", "task_name"]

#: Seconds between two looks.
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class BacklogAlert:
    """What `on_backlog` callbacks are told: the oldest event that a reader has not read is older than the age asked for; or is so no more.

    Attributes:
        reader: `service/group@log`; the group of a relay is called as it is, `relay:rabbitmq`.
        events: how many wait, at most 100,001.
        age: how old the oldest of them is.
        over: whether this is the end of it.
        since: when the callback was told that it began; on the first call, now.
    """

    service: str
    group: str
    reader: str
    events: int
    age: timedelta
    over: bool
    since: datetime


@dataclass(frozen=True, slots=True)
class BreakerAlert:
    """What `on_breaker` callbacks are told: a subscription takes no events because what its handlers need is down; or does again.

    Relays, `relay:rabbitmq`, and what comes in from brokers, `group/inbound:rabbitmq`, are told of when their broker cannot be used.

    Attributes:
        reason: why it opened, empty when it is over.
        over: whether it is closed again.
        since: when it opened.
    """

    service: str
    subscription: str
    reason: str
    over: bool
    since: datetime


OnBacklog = Callable[[BacklogAlert], Awaitable[None] | None]
OnBreaker = Callable[[BreakerAlert], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Watch:
    """What somebody wants to be told about.

    Attributes:
        backlog: callbacks with the age, in seconds, that is too old.
        breaker: callbacks.
    """

    backlog: Sequence[tuple[float, OnBacklog]] = ()
    breaker: Sequence[OnBreaker] = ()

    def __bool__(self) -> bool:
        return bool(self.backlog or self.breaker)


def task_name(service: str) -> str:
    """Return the name of the lease under which alerts of a service are told."""
    return ALERTS + service


class Alerts:
    """The step of the leased task that tells them.

    Args:
        tell: calls a callback with what it is told, and looks after its errors.
    """

    def __init__(self, service: str, store: SQLStore, watch: Watch, tell: Callable[[Callable[..., Any], Any], None]) -> None:
        self._service = service
        self._store = store
        self._watch = watch
        self._tell = tell
        self._observer = Observer(store.names, store.dialect)
        self._token: int | None = None
        #: What was told and is not over: since when, by what it is about.
        self._told: dict[str, str] = {}

    async def step(self, lease: Lease) -> float:
        """Look once, tell what has changed, and write that down; return the seconds until the next look."""
        if lease.token != self._token:
            self._told = _read(lease.mark.place)
            self._token = lease.token
        observed = await guarded(self._store.call(self._observer.look, self._service))
        told = dict(self._told)
        if not observed.replica:
            self._backlogs(observed, told)
            self._breakers(observed, told)
        if told != self._told:
            self._told = told
            mark = Mark(None, None, 0, json.dumps(told))
            if not await guarded(self._store.call(self._store.leases.move, lease, mark, 0, same_window=True)):
                raise LeaseLost("another worker tells alerts now")
        return _LOOK

    def _backlogs(self, observed: Observed, told: dict[str, str]) -> None:
        for seconds, callback in self._watch.backlog:
            for name, backlog in observed.backlogs.items():
                reader = observed.readers[name]
                what = f"backlog {seconds:g} {name}"
                age = timedelta(0) if backlog.oldest is None else max(observed.now - backlog.oldest, timedelta(0))
                old = age.total_seconds() >= seconds and reader.state == "active"
                since = told.get(what)
                if old == (since is not None):
                    continue
                began = observed.now if since is None else datetime.fromisoformat(since)
                self._tell(callback, BacklogAlert(self._service, reader.group, name, backlog.events, age, not old, began))
                _note(told, what, began if old else None)

    def _breakers(self, observed: Observed, told: dict[str, str]) -> None:
        if not self._watch.breaker:
            return
        for item in observed.subscriptions:
            what = f"breaker {item.label}"
            since = told.get(what)
            # Half-open is still the same outage, and while nobody reads nothing is known.
            state = {"open": True, "half-open": True, "closed": False}.get(item.breaker or "")
            if state is None or state == (since is not None):
                continue
            began = datetime.fromisoformat(since) if since is not None else item.breaker_since or observed.now
            for callback in self._watch.breaker:
                self._tell(callback, BreakerAlert(self._service, item.label, item.breaker_reason or "", not state, began))
            _note(told, what, began if state else None)


def _note(told: dict[str, str], what: str, since: datetime | None) -> None:
    if since is None:
        told.pop(what, None)
    else:
        told[what] = since.isoformat()


def _read(place: str | None) -> dict[str, str]:
    try:
        found = json.loads(place or "{}")
    except ValueError:
        return {}
    return {str(what): str(since) for what, since in found.items()} if isinstance(found, dict) else {}
