"""Reading what a store holds, decoded with the contracts of a service."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy import Connection

from tidings.consume.received import Received, from_row
from tidings.contracts import EventType
from tidings.envelope import Envelope
from tidings.errors import DecodeError
from tidings.stores.sql.driver import run
from tidings.stores.sql.parked import Parked, ParkedQueries
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.store import SQLStore
from tidings.testing.eyes import Eyes
from tidings.testing.seen import Handled, ParkedEvent, ScheduledEvent

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["Pending", "Reading", "pending"]


class Reading:
    """What there is of a service in its store since a position of the log.

    Args:
        attempts: the numbers of the attempts that succeeded, by subscription (`group/name`) and event key.
    """

    def __init__(self, service: Service, store: SQLStore, eyes: Eyes, after: int, attempts: Mapping[tuple[str, str], int]) -> None:
        self._store = store
        self._service = service.name
        self._eyes = eyes
        self._after = after
        self._attempts = attempts
        self._types: dict[tuple[str, int | None], EventType[Any]] = {
            (event_type.name, event_type.version): event_type for contract in service.contracts for event_type in contract
        }
        names, dialect = store.names, store.dialect
        text = "::text" if dialect.name == "postgresql" else ""
        columns = f"source, name, version, topic, key, headers{text}, data{text}"
        self._log = Sql(f"select position, id, {columns}, time from {names.outbox} where position > $1 order by position")
        self._inbox = Sql(f"select event_key{text}, subscription_id from {names.inbox} where outcome = $1 order by handled_at")
        due_in = (
            "extract(epoch from due_at - clock_timestamp())"
            if dialect.name == "postgresql"
            else "(julianday(due_at) - julianday('now')) * 86400.0"
        )
        self._scheduled = Sql(f"select id, name, version, key, data{text}, {due_in} from {names.scheduled} order by due_at, id")
        self._numbers = Sql(f"select number from {names.deliveries} order by number")

    def log(self) -> list[tuple[Any, Envelope]]:
        """Return the events of the log that the service understands, in order; a second copy of an event is left out."""
        return [
            (event, replace(received.envelope(1, ""), subscription=None))
            for received in self._received().values()
            if (event := self._event(received)) is not None
        ]

    def finished(self, outcome: int) -> list[Handled]:
        """Return what subscriptions of the service are done with in this way, in the order of the handlers' transactions."""

        def look(connection: Connection) -> tuple[list[tuple[Any, ...]], dict[int, tuple[str, str]]]:
            registered = self._store.registry.list(connection, self._service)
            return run(connection, Command(self._inbox, (outcome,))), {row.id: (row.group, row.name) for row in registered}

        rows, subscriptions = self._eyes.look(look)
        received = self._received()
        done: list[Handled] = []
        for event_key, subscription_id in rows:
            found = received.get(event_key.replace("-", ""))
            if found is None or subscription_id not in subscriptions or (event := self._event(found)) is None:
                continue
            group, name = subscriptions[subscription_id]
            attempt = self._attempts.get((f"{group}/{name}", found.event_key), 1)
            done.append(Handled(event, found.envelope(attempt, name), name))
        return done

    def scheduled(self) -> list[ScheduledEvent]:
        """Return the scheduled events whose types the service knows, the next first."""
        rows = self._eyes.look(lambda connection: run(connection, Command(self._scheduled, ())))
        return [
            ScheduledEvent(event_type.decode(data), UUID(str(id_)), key, timedelta(seconds=float(due_in)))
            for id_, name, version, key, data, due_in in rows
            if (event_type := self._types.get((name, version))) is not None
        ]

    def parked(self) -> list[ParkedEvent]:
        """Return what is parked for subscriptions of the service, in the order of parking."""
        queries = ParkedQueries(self._store.names, self._store.dialect)

        def look(connection: Connection) -> list[Parked]:
            numbers = [row[0] for row in run(connection, Command(self._numbers, ()))]
            return [row for number in numbers for row in queries.by_number(connection, number) if row.service == self._service]

        return [self._parked(row) for row in self._eyes.look(look)]

    def _received(self) -> dict[str, Received]:
        rows = self._eyes.look(lambda connection: run(connection, Command(self._log, (self._after,))))
        first: dict[str, Received] = {}
        for row in rows:
            received = from_row(row)
            first.setdefault(received.event_key, received)
        return first

    def _event(self, received: Received) -> Any:
        event_type = self._types.get((received.name, received.version))
        with suppress(DecodeError):
            return None if event_type is None else event_type.decode(received.data)
        return None

    def _parked(self, row: Parked) -> ParkedEvent:
        received = Received.of(
            row.event_id, row.source, row.name, row.version, row.topic, row.key, row.time, row.sequence, row.headers, row.data
        )
        event: Any = None
        envelope: Envelope | None = None
        with suppress(DecodeError):
            envelope = received.envelope(max(row.attempts, 1), row.subscription)
            event = self._event(received)
        waits = row.state == "waiting"
        return ParkedEvent(
            event, envelope, row.name, row.key, row.subscription, "blocked" if waits else "dead" if row.state == "dead" else "retrying",
            row.attempts, row.reason, None if row.error_type is None else f"{row.error_type}: {row.error_message}", row.traceback,
            due_in=None if waits or row.state == "dead" or row.due_at is None else row.due_at - datetime.now(UTC),
        )  # fmt: skip


class Pending(NamedTuple):
    """What there may be to do now.

    Attributes:
        end: the highest position of the log; 0 when it is empty.
        lanes: how many lanes are due.
        scheduled: how many scheduled events are due.
    """

    end: int
    lanes: int
    scheduled: int


def pending(connection: Connection, store: SQLStore) -> Pending:
    """Return what there may be to do now."""
    names, now = store.names, store.dialect.now
    ((end, lanes, scheduled),) = run(
        connection,
        Command(
            Sql(f"""
                select (select coalesce(max(position), 0) from {names.outbox}),
                       (select count(*) from {names.lanes}
                        where state = 'retrying' and due_at <= {now} and (lease_until is null or lease_until < {now})),
                       (select count(*) from {names.scheduled} where due_at <= {now})
            """),
            (),
        ),
    )
    return Pending(int(end), int(lanes), int(scheduled))
