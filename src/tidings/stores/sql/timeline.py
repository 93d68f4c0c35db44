"""What became of one event: where it stands in the log, who has read it, how it ended for whom. Read only, bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import Event, event_of
from tidings.stores.sql.remembered import Ended, Remembered
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Passed", "Timeline", "Timelines", "Waiting"]


class Passed(NamedTuple):
    """Whether a reader of the log has finished with the event, as far as its checkpoint says."""

    reader: str
    service: str
    group: str
    passed: bool


class Waiting(NamedTuple):
    """An event that waits for its time."""

    event: Event
    due_at: datetime | None


class Timeline(NamedTuple):
    """What the store knows of an event, beside what is parked of it.

    Attributes:
        event: its row in the log; None when it was purged, or came from elsewhere.
        waiting: its row in the schedule.
        passed: of the readers of the log.
        ended: of subscriptions, by the inbox.
        source: with which producer the inbox has it; None when `ended` may be of another event that was made in the same millisecond.
    """

    event: Event | None
    waiting: Waiting | None
    passed: list[Passed]
    ended: list[Ended]
    source: str | None


class Timelines:
    """The queries on one set of tables; `of` is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        pg = dialect.name == "postgresql"
        text = "::text" if pg else ""
        kind = "uuid" if pg else "text"
        typed = dialect.cast
        columns = f"position, id{text}, source, name, version, topic, key, headers{text}, data{text}, time"
        # There is no index by id, which every event would pay for. A version 7 id says when it was made, and the log is indexed by time.
        after = "$2::text::timestamptz" if pg else "$2"
        before = "$3::text::timestamptz" if pg else "$3"
        self.near_ = Sql(
            f"select {columns} from {names.outbox} where time >= {after} and time < {before} and id = {typed('$1', kind)} limit 1"
        )
        self.anywhere_ = Sql(f"select {columns} from {names.outbox} where id = {typed('$1', kind)} limit 1")
        self.waiting_ = Sql(f"""
            select 0, id{text}, source, name, version, topic, key, headers{text}, data{text}, published_at, due_at
            from {names.scheduled} where id = {typed("$1", kind)}
        """)
        seen = (
            "coalesce(pg_visible_in_snapshot(o.tx, c.previous), false) "
            "or coalesce(o.position <= c.position and pg_visible_in_snapshot(o.tx, c.current), false)"
            if pg
            else "o.position <= c.position"
        )
        self.passed_ = Sql(f"""
            select c.reader, c.service, c.group_name, {seen}
            from {names.outbox} o, {names.checkpoints} c
            where o.position = {typed("$1", "bigint")} and c.kind = 'log' and c.state <> 'retired' order by c.reader limit 500
        """)
        self.remembered = Remembered(names, dialect)

    def of(self, connection: Connection, event_id: str, source: str | None = None) -> Timeline:
        """Return what is known of an event.

        Args:
            event_id: as its producer gave it; those of events of this log are UUIDs.
            source: its producer. Another one may have used the same id.
        """
        uuid = _uuid(event_id)
        event = None if uuid is None else self._logged(connection, uuid)
        if event is not None and source in (None, event.source):
            passed = [Passed(row[0], row[1], row[2], bool(row[3])) for row in run(connection, Command(self.passed_, (event.position,)))]
            return Timeline(event, None, passed, self.remembered.of(connection, event.source, event.id), event.source)
        found = [] if uuid is None else run(connection, Command(self.waiting_, (str(uuid),)))
        waiting = Waiting(event_of(found[0][:10]), as_datetime(found[0][10])) if found else None
        elsewhere = self.remembered.search(connection, event_id, source)
        return Timeline(None, waiting, [], elsewhere.ended, elsewhere.source)

    def _logged(self, connection: Connection, event_id: UUID) -> Event | None:
        rows = []
        made = _made(event_id)
        if made is not None:
            # From when the id was made until the transaction inserted it: minutes at most, but for scheduled ones.
            near = (str(event_id), _written(made - timedelta(minutes=10)), _written(made + timedelta(hours=6)))
            rows = run(connection, Command(self.near_, near))
        rows = rows or run(connection, Command(self.anywhere_, (str(event_id),)))
        return event_of(rows[0]) if rows else None


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _made(event_id: UUID) -> datetime | None:
    if event_id.version != 7:
        return None
    try:
        return datetime.fromtimestamp((event_id.int >> 80) / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _written(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z")
