"""Whether all is well: what the command line and the dashboard look at, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from tidings.clock import duration

if TYPE_CHECKING:
    from tidings.stores import SQLStore
    from tidings.stores.sql.brokers import Broker
    from tidings.stores.sql.queries import Activity, Backlog, Reader, Scheduled, Subscription, Worker

__all__ = ["Problem", "Status", "gather", "is_inbound", "is_relay", "is_unread", "many", "problems_in", "problems_of"]

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


class Problem(NamedTuple):
    """What is wrong.

    Attributes:
        kind: what kind of trouble it is, for those who look for the same in other ways.
        service: whose trouble; empty when it is everybody's.
        subject: the name of the reader or the label of the subscription that it is about.
        says: a sentence that says what to do.
    """

    kind: Literal["replica", "unread", "still", "paused", "broker", "breaker", "dead", "overdue", "schedule"]
    service: str
    subject: str
    says: str


def problems_of(status: Status) -> list[str]:
    """Return what is wrong, in sentences that say what to do. Pure."""
    return [problem.says for problem in problems_in(status)]


def problems_in(status: Status) -> Iterator[Problem]:
    """Return what is wrong. Pure."""
    if status.replica:
        yield Problem("replica", "", "", "the server is in recovery (a replica): ask the primary")
    # Their relays may stand back at the moment; that is said below.
    down = {(item.service, item.group) for item in status.subscriptions if is_relay(item) and item.breaker == "open"}
    for reader in status.readers:
        if reader.kind == "log" and reader.state == "active" and (reader.owner is not None or (reader.service, reader.group) not in down):
            its = [item for item in status.subscriptions if (item.service, item.group) == (reader.service, reader.group)]
            yield from _of_reader(reader, status.backlogs[reader.reader], its, status.now)
    yield from _of_sources(status)
    for subscription in status.subscriptions:
        if subscription.state != "retired":
            yield from _of_subscription(subscription, status.now)
    due = status.scheduled.next_due
    if due is not None and status.now - due > _LATE:
        yield Problem(
            "schedule", "", "",
            f"a scheduled event has been due for {duration(status.now - due)} and was not published: run a worker with role 'schedule'",
        )  # fmt: skip


def is_inbound(what: Subscription) -> bool:
    """Whether this keeps what a group has received from a broker and nobody understands: it has a table of its own."""
    from tidings.stores.sql.queries import INBOUND

    return what.name.startswith(INBOUND)


def is_relay(what: Subscription | Reader) -> bool:
    """Whether this is a relay's: it has a table of its own."""
    from tidings.stores.sql.queries import RELAY

    return what.group.startswith(RELAY)


def is_unread(reader: Reader, now: datetime) -> bool:
    """Whether no worker reads for it."""
    return reader.owner is None or reader.lease_until is None or reader.lease_until < now


def _of_reader(reader: Reader, backlog: Backlog, subscriptions: Sequence[Subscription], now: datetime) -> Iterator[Problem]:
    if not backlog.events:
        return
    age = timedelta(0) if backlog.oldest is None else now - backlog.oldest
    still = timedelta(0) if reader.moved_at is None else now - reader.moved_at
    if is_unread(reader, now):
        role = "relay" if is_relay(reader) else "consume"
        yield Problem(
            "unread", reader.service, reader.reader,
            f"group {reader.group!r} has a backlog and no worker reads for it: run service {reader.service!r}{_environment(reader)} with role {role!r}, or "
            f"'tidings groups retire {reader.group}{reader.option}' if it is gone for good",
        )  # fmt: skip
    elif age > _STALE and still > _STALE:
        paused = [item for item in subscriptions if item.state == "paused"]
        for item in paused:
            yield Problem(
                "paused", reader.service, reader.reader,
                f"subscription {item.title} is paused, and events wait in the log, the oldest for {duration(age)}: "
                f"'tidings subscriptions resume {item.label} --of {item.service}' lets it go on",
            )  # fmt: skip
        if paused or any(item.breaker in ("open", "half-open") for item in subscriptions):
            # What stops it is known, and said with the subscription.
            return
        yield Problem(
            "still", reader.service, reader.reader,
            f"group {reader.group!r} has not moved for {duration(still)} although events wait: look at the worker's log",
        )  # fmt: skip


def _of_sources(status: Status) -> Iterator[Problem]:
    """Return which groups nobody receives for from a broker: what waits there cannot be counted from here, so that alone is not well."""
    from tidings.stores.sql.queries import INBOUND

    inbound = [item for item in status.subscriptions if is_inbound(item)]
    # Who cannot reach the broker gives the lease up now and then; that the broker is down is said of it.
    down = {f"{item.service}/{item.group}@{item.name.removeprefix(INBOUND)}" for item in inbound if item.breaker not in (None, "closed")}
    taking = {(item.service, item.group) for item in status.subscriptions if item.state == "active" and not is_inbound(item)}
    for reader in status.readers:
        if reader.kind not in ("queue", "stream") or reader.state != "active" or reader.reader in down:
            continue
        if (reader.service, reader.group) in taking and is_unread(reader, status.now):
            broker = reader.reader.rpartition("@")[2]
            yield Problem(
                "unread", reader.service, reader.reader,
                f"group {reader.group!r} receives from {broker}, and no worker reads for it: what is sent to it waits at the broker: run service "
                f"{reader.service!r}{_environment(reader)} with role 'consume', or "
                f"'tidings groups retire {reader.group}{reader.option}' if it is gone for good",
            )  # fmt: skip


def _environment(reader: Reader) -> str:
    # With routing by environment, others than the default one read by groups that bear their names.
    _, at, environment = reader.group.rpartition("@")
    return f" in environment {environment!r}" if at else ""


def _of_subscription(item: Subscription, now: datetime) -> Iterator[Problem]:
    label = item.title
    since = "" if item.breaker_since is None else f" for {duration(now - item.breaker_since)}"
    reason = item.breaker_reason or "the reason is not known"
    if item.breaker is not None and item.breaker != "closed" and (is_relay(item) or is_inbound(item)):
        so = "the events wait in the log" if is_relay(item) else "and nothing comes from it"
        yield Problem("broker", item.service, item.label, f"{label}: its broker has been down{since}, {so}: {reason}")
    elif item.breaker in ("open", "half-open"):
        says = f"subscription {label}: its breaker has been {item.breaker}{since}, its events wait in the log: {reason}"
        yield Problem("breaker", item.service, item.label, says)
    if item.dead:
        yield Problem(
            "dead", item.service, item.label,
            f"subscription {label}: {many(item.dead, 'dead event', 'dead events')}, {item.waiting:,} waiting behind: "
            f"'tidings dead list --subscription {item.label}{item.option}' says why",
        )  # fmt: skip
    if item.overdue:
        yield Problem(
            "overdue", item.service, item.label,
            f"subscription {label}: nobody tries {many(item.overdue, 'key', 'keys')} again although the time has come: "
            f"run a worker of service {item.service!r} that has it",
        )  # fmt: skip


def many(count: int, one: str, several: str) -> str:
    """Return a count with the word for one, or for several."""
    return f"{count:,} {one if count == 1 else several}"
