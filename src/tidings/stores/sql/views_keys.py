"""What a dashboard asks about keys that something is parked of. Read only, by keyset; a filter looks through a window and says where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from tidings.ids import lane_of
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import label_of
from tidings.stores.sql.statement import Command, Sql

__all__ = ["KeyRow", "KeyRows", "KeyViews", "LanePlace", "LaneState"]

LaneState = Literal["dead", "retrying"]

#: How many lanes one search looks through.
_WINDOW = 5_000


class LanePlace(NamedTuple):
    """A place in the list. A key has the same lane in every subscription, so only all three are a place of its own."""

    at: datetime
    lane: str
    subscription_id: int


_START = LanePlace(datetime(1970, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000", 0)
_END = LanePlace(datetime(9999, 12, 31, tzinfo=UTC), "ffffffff-ffff-ffff-ffff-ffffffffffff", 2**31 - 1)


class KeyRow(NamedTuple):
    """A key that something is parked of, with its head."""

    lane: str
    subscription_id: int
    service: str
    group: str
    subscription: str
    key: str | None
    state: str
    depth: int
    attempts: int
    blocked_at: datetime | None
    due_at: datetime | None
    number: int | None
    event_id: str | None
    event: str | None
    reason: str | None
    error_type: str | None
    error_message: str | None
    fingerprint: str | None

    @property
    def label(self) -> str:
        """What the subscription is called."""
        return label_of(self.group, self.subscription)


class KeyRows(NamedTuple):
    """Keys in order; `after` is the cursor of what follows, `searched` is set when the search ended before the page was full."""

    rows: list[KeyRow]
    after: LanePlace | None
    searched: int | None


class KeyViews:
    """The queries on one set of tables. `page` is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._pg = pg = dialect.name == "postgresql"
        uuid = "uuid" if pg else "text"
        text = "::text" if pg else ""

        def typed(parameter: str, kind: str) -> str:
            return dialect.cast(parameter, kind)

        def place(first: int) -> str:
            return f"({typed(f'${first}', 'timestamptz')}, {typed(f'${first + 1}', uuid)}, {typed(f'${first + 2}', 'int')})"

        columns = f"""
            l.lane{text}, l.subscription_id, s.service, s.group_name, s.name, l.key, l.state, l.depth, l.attempts, l.blocked_at, l.due_at,
            d.number, d.event_id, d.name, d.reason, d.error_type, d.error_message, d.fingerprint
        """
        joined = f"""
            join {names.subscriptions} s on s.id = l.subscription_id
            left join {names.deliveries} d on d.number = (
              select min(x.number) from {names.deliveries} x where x.lane = l.lane and x.subscription_id = l.subscription_id)
        """

        def of(service: str, subscription: str) -> str:
            return f"""
                ({typed(service, "text")} is null or s.service = {typed(service, "text")}) and ({typed(subscription, "text")} is null
                  or s.name = {typed(subscription, "text")} or s.group_name || '/' || s.name = {typed(subscription, "text")})
            """

        self.exact_: dict[LaneState, Sql] = {}
        self.end_: dict[LaneState, Sql] = {}
        self.window_: dict[LaneState, Sql] = {}
        times: dict[LaneState, str] = {"dead": "l.blocked_at", "retrying": "l.due_at"}
        for state, time in times.items():
            order = f"{time}, l.lane, l.subscription_id"
            self.exact_[state] = Sql(f"""
                select {columns} from {names.lanes} l {joined}
                where l.lane = {typed("$1", uuid)} and l.state = '{state}' and ({order}) > {place(2)} and {of("$5", "$6")}
                order by {order} limit {typed("$7", "int")}
            """)
            other = f"({typed('$4', uuid)} is null or l.lane <> {typed('$4', uuid)})"
            self.end_[state] = Sql(f"""
                select {time}, l.lane{text}, l.subscription_id from {names.lanes} l where l.state = '{state}' and ({order}) > {place(1)} and {other}
                order by {order} limit 1 offset {_WINDOW - 1}
            """)
            # The end was fixed before; what comes into the window meanwhile moves it no more.
            self.window_[state] = Sql(f"""
                select {columns} from (
                  select * from {names.lanes} l where l.state = '{state}' and ({order}) > {place(1)} and {other} and ({order}) <= {place(5)}
                  order by {order} limit {2 * _WINDOW}) l
                {joined}
                where {of("$8", "$9")} and ({typed("$10", "text")} is null or l.key = {typed("$10", "text")})
                order by {order} limit {typed("$11", "int")}
            """)

    def page(
        self, connection: Connection, limit: int, state: LaneState, after: LanePlace | None = None, *, service: str | None = None,
        subscription: str | None = None, key: str | None = None,
    ) -> KeyRows:  # fmt: skip
        """Return keys of one state: dead ones the longest blocked first, retrying ones by when they are due.

        A key is looked up. Only then is searched for events of it that were set aside (`on_dead="continue"`): each has a lane of its own.
        """
        lane = None if key is None else lane_of(key)
        found: list[KeyRow] = []
        if lane is not None and (after is None or after.lane.replace("-", "") == lane):
            exactly = (lane, *self._written(after or _START), service, subscription, limit + 1)
            found = [_row(row) for row in run(connection, Command(self.exact_[state], exactly))]
            after = None
        start = self._written(after or _START)
        end = None
        if len(found) <= limit:
            if service is not None or subscription is not None or key is not None:
                ends = run(connection, Command(self.end_[state], (*start, lane)))
                end = LanePlace(_time(ends[0][0]), ends[0][1], ends[0][2]) if ends else None
            arguments = (*start, lane, *self._written(end or _END), service, subscription, key, limit + 1 - len(found))
            found += [_row(row) for row in run(connection, Command(self.window_[state], arguments))]
        if len(found) > limit:
            last = found[limit - 1]
            at = last.due_at if state == "retrying" else last.blocked_at
            return KeyRows(found[:limit], LanePlace(_time(at), last.lane, last.subscription_id), None)
        return KeyRows(found, end, None if end is None else _WINDOW)

    def _written(self, place: LanePlace) -> tuple[Any, str, int]:
        if self._pg:
            return place
        at = place.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        return at, place.lane.replace("-", ""), place.subscription_id


def _row(row: Sequence[Any]) -> KeyRow:
    return KeyRow._make((*row[:9], as_datetime(row[9]), as_datetime(row[10]), *row[11:]))


def _time(value: datetime | str | None) -> datetime:
    time = as_datetime(value)
    assert time is not None
    return time
