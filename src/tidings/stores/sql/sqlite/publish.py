"""SQLite 3.35 and later, in WAL mode: one writer at a time, so the order of positions is the order of commits.

`position` must be AUTOINCREMENT: a plain INTEGER PRIMARY KEY gives numbers out again after the newest rows were purged, and a reader
would skip them. Times are text, UTC, with milliseconds, so that they compare as they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tidings.publish.outgoing import Outgoing
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["NOW", "PublishStatements"]

#: The database's clock, in the text form that every time column has.
NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


class PublishStatements:
    """What a publisher runs, on its own connection, as the last statements before COMMIT. The write lock keeps keys in order."""

    def __init__(self, names: Names) -> None:
        self.outbox = names.outbox
        columns = "id, source, name, version, topic, key, slot, headers, data"
        self.insert = Sql(f"""
            insert into {names.outbox} ({columns}, time) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, {NOW})
        """)
        self.schedule = Sql(f"""
            insert into {names.scheduled} ({columns}, keyed, due_at, published_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10,
                    coalesce($11, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $12 || ' seconds'), {NOW}), {NOW})
        """)
        self.cancel = Sql(f"delete from {names.scheduled} where id in (select value from json_each($1)) returning id")

    def lookup(self) -> None:
        """Return None: these names are final."""

    def resolve(self, rows: Sequence[Sequence[object]], /) -> None:
        """Do nothing: these names are final."""

    def publish(self, events: Sequence[Outgoing]) -> list[Command]:
        """Return the commands that insert these events, in publish order."""
        now = [_row(event) for event in events if event.due is None]
        later = [
            (
                *_row(event),
                event.lock,
                event.due.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z" if isinstance(event.due, datetime) else None,
                f"{event.due.total_seconds():+.3f}" if isinstance(event.due, timedelta) else None,
            )
            for event in events
            if event.due is not None
        ]
        commands = []
        if later:
            commands.append(Command(self.schedule, later, many=True))
        if now:
            commands.append(Command(self.insert, now, many=True))
        return commands

    def script(self, events: Sequence[Outgoing]) -> None:
        """Return None: nothing is sent anywhere, and so nothing is saved."""

    def cancel_scheduled(self, ids: Sequence[UUID]) -> Command:
        """Return the command that cancels scheduled events; its rows are the ids that were still waiting."""
        return Command(self.cancel, ('["' + '","'.join(map(str, ids)) + '"]',))


def _row(event: Outgoing) -> tuple[object, ...]:
    return (str(event.id), *event[1:7], event.headers, event.data)
