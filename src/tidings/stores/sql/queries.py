"""What operators ask of a store. Every query only reads, and is bounded: none of them counts a log to its end.

The rows are values with aware times, the same on every database; the command line and dashboards print them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.stats import buckets

__all__ = [
    "ALIVE",
    "COUNTED",
    "INBOUND",
    "RELAY",
    "SHARED",
    "Activity",
    "Backlog",
    "Event",
    "Queries",
    "Reader",
    "Scheduled",
    "Subscription",
    "Worker",
    "label_of",
    "of_service",
    "title_of",
]

#: What a count is worth knowing up to: one more says that there are more.
COUNTED = 100_000

#: How many of the newest positions a filter looks through.
_SEARCHED = 100_000

#: What the groups of relays begin with.
RELAY = "relay:"

#: What the subscriptions begin with that keep what a group has received and nobody understands.
INBOUND = "inbound:"

#: What the group ends with whose subscriptions all environments of a service share, to tell which of them has handled an event: nobody's to look at.
SHARED = "@"

#: Seconds after its last sign of life for which a worker counts as alive (it gives one every ten); most rows of a list.
ALIVE = 30.0
_LISTED = 500


class Backlog(NamedTuple):
    """What a reader has not read yet: at most `COUNTED` + 1 events, and the time of the oldest of them."""

    events: int
    oldest: datetime | None


class Reader(NamedTuple):
    """A group's reader: of the log (`kind` is `log`), of a broker (`queue`, or by position `stream`), or a leased task (`task`).

    Attributes:
        owner: the worker that acts for it; `host` and `pid` where that worker is alive.
        lease_until: until when; a time that has passed says that its worker stopped without a word.
        moved_at: when its checkpoint last moved.
        restarts: how often it was taken over since then.
        place: how far a `stream` was read, as JSON.
    """

    reader: str
    service: str
    group: str
    kind: str
    state: str
    owner: str | None
    host: str | None
    pid: int | None
    lease_until: datetime | None
    moved_at: datetime | None
    restarts: int
    mark: tuple[str | None, str | None, int]
    place: str | None = None

    @property
    def option(self) -> str:
        """What a command needs beside its group to mean that of this service."""
        return of_service(self.service, self.group)


class Subscription(NamedTuple):
    """A subscription with its lanes: how many keys are retrying, how many have a dead event, and how many events are parked in all.

    Attributes:
        waiting: events that wait behind a dead one.
        overdue: keys that should have been tried again more than a minute ago, and that nobody has taken.
        blocked_since: since when the longest blocked of its keys is.
        breaker: `closed`, `open` or `half-open` (one event probes) in the process that reads for its group now; None when none does.
        breaker_since, breaker_reason: since when it is not closed, and why.
    """

    id: int
    service: str
    group: str
    name: str
    events: tuple[str, ...]
    ordered: bool
    state: str
    retrying: int = 0
    dead: int = 0
    parked: int = 0
    waiting: int = 0
    overdue: int = 0
    blocked_since: datetime | None = None
    breaker: str | None = None
    breaker_since: datetime | None = None
    breaker_reason: str | None = None

    @property
    def label(self) -> str:
        """What it is called: `group/name`, or the name alone of a relay."""
        return label_of(self.group, self.name)

    @property
    def title(self) -> str:
        """What it is called among those of several services."""
        return title_of(self.service, self.label)

    @property
    def option(self) -> str:
        """What a command needs beside its name to mean it and no other."""
        return of_service(self.service, self.group)


class Activity(NamedTuple):
    """How often something happened lately; `subject` is a subscription as `group/name`, which several services may have: `relay:rabbitmq`."""

    service: str
    subject: str
    measure: str
    total: int


class Scheduled(NamedTuple):
    """Events that wait for their time; at most `COUNTED` + 1."""

    events: int
    next_due: datetime | None


class Worker(NamedTuple):
    """A process that runs a service."""

    id: str
    service: str
    environment: str | None
    roles: str
    host: str
    pid: int
    version: str
    started_at: datetime | None
    seen_at: datetime | None
    alive: bool


class Event(NamedTuple):
    """A row of the log; headers and data as JSON text."""

    position: int
    id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    headers: str
    data: str
    time: datetime | None


def label_of(group: str, name: str) -> str:
    """Return what a subscription is called: `group/name`, or the name alone of a relay, whose group is called the same."""
    return name if group == name and name.startswith(RELAY) else f"{group}/{name}"


def title_of(service: str, label: str) -> str:
    """Return what a subscription is called among those of several services: with the service, unless its group bears that name."""
    return f"{label} of {service}" if of_service(service, label) else label


def of_service(service: str, group: str) -> str:
    """Return the option by which a command means the group or subscription of this service, or nothing where the group bears its name."""
    # An environment's group is called group@environment.
    return "" if group.partition("/")[0].partition("@")[0] == service else f" --of {service}"


class Queries:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`.

    Args:
        counted: what the backlog of a reader is counted up to.
    """

    def __init__(self, names: Names, dialect: Dialect, counted: int = COUNTED) -> None:
        self._pg = pg = dialect.name == "postgresql"
        self._counted = counted
        typed = dialect.cast
        self.clock_ = Sql("select clock_timestamp(), pg_is_in_recovery()" if pg else f"select {dialect.now}, 0")
        windows = "c.previous::text, c.current::text" if pg else "null, null"
        worker = "w.id::text" if pg else "w.id"
        self.readers_ = Sql(f"""
            select c.reader, c.service, c.group_name, c.kind, c.state, c.owner, w.host, w.pid, c.lease_until, c.moved_at, c.restarts,
                   {windows}, c.position, c.place
            from {names.checkpoints} c left join {names.workers} w on {worker} = c.owner
            where c.kind <> 'session'
            order by c.kind, c.service, c.group_name, c.reader limit {_LISTED}
        """)
        self.after_position = Sql(f"""
            select count(*), min(time) from (
              select time from {names.outbox} where position > $1 order by position limit {counted + 1}) u
        """)
        # Rows that a reader at snapshot (xmax $1, xip $2) has not seen, by the index (tx, position), as the poll of the reader itself.
        self.after_snapshot = Sql(f"""
            select count(*), min(u.time) from (
              select v.time from (
                (select o.time from {names.outbox} o where o.tx >= $1::text::xid8 order by o.tx, o.position limit {counted + 1})
                union all
                (select o.time from unnest($2::text[]::xid8[]) l(tx)
                   cross join lateral (
                     select o.time from {names.outbox} o where o.tx >= l.tx and o.tx <= l.tx order by o.tx, o.position limit {counted + 1}) o)
              ) v limit {counted + 1}) u
        """)
        # What is left of a window that is being paged, by the primary key, as the page of the reader itself.
        self.in_window = Sql(f"""
            select count(*), min(u.time) from (
              select o.time from {names.outbox} o
              where o.position > $1::bigint
                and not pg_visible_in_snapshot(o.tx, (select $2::text::pg_snapshot))
                and pg_visible_in_snapshot(o.tx, (select $3::text::pg_snapshot))
              order by o.position limit {counted + 1}) u
        """)
        events = "events::text" if pg else "events"
        # A state of the breaker is that of the process that told it: it counts as long as that one reads. Where several read side by side, what was
        # told last does. Who cannot reach a broker gives the lease up now and then: what it told counts until the next one knows better.
        alive = f"exists (select 1 from {names.workers} w where {worker} = s.breaker_owner and w.seen_at > {dialect.after(f'-{ALIVE:g}')})"
        of_broker = f"(s.name like '{RELAY}%' or s.name like '{INBOUND}%') and {alive}"
        told = f"s.breaker is not null and (s.breaker_owner = c.owner or c.kind = 'queue' and c.owner is not null or {of_broker})"
        # A group may read several sources; what has come in over one of them and was not understood belongs to that one.
        reader = f"""
            case when s.name like '{INBOUND}%' then s.service || '/' || s.group_name || '@' || substr(s.name, {len(INBOUND) + 1})
            else (select min(x.reader) from {names.checkpoints} x
              where x.service = s.service and x.group_name = s.group_name and x.kind in ('log', 'queue', 'stream') and x.lease_until >= {dialect.now})
            end"""
        self.subscriptions_ = Sql(f"""
            select s.id, s.service, s.group_name, s.name, s.{events}, s.ordered, s.state,
                   case when {told} then s.breaker when c.owner is not null then 'closed' end,
                   case when {told} then s.breaker_since end, case when {told} then s.breaker_reason end
            from {names.subscriptions} s
            left join {names.checkpoints} c
              on c.reader = {reader} and c.shard = 0 and c.lease_until >= {dialect.now}
            where s.group_name not like '%{SHARED}'
            order by s.service, s.group_name, s.name limit {_LISTED}
        """)
        label = f"s.name = {typed('$2', 'text')} or s.group_name || '/' || s.name = {typed('$2', 'text')}"
        self.has_subscription_ = Sql(f"""
            select exists (select 1 from {names.subscriptions} s
              where ({typed("$1", "text")} is null or s.service = {typed("$1", "text")}) and ({typed("$2", "text")} is null or {label}))
        """)
        late = f"due_at < {dialect.after('-60')} and (lease_until is null or lease_until < {dialect.now})"
        self.lanes_ = Sql(f"""
            select l.subscription_id, l.state, count(*), sum(l.depth), sum(l.late), min(l.blocked_at) from (
              select subscription_id, state, depth, blocked_at, case when {late} then 1 else 0 end as late
              from {names.lanes} limit {COUNTED + 1}) l
            group by l.subscription_id, l.state
        """)
        among = "bucket = any($1::timestamptz[])" if pg else "bucket in (select value from json_each($1))"
        self.activity_ = Sql(f"""
            select service, subject, measure, {typed("sum(value)", "bigint")} from {names.stats}
            where {among} group by service, subject, measure order by service, subject, measure
        """)
        self.scheduled_ = Sql(f"""
            select count(*), min(due_at) from (select due_at from {names.scheduled} order by due_at, id limit {COUNTED + 1}) s
        """)
        self.workers_ = Sql(f"""
            select {worker}, w.service, w.environment, w.roles, w.host, w.pid, w.version, w.started_at, w.seen_at,
                   w.seen_at > {dialect.after(f"-{ALIVE:g}")}
            from {names.workers} w order by w.seen_at desc limit {_LISTED}
        """)
        text = "::text" if pg else ""
        columns = f"position, id{text}, source, name, version, topic, key, headers{text}, data{text}, time"
        pattern = f"name like {typed('$1', 'text')} escape '!'" if pg else "name glob $1"
        self.newest_ = Sql(f"""
            select {columns} from {names.outbox}
            where position > (select coalesce(max(position), 0) - {_SEARCHED} from {names.outbox})
              and ({typed("$1", "text")} is null or {pattern}) and ({typed("$2", "text")} is null or key = {typed("$2", "text")})
            order by position desc limit {typed("$3", "int")}
        """)
        self.here = Sql("select pg_current_snapshot()::text, 0" if pg else f"select null, coalesce(max(position), 0) from {names.outbox}")

    def clock(self, connection: Connection) -> tuple[datetime, bool]:
        """Return the database's time, and whether the server is in recovery (a replica)."""
        ((now, replica),) = run(connection, Command(self.clock_, ()))
        time = as_datetime(now)
        assert time is not None
        return time, bool(replica)

    def readers(self, connection: Connection) -> list[Reader]:
        """Return the readers of the log and the leased tasks."""
        return [
            Reader._make((*row[:8], as_datetime(row[8]), as_datetime(row[9]), row[10], tuple(row[11:14]), row[14]))
            for row in run(connection, Command(self.readers_, ()))
        ]

    def backlog(self, connection: Connection, reader: Reader) -> Backlog:
        """Return what a reader of the log has not read yet, judged by its checkpoint."""
        previous, current, position = reader.mark
        if not self._pg:
            parts = run(connection, Command(self.after_position, (position,)))
        elif previous is None:
            parts = []
        elif current is None:
            parts = run(connection, Command(self.after_snapshot, _bounds(previous)))
        else:
            parts = run(connection, Command(self.in_window, (position, previous, current)))
            parts += run(connection, Command(self.after_snapshot, _bounds(current)))
        times = [time for _, oldest in parts if (time := as_datetime(oldest)) is not None]
        return Backlog(min(sum(count for count, _ in parts), self._counted + 1), min(times, default=None))

    def has_subscription(self, connection: Connection, service: str | None, name: str | None) -> bool:
        """Return whether a service has a subscription of this name, or group/name; None stands for any."""
        ((found,),) = run(connection, Command(self.has_subscription_, (service, name)))
        return bool(found)

    def subscriptions(self, connection: Connection) -> list[Subscription]:
        """Return the subscriptions of every service, retired ones too, with their lanes."""
        lanes: dict[int, list[Sequence[Any]]] = {}
        for row in run(connection, Command(self.lanes_, ())):
            lanes.setdefault(row[0], []).append(row)
        result = []
        for id_, service, group, name, events, ordered, state, breaker, since_open, reason in run(
            connection, Command(self.subscriptions_, ())
        ):
            counts = {row[1]: row[2] for row in lanes.get(id_, ())}
            blocked = [time for row in lanes.get(id_, ()) if (time := as_datetime(row[5])) is not None]
            result.append(
                Subscription(
                    id_, service, group, name, tuple(json.loads(events)), bool(ordered), state,
                    retrying=counts.get("retrying", 0), dead=counts.get("dead", 0),
                    parked=sum(int(row[3]) for row in lanes.get(id_, ())),
                    waiting=sum(int(row[3] - row[2]) for row in lanes.get(id_, ()) if row[1] == "dead"),
                    overdue=sum(int(row[4]) for row in lanes.get(id_, ()) if row[1] == "retrying"),
                    blocked_since=min(blocked, default=None),
                    breaker=breaker, breaker_since=as_datetime(since_open), breaker_reason=reason,
                )
            )  # fmt: skip
        return result

    def activity(self, connection: Connection, past: timedelta) -> list[Activity]:
        """Return what was counted within this time; counts arrive every ten seconds, and when a worker stops."""
        now, _ = self.clock(connection)
        # One that began before that time is left out.
        found = buckets(now - past, now)
        values: list[Any] = found if self._pg else [f"{each:%Y-%m-%dT%H:%M:%S.000}Z" for each in found]
        return [Activity(row[0], row[1], row[2], int(row[3])) for row in run(connection, Command(self.activity_, (self._items(values),)))]

    def scheduled(self, connection: Connection) -> Scheduled:
        """Return how many events wait for their time, and when the next one is due."""
        ((events, due),) = run(connection, Command(self.scheduled_, ()))
        return Scheduled(events, as_datetime(due))

    def workers(self, connection: Connection) -> list[Worker]:
        """Return the workers that did not say that they stopped, within the last day."""
        return [
            Worker._make((*row[:7], as_datetime(row[7]), as_datetime(row[8]), bool(row[9])))
            for row in run(connection, Command(self.workers_, ()))
        ]

    def newest(self, connection: Connection, limit: int, name: str | None = None, key: str | None = None) -> list[Event]:
        """Return the last rows of the log, oldest first, of those among the newest 100,000 that have this name and key.

        Args:
            name: an event's name; `*` in it stands for anything.
        """
        rows = run(connection, Command(self.newest_, (None if name is None else self._pattern(name), key, limit)))
        return [event_of(row) for row in reversed(rows)]

    def end(self, connection: Connection) -> tuple[str | None, int]:
        """Return the end of the log, as snapshot and position: what a reader that starts now has behind it."""
        ((snapshot, position),) = run(connection, Command(self.here, ()))
        return snapshot, position

    def _items(self, values: list[Any]) -> Any:
        return values if self._pg else json.dumps(values)

    def _pattern(self, name: str) -> str:
        if self._pg:
            return name.replace("!", "!!").replace("%", "!%").replace("_", "!_").replace("*", "%")
        return name.replace("[", "[[]").replace("?", "[?]")


def event_of(row: Sequence[Any]) -> Event:
    """Return the event of a row of the log."""
    return Event._make((row[0], str(row[1]), *row[2:9], as_datetime(row[9])))


def _bounds(snapshot: str) -> tuple[str, list[str]]:
    _, xmax, late = snapshot.split(":")
    return xmax, late.split(",") if late else []
