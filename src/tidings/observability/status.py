"""Whether all is well: what the command line and the dashboard look at, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from tidings.clock import duration

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.brokers import Broker
    from tidings.stores.sql.queries import Activity, Backlog, Reader, Scheduled, Subscription, Worker

__all__ = ["Status", "gather", "is_inbound", "is_relay", "many", "problems_of"]

#: How long a reader may stand still with a backlog, a scheduled event may be overdue.
_STALE = timedelta(seconds=60)
_LATE = timedelta(seconds=30)

#: The time over which activity is counted.
RECENT = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a store.

    Attributes:
        now: the database's time.
        replica: whether the server is in recovery, where nothing may be judged.
        backlogs: of the readers of the log, by their names.
        brokers: of all services, with what is known of the connections to them.
    """

    now: datetime
    replica: bool
    schema_version: int
    readers: Sequence[Reader]
    backlogs: dict[str, Backlog]
    subscriptions: Sequence[Subscription]
    activity: Sequence[Activity]
    scheduled: Scheduled
    workers: Sequence[Worker]
    brokers: Sequence[Broker] = ()
    problems: list[str] = field(default_factory=list)


async def gather(store: SQLStore) -> Status:
    """Look at a store, and find what is wrong."""
    from tidings.stores.sql.brokers import Brokers, brokers_of
    from tidings.stores.sql.migrate import current_version
    from tidings.stores.sql.queries import Queries

    queries = Queries(store.names, store.dialect)
    readers = await store.call(queries.readers)
    now, replica = await store.call(queries.clock)
    backlogs = {
        reader.reader: await store.call(queries.backlog, reader) for reader in readers if reader.kind == "log" and reader.state != "retired"
    }
    subscriptions, activity = await store.call(queries.subscriptions), await store.call(queries.activity, RECENT)
    reported = await store.call(Brokers(store.names, store.dialect).reported)
    status = Status(
        now,
        replica,
        await store.call(current_version, store.names),
        readers,
        backlogs,
        subscriptions,
        activity,
        await store.call(queries.scheduled),
        await store.call(queries.workers),
        brokers_of(reported, subscriptions, readers, backlogs, activity, now),
    )
    status.problems.extend(problems_of(status))
    return status


def problems_of(status: Status) -> list[str]:
    """Return what is wrong, in sentences that say what to do. Pure."""
    problems = []
    if status.replica:
        problems.append("the server is in recovery (a replica): ask the primary")
    # Their relays may stand back at the moment; that is said below.
    down = {(item.service, item.group) for item in status.subscriptions if is_relay(item) and item.breaker == "open"}
    for reader in status.readers:
        if reader.kind == "log" and reader.state == "active" and (reader.owner is not None or (reader.service, reader.group) not in down):
            problems += _of_reader(reader, status.backlogs[reader.reader], status.now)
    for subscription in status.subscriptions:
        if subscription.state == "retired":
            continue
        label = subscription.label
        if subscription.breaker is not None and subscription.breaker != "closed" and is_relay(subscription):
            since = "" if subscription.breaker_since is None else f" for {duration(status.now - subscription.breaker_since)}"
            problems.append(
                f"{label}: its broker has been down{since}, the events wait in the log: {subscription.breaker_reason or 'the reason is not known'}"
            )
        elif subscription.breaker is not None and subscription.breaker != "closed" and is_inbound(subscription):
            since = "" if subscription.breaker_since is None else f" for {duration(status.now - subscription.breaker_since)}"
            problems.append(
                f"{label}: its broker has been down{since}, and nothing comes from it: {subscription.breaker_reason or 'the reason is not known'}"
            )
        elif subscription.breaker in ("open", "half-open"):
            since = "" if subscription.breaker_since is None else f" for {duration(status.now - subscription.breaker_since)}"
            problems.append(
                f"subscription {label}: its breaker has been {subscription.breaker}{since}, its events wait in the log: "
                f"{subscription.breaker_reason or 'the reason is not known'}"
            )
        if subscription.dead:
            problems.append(
                f"subscription {label}: {many(subscription.dead, 'dead event', 'dead events')}, {subscription.waiting:,} waiting behind: "
                f"'tidings dead list --subscription {label}' says why"
            )
        if subscription.overdue:
            problems.append(
                f"subscription {label}: nobody tries {many(subscription.overdue, 'key', 'keys')} again although the time has come: "
                f"run a worker of service {subscription.service!r} that has it"
            )
    due = status.scheduled.next_due
    if due is not None and status.now - due > _LATE:
        problems.append(
            f"a scheduled event has been due for {duration(status.now - due)} and was not published: run a worker with role 'schedule'"
        )
    return problems


def is_inbound(what: Subscription) -> bool:
    """Whether this keeps what a group has received from a broker and nobody understands: it has a table of its own."""
    from tidings.stores.sql.queries import INBOUND

    return what.name.startswith(INBOUND)


def is_relay(what: Subscription | Reader) -> bool:
    """Whether this is a relay's: it has a table of its own."""
    from tidings.stores.sql.queries import RELAY

    return what.group.startswith(RELAY)


def _of_reader(reader: Reader, backlog: Backlog, now: datetime) -> list[str]:
    if not backlog.events:
        return []
    age = timedelta(0) if backlog.oldest is None else now - backlog.oldest
    if reader.owner is None or reader.lease_until is None or reader.lease_until < now:
        instead = f"or 'tidings groups retire {reader.group}' if it is gone for good"
        role = " with role 'relay'" if is_relay(reader) else ""
        return [f"group {reader.group!r} has a backlog and no worker reads for it: run service {reader.service!r}{role}, {instead}"]
    still = timedelta(0) if reader.moved_at is None else now - reader.moved_at
    if age > _STALE and still > _STALE:
        return [f"group {reader.group!r} has not moved for {duration(still)} although events wait: look at the worker's log"]
    return []


def many(count: int, one: str, several: str) -> str:
    """Return a count with the word for one, or for several."""
    return f"{count:,} {one if count == 1 else several}"
