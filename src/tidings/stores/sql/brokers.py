"""How the brokers of the services on these tables are: what relays and receivers have told, and what every worker says of its own connections.

One source for `tidings status`, `tidings doctor` and the dashboard. Whether a broker is up is told at once, by whoever has the lease
(`subscriptions.breaker`); the rest comes with the heartbeat, up to ten seconds later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import ALIVE, INBOUND, RELAY, Activity, Backlog, Reader, Subscription
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.views_stats import durations, quantile

__all__ = ["Broker", "Brokers", "Link", "Reported", "brokers_of", "state_of"]

State = Literal["connected", "down", "paused", "unknown"]

#: How long a relay may stand still while events wait before it is called stalled.
_STALLED = timedelta(seconds=60)


class Link(NamedTuple):
    """What a service has to do with a broker: its relay sends, or a group receives.

    Attributes:
        state: `connected`, `down`, `paused` by an operator, or `unknown` while nobody relays or receives.
        since: when that began, as far as it is known.
        error: why it is down, or was the last time, at `error_at`.
        connected, workers: how many live processes have a connection for it, of those that could; where a reader has a lease, one at a time has.
        owner: who has the lease, as `host:pid`.
        backlog: unread events of a relay, counted up to a bound; `oldest` is the time of the first. None of what comes from the broker.
        moved_at: when its checkpoint last moved.
        stalled: whether events wait although the broker is there, and nothing has moved for a minute.
        lag: within how many milliseconds of their commit 99 % of the events of the last 15 minutes were sent, or handled.
    """

    label: str
    group: str
    way: Literal["sends", "receives"]
    state: State
    since: datetime | None
    error: str | None
    error_at: datetime | None
    connected: int
    workers: int
    owner: str | None
    backlog: int | None
    oldest: datetime | None
    moved_at: datetime | None
    stalled: bool
    lag: float | None


class Broker(NamedTuple):
    """A transport of a service.

    Attributes:
        kind: `RabbitMQ`, `Kafka` ...; empty when no worker of the last day knows it.
        address: scheme, host and port, without user, password and parameters.
        state: the worst of its links.
    """

    name: str
    service: str
    kind: str
    address: str
    state: State
    since: datetime | None
    error: str | None
    error_at: datetime | None
    links: list[Link]


class Reported(NamedTuple):
    """What one worker says of one transport; `links` by label."""

    service: str
    alive: bool
    name: str
    kind: str
    address: str
    links: Mapping[str, Mapping[str, Any]]


class Brokers:
    """The query on one set of tables; a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        text = "::text" if dialect.name == "postgresql" else ""
        # Who was seen last comes last, and is believed.
        self.reported_ = Sql(f"""
            select service, seen_at > {dialect.after(f"-{ALIVE:g}")}, brokers{text} from (
              select service, seen_at, brokers from {names.workers} order by seen_at desc limit 500) w
            order by seen_at
        """)

    def reported(self, connection: Connection) -> list[Reported]:
        """Return what the workers say, who was seen last at the end."""
        found = []
        for service, alive, brokers in run(connection, Command(self.reported_, ())):
            for each in json.loads(brokers):
                links = {link["label"]: link for link in each["links"]}
                found.append(Reported(service, bool(alive), each["name"], each["kind"], each["address"], links))
        return found


def state_of(item: Subscription) -> State:
    """Return what was told of the broker behind the subscription of a relay, or of what comes from a broker."""
    if item.state == "paused":
        return "paused"
    if item.breaker is None:
        return "unknown"
    return "connected" if item.breaker == "closed" else "down"


def brokers_of(
    reported: Sequence[Reported], subscriptions: Iterable[Subscription], readers: Iterable[Reader], backlogs: Mapping[str, Backlog],
    activity: Iterable[Activity], now: datetime,
) -> list[Broker]:  # fmt: skip
    """Put together what is known of every broker. Pure.

    Args:
        backlogs: of readers of the log, by their names.
        activity: of the last 15 minutes.
        now: the database's time.
    """
    by_name = {reader.reader: reader for reader in readers}
    lately: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for item in activity:
        group, _, name = item.subject.rpartition("/")
        # What a group receives is handled by its subscriptions.
        lately.setdefault((item.service, group or name), []).append((item.measure, item.total))
    links: dict[tuple[str, str], list[Link]] = {}
    for subscription in subscriptions:
        if subscription.state == "retired":
            continue
        if subscription.group.startswith(RELAY):
            name, reader = subscription.group.removeprefix(RELAY), f"{subscription.service}/{subscription.group}@log"
        elif subscription.name.startswith(INBOUND):
            name = subscription.name.removeprefix(INBOUND)
            reader = f"{subscription.service}/{subscription.group}@{name}"
        else:
            continue
        said = [each for each in reported if each.service == subscription.service and each.name == name]
        lag = quantile(durations(lately.get((subscription.service, subscription.group), []), "lag"), 0.99)
        link = _link(subscription, said, by_name.get(reader), backlogs.get(reader), lag, now)
        links.setdefault((subscription.service, name), []).append(link)
    about = {(each.service, each.name): (each.kind, each.address) for each in reported}
    return [
        _broker(service, name, *about.get((service, name), ("", "")), links.get((service, name), []))
        for service, name in sorted({*about, *links})
    ]


def _link(
    item: Subscription, said: Iterable[Reported], reader: Reader | None, backlog: Backlog | None, lag: float | None, now: datetime
) -> Link:  # fmt: skip
    state = state_of(item)
    mine = [each.links[item.label] for each in said if each.alive and item.label in each.links]
    up = [each for each in mine if each["state"] == "connected"]
    since = (
        item.breaker_since
        if state == "down"
        else min((_time(each["since"]) for each in up), default=None)
        if state == "connected"
        else None
    )
    failed = max((each for each in mine if each["error"]), key=lambda each: _time(each["error_at"]), default=None)
    error, error_at = (None, None) if failed is None else (str(failed["error"]), _time(failed["error_at"]))
    if state == "down":
        error = item.breaker_reason or error
    moved_at = None if reader is None else reader.moved_at
    late = backlog is not None and backlog.oldest is not None and now - backlog.oldest > _STALLED
    return Link(
        item.label, item.group, "sends" if item.group.startswith(RELAY) else "receives", state, since, error, error_at, len(up), len(mine),
        None if reader is None or reader.host is None or reader.kind == "queue" else f"{reader.host}:{reader.pid}",
        None if backlog is None else backlog.events, None if backlog is None else backlog.oldest, moved_at,
        late and state == "connected" and (moved_at is None or now - moved_at > _STALLED), lag,
    )  # fmt: skip


def _broker(service: str, name: str, kind: str, address: str, links: list[Link]) -> Broker:
    there = {link.state for link in links}
    state: State = "down" if "down" in there else "connected" if "connected" in there else "paused" if "paused" in there else "unknown"
    since = min((link.since for link in links if link.state == state and link.since is not None), default=None)
    failed = [link for link in links if link.error is not None and (state != "down" or link.state == "down")]
    last = max(failed, key=lambda link: (link.error_at is not None, link.error_at or 0), default=None)
    error, error_at = (None, None) if last is None else (last.error, last.error_at)
    return Broker(name, service, kind, address, state, since, error, error_at, links)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
