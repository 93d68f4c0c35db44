"""What a dashboard asks of the log: pages of it, single events, and what belongs together. Read only, and bounded whatever the log's size.

The log's primary key is `position`, and it has no index by id, type or key: publishing does not pay for looking. So a filter looks through
a window of rows and says how far it came; times are found by bisecting positions. Times rise with positions but for the moment between an
INSERT and its neighbours', so a bound found that way is widened, and rows are compared by their time as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import Event, event_of
from tidings.stores.sql.statement import Command, Sql

__all__ = ["CONVERSATION", "WINDOW", "LogFilter", "LogPage", "LogRow", "LogViews", "Passed", "born"]

#: How many rows one search looks through; one that reads payloads, through fewer.
WINDOW = 20_000
_TEXT_WINDOW = 5_000

#: How many rows around a bound are looked at because times are not quite in the order of positions.
_SLACK = 1_000

#: How far the clock of a publisher, which its ids hold, may be ahead of the database's.
_SKEW = timedelta(seconds=5)

#: Most events of one conversation, and rows that are looked through for it.
CONVERSATION = 200
_FLOW = 10_000


class LogFilter(NamedTuple):
    """What to look for; None leaves a condition out. In `name` a `*` stands for anything; times are aware."""

    name: str | None = None
    topic: str | None = None
    key: str | None = None
    source: str | None = None
    correlation: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class LogRow(NamedTuple):
    """A row of the log without its data."""

    position: int
    id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime | None
    correlation: str | None


class LogPage(NamedTuple):
    """Rows, newest first.

    Attributes:
        before: the cursor of what follows; None at the end of the log, or of the time asked for.
        searched: how many rows were looked through at most, when the search ended for that reason and not because the page is full.
        reached: the time of the last row looked at then.
    """

    rows: list[LogRow]
    before: int | None
    searched: int | None
    reached: datetime | None


class Passed(NamedTuple):
    """Whether a reader of the log has a position behind it, and who reads there now, since when its checkpoint has not moved."""

    reader: str
    service: str
    group: str
    state: str
    passed: bool
    moved_at: datetime | None
    owner: str | None


class LogViews:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._pg = pg = dialect.name == "postgresql"
        typed = dialect.cast

        def header(name: str) -> str:
            return f"headers->>'{name}'" if pg else f"json_extract(headers, '$.{name}')"

        text = "::text" if pg else ""
        light = f"position, id{text}, source, name, version, topic, key, time, {header('correlationid')}"
        full = f"position, id{text}, source, name, version, topic, key, headers{text}, data{text}, time"

        def is_or_any(column: str, parameter: str) -> str:
            return f"({typed(parameter, 'text')} is null or {column} = {typed(parameter, 'text')})"

        like = "ilike" if pg else "like"
        named = f"name like {typed('$3', 'text')} escape '!'" if pg else "name glob $3"
        kind = "timestamptz"
        self.page_ = Sql(f"""
            select {light} from (
              select * from {names.outbox} where position < {typed("$1", "bigint")} and position >= {typed("$2", "bigint")}
              order by position desc limit {typed("$12", "int")}) w
            where ({typed("$3", "text")} is null or {named}) and {is_or_any("topic", "$4")} and {is_or_any("key", "$5")}
              and {is_or_any("source", "$6")}
              and ({typed("$7", "text")} is null or {header("correlationid")} = {typed("$7", "text")} or id{text} = {typed("$7", "text")})
              and ({typed("$8", "text")} is null or data{text} {like} {typed("$8", "text")} escape '!')
              and ({typed("$9", kind)} is null or time >= {typed("$9", kind)}) and ({typed("$10", kind)} is null or time < {typed("$10", kind)})
            order by position desc limit {typed("$11", "int")}
        """)
        # Where the window of a search ended, by the primary key alone.
        self.floor_ = Sql(f"""
            select position, time from {names.outbox} where position < {typed("$1", "bigint")} and position >= {typed("$2", "bigint")}
            order by position desc limit 1 offset {typed("$3", "int")}
        """)
        self.at_ = Sql(f"select {full} from {names.outbox} where position = {typed('$1', 'bigint')}")
        self.lowest_ = Sql(f"select position, time from {names.outbox} where position >= {typed('$1', 'bigint')} order by position limit 1")
        self.highest_ = Sql(f"select position, time from {names.outbox} order by position desc limit 1")
        self.by_id_ = Sql(f"""
            select {full} from (
              select * from {names.outbox} where position >= {typed("$1", "bigint")} order by position limit {WINDOW}) w
            where id = {typed("$2", "uuid")} limit 1
        """)
        self.ahead_ = Sql(f"""
            select position from {names.outbox} where position >= {typed("$1", "bigint")} order by position limit 1 offset {WINDOW}
        """)
        flow = f"{light}, {header('causationid')}"
        self.flow_ = Sql(f"""
            select {flow} from (
              select * from {names.outbox} where position >= {typed("$1", "bigint")} order by position limit {_FLOW}) w
            where {header("correlationid")} = {typed("$2", "text")} or id{text} = {typed("$2", "text")}
            order by position limit {CONVERSATION}
        """)
        self.flow_back = Sql(f"""
            select {flow} from (
              select * from {names.outbox} where position < {typed("$1", "bigint")} order by position desc limit {_FLOW}) w
            where {header("correlationid")} = {typed("$2", "text")} or id{text} = {typed("$2", "text")}
            order by position desc limit {CONVERSATION}
        """)
        # What kinds of events there are lately: who publishes what.
        self.kinds_ = Sql(f"""
            select source, name, version, topic, count(*), max(time) from (
              select source, name, version, topic, time from {names.outbox} order by position desc limit {_FLOW}) w
            group by source, name, version, topic order by name, version, source limit 500
        """)
        if pg:
            self.size_ = Sql("select reltuples::bigint from pg_class where oid = $1::text::regclass")
        else:
            # Each of the two by the index; together in one SELECT they would be looked for row by row.
            first, last = (f"(select {which}(position) from {names.outbox})" for which in ("min", "max"))
            self.size_ = Sql(f"select coalesce({last} - {first} + 1, 0)")
        self._table = names.outbox
        passed = (
            "pg_visible_in_snapshot(o.tx, c.previous) or coalesce(pg_visible_in_snapshot(o.tx, c.current) and o.position <= c.position, false)"
            if pg
            else "o.position <= c.position"
        )
        self.passed_ = Sql(f"""
            select c.reader, c.service, c.group_name, c.state, coalesce({passed}, false), c.moved_at, c.owner
            from {names.checkpoints} c cross join {names.outbox} o where o.position = {typed("$1", "bigint")} and c.kind = 'log'
            order by c.reader limit 500
        """)

    def size(self, connection: Connection) -> int:
        """Return about how many rows the log has: the planner's estimate on PostgreSQL, the span of positions on SQLite."""
        rows = run(connection, Command(self.size_, (self._table,) if self._pg else ()))
        return max(int(rows[0][0]), 0)

    def page(self, connection: Connection, chosen: LogFilter, limit: int, before: int | None = None) -> LogPage:
        """Return the newest rows that match, those before a cursor."""
        floor, ceiling = 0, 2**62 if before is None else before
        if chosen.until is not None:
            ceiling = min(ceiling, self.position_at(connection, chosen.until) + _SLACK)
        if chosen.since is not None:
            floor = self.position_at(connection, chosen.since) - _SLACK
        window = WINDOW if chosen.text is None else _TEXT_WINDOW
        arguments = (
            ceiling, floor, self._pattern(chosen.name), chosen.topic, chosen.key, chosen.source, chosen.correlation, _containing(chosen.text),
            self._time(chosen.since), self._time(chosen.until), limit + 1, window,
        )  # fmt: skip
        rows = [_row(row) for row in run(connection, Command(self.page_, arguments))]
        if len(rows) > limit:
            return LogPage(rows[:limit], rows[limit - 1].position, None, None)
        end = run(connection, Command(self.floor_, (ceiling, floor, window - 1)))
        if not end or not run(connection, Command(self.floor_, (end[0][0], floor, 0))):
            return LogPage(rows, None, None, None)
        return LogPage(rows, end[0][0], window, as_datetime(end[0][1]))

    def at(self, connection: Connection, position: int) -> Event | None:
        """Return the row of a position."""
        return next((event_of(row) for row in run(connection, Command(self.at_, (position,)))), None)

    def position_at(self, connection: Connection, time: datetime) -> int:
        """Return the first position at or after a time, by bisection: some thirty look-ups by primary key at most."""
        lowest, highest = run(connection, Command(self.lowest_, (0,))), run(connection, Command(self.highest_, ()))
        if not lowest or not highest:
            return 0
        low, high = lowest[0][0], highest[0][0] + 1
        while low < high:
            middle = (low + high) // 2
            found = run(connection, Command(self.lowest_, (middle,)))
            at = as_datetime(found[0][1]) if found else None
            if at is None or at >= time:
                high = middle
            else:
                low = found[0][0] + 1
        return int(low)

    def by_id(self, connection: Connection, event_id: str, after: int | None = None) -> tuple[Event | None, int | None]:
        """Return the event of an id if it is in the window that the id's own time points to, and where to search further.

        A version 7 id holds the time of publishing; the row follows it as soon as the transaction commits. A scheduled event comes later.
        """
        if after is None:
            time = born(event_id)
            if time is not None:
                after = self.position_at(connection, time - _SKEW) - _SLACK
            else:
                found = run(connection, Command(self.highest_, ()))
                after = found[0][0] - WINDOW if found else 0
        rows = run(connection, Command(self.by_id_, (after, event_id)))
        if rows:
            return event_of(rows[0]), None
        ahead = run(connection, Command(self.ahead_, (after,)))
        return None, int(ahead[0][0]) if ahead else None

    def conversation(self, connection: Connection, correlation: str, near: int | None) -> list[tuple[LogRow, str | None]]:
        """Return what one flow has published, with what caused each, in order; at most 200, of 10,000 rows from its start and on both sides of `near`.

        Of a longer one: its first event, and those around `near`.
        """
        rows: list[Any] = []
        time = born(correlation)
        if time is not None:
            rows += run(connection, Command(self.flow_, (self.position_at(connection, time - _SKEW) - _SLACK, correlation)))
        if near is not None and all(row[0] != near for row in rows):
            rows += run(connection, Command(self.flow_, (near, correlation))) + run(
                connection, Command(self.flow_back, (near, correlation))
            )
        found = {row[0]: (_row(row), row[9]) for row in rows}
        places = sorted(found)
        if near in found and len(places) > CONVERSATION:
            first = min(max(places.index(near) - CONVERSATION // 2, 1), len(places) - CONVERSATION + 1)
            places = [places[0], *places[first:]]
        return [found[position] for position in places[:CONVERSATION]]

    def kinds(self, connection: Connection) -> list[tuple[str, str, int | None, str, int, datetime | None]]:
        """Return the types among the newest 10,000 rows: source, name, version, topic, how many, when last."""
        return [(*row[:4], int(row[4]), as_datetime(row[5])) for row in run(connection, Command(self.kinds_, ()))]

    def passed(self, connection: Connection, position: int) -> list[Passed]:
        """Return of each reader of the log whether it has this position behind it."""
        return [
            Passed._make((*row[:4], bool(row[4]), as_datetime(row[5]), row[6]))
            for row in run(connection, Command(self.passed_, (position,)))
        ]

    def _pattern(self, name: str | None) -> str | None:
        if name is None:
            return None
        if self._pg:
            return _escaped(name).replace("*", "%")
        return name.replace("[", "[[]").replace("?", "[?]")

    def _time(self, value: datetime | None) -> datetime | str | None:
        if value is None or self._pg:
            return value
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def born(event_id: str) -> datetime | None:
    """Return the time that a version 7 id holds, None for any other."""
    if len(event_id) != 36 or event_id[14] != "7":
        return None
    try:
        return datetime.fromtimestamp(int(event_id[:8] + event_id[9:13], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _row(row: Sequence[Any]) -> LogRow:
    return LogRow._make((row[0], str(row[1]), *row[2:7], as_datetime(row[7]), row[8]))


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _containing(text: str | None) -> str | None:
    return None if text is None else f"%{_escaped(text)}%"
