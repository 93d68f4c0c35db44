"""What operators ask about parked events: which are dead and why, what waits behind them, and one of them in full. Read only, bounded."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection

from tidings.ids import event_key_bounds
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import label_of, title_of
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Parked", "ParkedQueries", "State"]

State = Literal["dead", "retrying", "waiting"]


class Parked(NamedTuple):
    """A parked event.

    Attributes:
        number: its number among the deliveries; lower ones of its lane come first.
        state: that of its lane for the head of it; `waiting` for one that waits behind another.
        head: the number of the lane's head.
        depth: how many events are in the lane, this one included.
        due_at: when the lane is tried again.
        headers, data: as they came.
    """

    number: int
    state: State
    service: str
    group: str
    subscription: str
    event_id: str
    source: str
    name: str
    version: int | None
    topic: str
    key: str | None
    time: datetime | None
    sequence: int | None
    reason: str
    attempts: int
    error_type: str | None
    error_message: str | None
    traceback: str | None
    fingerprint: str | None
    history: list[dict[str, Any]]
    parked_at: datetime | None
    failed_at: datetime | None
    headers: bytes
    data: bytes
    head: int
    depth: int
    due_at: datetime | None

    @property
    def label(self) -> str:
        """What the subscription is called."""
        return label_of(self.group, self.subscription)

    @property
    def title(self) -> str:
        """What it is called among those of several services."""
        return title_of(self.service, self.label)


class ParkedQueries:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        typed = dialect.cast
        history = "d.history::text" if dialect.name == "postgresql" else "d.history"
        columns = f"""
            d.number, l.state, s.service, s.group_name, s.name, d.event_id, d.source, d.name, d.version, d.topic, d.key, d.time, d.sequence,
            d.reason, d.attempts, d.error_type, d.error_message, d.traceback, d.fingerprint, {history}, d.parked_at, d.failed_at,
            d.headers, d.data, h.number, l.depth, l.due_at
        """
        head = f"(select min(b.number) from {names.deliveries} b where b.lane = l.lane and b.subscription_id = l.subscription_id)"
        lane = f"""
            join {names.lanes} l on l.lane = d.lane and l.subscription_id = d.subscription_id
            join {names.subscriptions} s on s.id = d.subscription_id
        """
        label = "s.group_name || '/' || s.name"

        def is_or_any(column: str, parameter: str) -> str:
            return f"({typed(parameter, 'text')} is null or {column} = {typed(parameter, 'text')})"

        chosen = f"""
            ({typed("$1", "text")} is null or s.name = {typed("$1", "text")} or {label} = {typed("$1", "text")})
            and {is_or_any("d.name", "$2")} and {is_or_any("d.key", "$3")} and {is_or_any("s.service", "$5")}
        """
        self.dead_ = Sql(f"""
            select {columns} from {names.deliveries} d {lane} join {names.deliveries} h on h.number = {head}
            where l.state = 'dead' and d.number = h.number and {chosen}
            order by d.number desc limit {typed("$4", "int")}
        """)
        found = f"select {columns} from {names.deliveries} d {lane} join {names.deliveries} h on h.number = {head}"
        self.by_number_ = Sql(f"{found} where d.number = {typed('$1', 'bigint')}")
        # The first 48 bits of an event key are those of a version 7 id, so the index on it leads there: an index by id, which every parked
        # event would pay for, is not needed.
        within = f"d.event_key between {typed('$2', 'uuid')} and {typed('$3', 'uuid')}"
        self.by_event_ = Sql(f"{found} where {within} and d.event_id = {typed('$1', 'text')} order by d.number limit 100")

    def dead(
        self, connection: Connection, limit: int, subscription: str | None = None, event: str | None = None, key: str | None = None,
        service: str | None = None,
    ) -> list[Parked]:  # fmt: skip
        """Return the newest dead events, newest first.

        Args:
            subscription: its name, alone or as `group/name`.
            event: an event's name.
            key: a partition key.
        """
        return [_parked(row) for row in run(connection, Command(self.dead_, (subscription, event, key, limit, service)))]

    def by_number(self, connection: Connection, number: int) -> list[Parked]:
        """Return the parked event of this number, if there is one."""
        return [_parked(row) for row in run(connection, Command(self.by_number_, (number,)))]

    def by_event(self, connection: Connection, event_id: str) -> list[Parked]:
        """Return the parked event of this id once for each subscription that has it parked."""
        return [_parked(row) for row in run(connection, Command(self.by_event_, (event_id, *event_key_bounds(event_id))))]


def _parked(row: tuple[Any, ...]) -> Parked:
    (number, state, *first) = row[:11]
    head, depth, due_at = row[24:]
    try:
        history = json.loads(row[19])
    except ValueError:
        history = []
    times = [as_datetime(row[index]) for index in (11, 20, 21)]
    return Parked._make((
        number, state if number == head else "waiting", *first, times[0], *row[12:19], history, *times[1:], bytes(row[22]), bytes(row[23]),
        head, depth, as_datetime(due_at),
    ))  # fmt: skip
