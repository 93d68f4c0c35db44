"""What a dashboard asks about failures and scheduled events. Read only, by keyset, each count bounded and said to be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from tidings.ids import event_key_bounds
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import label_of
from tidings.stores.sql.repair import NEAR, Heads, Standing, near, near_lanes, standing
from tidings.stores.sql.statement import Command, Sql

__all__ = ["GROUPS", "FailedRow", "FailureFilter", "FailurePage", "Group", "ParkedViews", "Waiting"]

#: Most groups of failures that are looked at, and up to which the failures of a group are counted.
GROUPS = 200
COUNTED = 1_000
COUNTED_DEAD = 200

#: What a search among failures looks through: all, those of a fingerprint, or of a fingerprint in one subscription.
_Way = Literal["all", "kind", "group"]
_WAYS: tuple[_Way, ...] = ("all", "kind", "group")

#: How many parked events one search looks through, and how many dead keys a dry run counts.
_WINDOW = 5_000
MATCHED = 10_000


class Group(NamedTuple):
    """Failures of one fingerprint in one subscription.

    Attributes:
        failures: parked events that failed this way, up to `COUNTED` + 1; `dead` those of the newest `COUNTED_DEAD` + 1 that are not tried again.
        first, last: when the oldest of them was parked, and when the newest failed last.
        number: of the newest.
    """

    fingerprint: str
    subscription_id: int
    service: str
    group: str
    name: str
    failures: int
    dead: int
    first: datetime | None
    last: datetime | None
    number: int
    error_type: str | None
    error_message: str | None
    traceback: str | None
    event: str

    @property
    def label(self) -> str:
        """What the subscription is called."""
        return label_of(self.group, self.name)


class FailedRow(NamedTuple):
    """A parked event that has failed, without its bytes. `state` is that of its lane, or `waiting` when it is not the head."""

    number: int
    state: str
    service: str
    group: str
    subscription: str
    event_id: str
    source: str
    name: str
    version: int | None
    key: str | None
    reason: str
    attempts: int
    error_type: str | None
    error_message: str | None
    fingerprint: str | None
    failed_at: datetime | None
    depth: int

    @property
    def label(self) -> str:
        """What the subscription is called."""
        return label_of(self.group, self.subscription)


class FailureFilter(NamedTuple):
    """Which failures are meant; None leaves a condition out. `since` and `until` bound the time of the last failure, aware."""

    service: str | None = None
    subscription: str | None = None
    subscription_id: int | None = None
    event: str | None = None
    event_id: str | None = None
    key: str | None = None
    state: str | None = None
    fingerprint: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class FailurePage(NamedTuple):
    """Failures, newest first; `before` is the cursor of what follows, `searched` is set when the search ended before the page was full."""

    rows: list[FailedRow]
    before: int | None
    searched: int | None


class Waiting(NamedTuple):
    """A scheduled event."""

    id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    due_at: datetime | None
    published_at: datetime | None


class ParkedViews:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._pg = pg = dialect.name == "postgresql"
        typed = dialect.cast
        text = "::text" if pg else ""
        uuid = "uuid" if pg else "text"

        def is_or_any(column: str, parameter: str, kind: str = "text") -> str:
            return f"({typed(parameter, kind)} is null or {column} = {typed(parameter, kind)})"

        mine = f"fingerprint = {typed('$1', 'text')} and subscription_id = {typed('$2', 'int')}"
        # The groups one after another by the index, each with its newest number: as many steps as there are groups, not as rows.
        self.next_ = Sql(f"""
            select g.fingerprint, g.subscription_id,
                   (select max(x.number) from {names.deliveries} x
                    where x.fingerprint = g.fingerprint and x.subscription_id = g.subscription_id)
            from (select fingerprint, subscription_id from {names.deliveries}
                  where fingerprint is not null and (fingerprint, subscription_id) > ({typed("$1", "text")}, {typed("$2", "int")})
                  order by fingerprint, subscription_id limit 1) g
        """)
        self.count_ = Sql(f"select count(*) from (select 1 from {names.deliveries} where {mine} limit {COUNTED + 1}) d")
        lane_of_it = f"select 1 from {names.lanes} l where l.lane = d.lane and l.subscription_id = d.subscription_id and l.state = 'dead'"
        self.count_dead_ = Sql(f"""
            select count(*) from (
              select lane, subscription_id from {names.deliveries} where {mine} order by number desc limit {COUNTED_DEAD + 1}) d
            where {f"({lane_of_it} limit 1) is not null" if pg else f"exists ({lane_of_it})"}
        """)
        self.group_ = Sql(f"""
            select d.fingerprint, d.subscription_id, s.service, s.group_name, s.name,
                   (select f.parked_at from {names.deliveries} f where f.{mine.replace("and ", "and f.")} order by f.number limit 1),
                   d.failed_at, d.number, d.error_type, d.error_message, d.traceback, d.name
            from {names.deliveries} d join {names.subscriptions} s on s.id = d.subscription_id
            where d.number = {typed("$3", "bigint")}
        """)
        columns = f"""
            d.number, l.state, s.service, s.group_name, s.name, d.event_id, d.source, d.name, d.version, d.key, d.reason, d.attempts, d.error_type,
            d.error_message, d.fingerprint, d.failed_at, l.depth,
            (select min(b.number) from {names.deliveries} b where b.lane = d.lane and b.subscription_id = d.subscription_id)
        """
        # One look-up of the lane for each row, and no more rows than the page wants: a planner that joins all lanes first would read them all.
        lane = f"select l.state, l.depth from {names.lanes} l where l.lane = d.lane and l.subscription_id = d.subscription_id"
        joined = f"""
            {f"cross join lateral ({lane} offset 0) l" if pg else f"join {names.lanes} l on l.lane = d.lane and l.subscription_id = d.subscription_id"}
            join {names.subscriptions} s on s.id = d.subscription_id
        """
        named = f"(s.name = {typed('$2', 'text')} or s.group_name || '/' || s.name = {typed('$2', 'text')})"
        time = "timestamptz"
        chosen = f"""
            ({typed("$2", "text")} is null or {named}) and {is_or_any("d.name", "$3")} and {is_or_any("d.key", "$4")}
              and {is_or_any("s.service", "$5")} and {is_or_any("l.state", "$6")} and {is_or_any("d.subscription_id", "$10", "int")}
              and {is_or_any("d.fingerprint", "$11")} and d.failed_at is not null
              and ({typed("$8", time)} is null or d.failed_at >= {typed("$8", time)})
              and ({typed("$9", time)} is null or d.failed_at < {typed("$9", time)})
        """
        light = "number, lane, subscription_id, event_id, source, name, version, key, reason, attempts, error_type, error_message, fingerprint, failed_at"

        def listed(candidates: str) -> Sql:
            return Sql(f"""
                select {columns} from (
                  select {light} from {names.deliveries}
                  where number < {typed("$1", "bigint")} and number >= {typed("$12", "bigint")} {candidates}) d
                {joined}
                where {chosen}
                order by d.number desc limit {typed("$7", "int")}
            """)

        def within(way: _Way, fingerprint: str, subscription: str) -> str:
            kind, group = f"and fingerprint = {typed(fingerprint, 'text')}", f"and subscription_id = {typed(subscription, 'int')}"
            return {"all": "", "kind": kind, "group": f"{kind} {group}"}[way]

        # What is looked through, newest first. `floor_` is where a window ends: asked for before the window is read, or what leaves it between the two
        # would move its end beyond rows that were not looked at. The limit makes the planner begin here; it has room for what comes between the two.
        self.failures_ = {way: listed(f"{within(way, '$11', '$10')} order by number desc limit {2 * _WINDOW}") for way in _WAYS}
        self.floor_ = {
            way: Sql(f"""
                select number from {names.deliveries} where number < {typed("$1", "bigint")} {within(way, "$2", "$3")}
                order by number desc limit 1 offset {_WINDOW - 1}
            """)
            for way in _WAYS
        }
        # The index on event keys leads to an event by the time in its id, whoever made it.
        self.of_event_ = listed(
            f"and event_key between {typed('$13', uuid)} and {typed('$14', uuid)} and event_id = {typed('$15', 'text')}"
        )
        first = f"select min(x.number) from {names.deliveries} x where x.lane = l.lane and x.subscription_id = l.subscription_id"
        # The dry run of an action, counted up to a bound. With a fingerprint the way leads through its index.
        meant = f"""
            {is_or_any("d.number", "$1", "bigint")} and {is_or_any("d.event_id", "$2")} and {is_or_any("s.service", "$3")}
            and ({typed("$4", "text")} is null or s.name = {typed("$4", "text")} or s.group_name || '/' || s.name = {typed("$4", "text")})
            and {is_or_any("d.name", "$5")} and {is_or_any("l.key", "$6")} and {is_or_any("d.fingerprint", "$7")}
            and ({typed("$8", time)} is null or d.failed_at >= {typed("$8", time)}) and ({typed("$9", time)} is null or d.failed_at < {typed("$9", time)})
        """
        found = f"select l.depth from {names.lanes} l join {names.subscriptions} s on s.id = l.subscription_id"
        # The head by look-up, lane by lane, until there are enough.
        of_lane = f"select d.* from {names.deliveries} d where d.lane = l.lane and d.subscription_id = l.subscription_id order by d.number limit 1"
        head = f"cross join lateral ({of_lane}) d" if pg else f"join {names.deliveries} d on d.number = ({first})"
        stands = standing(dialect)
        self.matched_ = {
            state: Sql(f"""
                select count(*), coalesce(sum(depth), 0) from ({found} {head} where {condition} and {meant} limit {typed("$10", "int")}) m
            """)
            for state, condition in stands.items()
        }
        self.matched_near_ = {
            (state, by): Sql(f"""
                select count(*), coalesce(sum(depth), 0) from (
                  select l.depth from {near_lanes(names, dialect, by, 11)} where {condition} and {meant} limit {typed("$10", "int")}) m
            """)
            for state, condition in stands.items()
            for by in NEAR
        }
        exact = meant.replace(is_or_any("d.fingerprint", "$7"), f"d.fingerprint = {typed('$7', 'text')}")
        its = "l.lane = d.lane and l.subscription_id = d.subscription_id"
        one = f"select l.depth, l.key, ({first}) as head from {names.lanes} l where {its}"
        self.matched_kind_ = {
            state: Sql(f"""
                select count(*), coalesce(sum(depth), 0) from (
                  select l.depth from {names.deliveries} d
                  {f"cross join lateral ({one} and {condition} offset 0) l" if pg else f"join {names.lanes} l on {its} and {condition}"}
                  join {names.subscriptions} s on s.id = d.subscription_id
                  where {exact} and d.number = {"l.head" if pg else f"({first})"} limit {typed("$10", "int")}) m
            """)
            for state, condition in stands.items()
        }
        scheduled = f"id{text}, source, name, version, topic, key, due_at, published_at"
        self.scheduled_ = Sql(f"""
            select {scheduled} from {names.scheduled} where (due_at, id) > ({typed("$1", "timestamptz")}, {typed("$2", uuid)})
            order by due_at, id limit {typed("$3", "int")}
        """)
        self.scheduled_one_ = Sql(f"select {scheduled}, headers{text}, data{text} from {names.scheduled} where id = {typed('$1', uuid)}")

    def groups(
        self, connection: Connection, limit: int, service: str | None = None, subscription: str | None = None
    ) -> tuple[list[Group], bool]:
        """Return the groups of failures whose newest failure is the latest, and whether there are more than `GROUPS` of them."""
        found: list[tuple[str, int, int]] = []
        place = ("", -1)
        while len(found) <= GROUPS and (rows := run(connection, Command(self.next_, place))):
            found.append((rows[0][0], rows[0][1], rows[0][2]))
            place = (rows[0][0], rows[0][1])
        many = len(found) > GROUPS
        groups: list[Group] = []
        for item in sorted(found[:GROUPS], key=lambda item: -item[2]):
            group = self._group(connection, *item)
            if group is None or service not in (None, group.service) or subscription not in (None, group.name, group.label):
                continue
            groups.append(group)
            if len(groups) == limit:
                break
        return groups, many

    def group(self, connection: Connection, fingerprint: str, subscription_id: int) -> Group | None:
        """Return one group, if it has failures."""
        rows = run(connection, Command(self.next_, (fingerprint, subscription_id - 1)))
        if not rows or tuple(rows[0][:2]) != (fingerprint, subscription_id):
            return None
        return self._group(connection, fingerprint, subscription_id, rows[0][2])

    def _group(self, connection: Connection, fingerprint: str, subscription_id: int, number: int) -> Group | None:
        rows = run(connection, Command(self.group_, (fingerprint, subscription_id, number)))
        if not rows:
            return None
        row = rows[0]
        ((count,),) = run(connection, Command(self.count_, (fingerprint, subscription_id)))
        ((dead,),) = run(connection, Command(self.count_dead_, (fingerprint, subscription_id)))
        return Group._make((*row[:5], count, dead, as_datetime(row[5]), as_datetime(row[6]), *row[7:]))

    def failures(self, connection: Connection, limit: int, before: int | None, chosen: FailureFilter) -> FailurePage:
        """Return failed events that are parked, newest first; those of an event by index, else through a window of parked events."""
        start = 2**62 if before is None else before
        times = (self._time(chosen.since), self._time(chosen.until))
        way: _Way = "all" if chosen.fingerprint is None else "kind" if chosen.subscription_id is None else "group"
        floor: int | None = None
        if chosen.event_id is None:
            place = {"all": (), "kind": (chosen.fingerprint,), "group": (chosen.fingerprint, chosen.subscription_id)}[way]
            rows = run(connection, Command(self.floor_[way], (start, *place)))
            floor = rows[0][0] if rows else None
        arguments = (
            start, chosen.subscription, chosen.event, chosen.key, chosen.service, chosen.state, limit + 1, *times, chosen.subscription_id,
            chosen.fingerprint, 0 if floor is None else floor,
        )  # fmt: skip
        command = Command(self.failures_[way], arguments)
        if chosen.event_id is not None:
            command = Command(self.of_event_, (*arguments, *event_key_bounds(chosen.event_id), chosen.event_id))
        found = [_failed(row) for row in run(connection, command)]
        if len(found) > limit:
            return FailurePage(found[:limit], found[limit - 1].number, None)
        return FailurePage(found, floor, None if floor is None else _WINDOW)

    def matched(self, connection: Connection, heads: Heads, limit: int = MATCHED, state: Standing = "dead") -> tuple[int, int]:
        """Return how many lanes of a state an action would change, and the events in them: at most `limit` + 1 lanes are counted."""
        *rest, since, until = heads
        by, bounds = near(heads)
        if by is not None:
            statement = self.matched_near_[state, by]
        else:
            statement = (self.matched_ if heads.fingerprint is None else self.matched_kind_)[state]
        ((lanes, events),) = run(connection, Command(statement, (*rest, self._time(since), self._time(until), limit + 1, *bounds)))
        return int(lanes), int(events)

    def scheduled(self, connection: Connection, limit: int, after: tuple[datetime, str] | None = None) -> list[Waiting]:
        """Return scheduled events, the next one due first."""
        at, event_id = after or (datetime(1970, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000" if self._pg else "")
        return [_waiting(row) for row in run(connection, Command(self.scheduled_, (self._time(at), event_id, limit)))]

    def scheduled_one(self, connection: Connection, event_id: str) -> tuple[Waiting, str, str] | None:
        """Return a scheduled event with its headers and data as JSON text, if it still waits."""
        rows = run(connection, Command(self.scheduled_one_, (event_id,)))
        return (_waiting(rows[0]), rows[0][8], rows[0][9]) if rows else None

    def _time(self, value: datetime | None) -> datetime | str | None:
        if value is None or self._pg:
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _failed(row: Sequence[Any]) -> FailedRow:
    return FailedRow._make((row[0], row[1] if row[17] == row[0] else "waiting", *row[2:15], as_datetime(row[15]), row[16]))


def _waiting(row: Sequence[Any]) -> Waiting:
    return Waiting._make((str(row[0]), *row[1:6], as_datetime(row[6]), as_datetime(row[7])))
