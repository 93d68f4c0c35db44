"""What a dashboard draws: the counts of `stats` over time, and durations estimated from its histograms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tidings.consume.counters import BOUNDS
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["COUNTS", "Point", "StatsViews", "durations", "quantile"]

#: The counts that are drawn.
COUNTS = ("published", "handled", "failed", "retried", "dead", "duplicates", "relayed")

#: Most minutes whose counts, and whose durations, are read: of a longer time, minutes at equal distances. A day of ten subscriptions is
#: three hundred thousand rows.
_COUNTED = 360
_SAMPLED = 60

_BOUNDS = tuple(bound * 1000 for bound in BOUNDS)


class Point(NamedTuple):
    """A count of one minute, over all subjects that were asked for."""

    at: datetime
    measure: str
    value: int


class StatsViews:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._dialect = dialect
        self._pg = dialect.name == "postgresql"
        typed = dialect.cast
        value = typed("sum(s.value)", "bigint")
        service = f"({typed('$2', 'text')} is null or service = {typed('$2', 'text')})"
        subject = f"({typed('$3', 'text')} is null or subject = {typed('$3', 'text')})"
        # A range of the primary key for each minute, which has one bucket or six: of one range over all of them, whose bounds are parameters, a
        # planner expects so much that it reads the whole table.
        if self._pg:
            minutes, minute = "unnest($1::timestamptz[]) m(minute) cross join lateral", "m.minute"
            within = "bucket >= m.minute and bucket < m.minute + interval '1 minute'"
        else:
            minutes, minute = "json_each($1) m cross join", "m.value"
            within = "bucket >= m.value and bucket < substr(m.value, 1, 17) || '59.999Z'"
        where = f"{within} and {service} and {subject}"
        inner = f"(select measure, value from {names.stats} where {where} and" if self._pg else f"{names.stats} s where {where} and ("
        # `offset 0` keeps the two apart: else it may read the table once for one subject and compare each row with each minute.
        outer = " offset 0) s" if self._pg else ")"
        self.counts_ = Sql(f"""
            select {minute}, s.measure, {value} from {minutes} {inner} {dialect.among("measure", "$4", "text")}{outer} group by 1, 2 order by 1, 2
        """)
        self.histograms_ = Sql(f"""
            select {minute}, s.measure, {value} from {minutes} {inner} (measure like 'took:%' or measure like 'lag:%'){outer} group by 1, 2
        """)

    def counts(
        self, connection: Connection, since: datetime, until: datetime, service: str | None = None, subject: str | None = None
    ) -> tuple[list[datetime], list[Point]]:
        """Return minutes, 360 at most, and what was counted in them."""
        minutes = _minutes(since, until, _COUNTED)
        arguments = (self._times(minutes), service, subject, self._dialect.items(COUNTS))
        return minutes, [_point(row) for row in run(connection, Command(self.counts_, arguments))]

    def histograms(
        self, connection: Connection, since: datetime, until: datetime, service: str | None = None, subject: str | None = None
    ) -> tuple[list[datetime], list[Point]]:
        """Return minutes, 60 at most, and the histograms of durations of them."""
        minutes = _minutes(since, until, _SAMPLED)
        arguments = (self._times(minutes), service, subject)
        return minutes, [_point(row) for row in run(connection, Command(self.histograms_, arguments))]

    def _times(self, minutes: Sequence[datetime]) -> Any:
        return self._dialect.items([self._time(minute) for minute in minutes])

    def _time(self, value: datetime) -> datetime | str:
        return value if self._pg else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _minutes(since: datetime, until: datetime, most: int) -> list[datetime]:
    first = since.replace(second=0, microsecond=0)
    total = max(int((until - first) / timedelta(minutes=1)), 1)
    step = -(-total // most)
    return [first + timedelta(minutes=index) for index in range(total % step, total + 1, step)]


def durations(points: Iterable[tuple[str, int]], what: str) -> dict[float, int]:
    """Return a histogram, upper bound in milliseconds to count, of measures such as `took:50`; `what` is `took` or `lag`."""
    histogram: dict[float, int] = {}
    for measure, value in points:
        name, colon, bound = measure.partition(":")
        if name != what or not colon:
            continue
        try:
            upper = float(bound)
        except ValueError:
            continue
        histogram[upper] = histogram.get(upper, 0) + value
    return histogram


def quantile(histogram: Mapping[float, int], share: float) -> float | None:
    """Return the milliseconds that this share stays under, within its bucket by proportion; None of nothing.

    A bucket begins where the one before it ends, also if nothing is in that one. What lies above the last bound there is, is given as that bound:
    nothing more is known of it.
    """
    total = sum(histogram.values())
    if total <= 0:
        return None
    wanted, seen, before = share * total, 0, 0.0
    for upper in sorted(histogram):
        count = histogram[upper]
        if count and seen + count >= wanted:
            lower = max((bound for bound in (before, *_BOUNDS) if bound < upper), default=0.0)
            return lower if upper == float("inf") else lower + (upper - lower) * (wanted - seen) / count
        seen += count
        before = upper
    return before


def _point(row: Sequence[object]) -> Point:
    at = as_datetime(row[0])  # type: ignore[arg-type]
    assert at is not None
    return Point(at, str(row[1]), int(row[2]))  # type: ignore[call-overload]
