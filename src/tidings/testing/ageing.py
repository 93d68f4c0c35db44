"""The virtual clock. The clock on the wall stays; everything that the store remembers becomes older by the same time.

Due times, leases, expiry, the ages that retry policies ask for: the engine sees all of them as after a real wait, and none of it needs
a second clock. What an envelope says about times is older afterwards, too; the user's own tables are left alone.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from tidings.stores.sql.driver import run
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.store import SQLStore

__all__ = ["TIMES", "age"]

#: Every column that holds a time, but for the minute of a statistic.
TIMES = {
    "outbox": ("time",),
    "inbox": ("handled_at",),
    "attempts": ("ended_at",),
    "lanes": ("due_at", "blocked_at", "lease_until"),
    "deliveries": ("time", "parked_at", "failed_at"),
    "checkpoints": ("lease_until", "moved_at"),
    "scheduled": ("due_at", "published_at"),
    "subscriptions": ("registered_at", "breaker_since"),
    "limits": ("spent_until",),
    "permits": ("lease_until",),
    "workers": ("started_at", "seen_at"),
    "worker_numbers": ("started_at", "gone_at"),
    "command_keys": ("created_at",),
    "commands": ("started_at",),
    "audit": ("time", "changed_at"),
}


def age(connection: Connection, store: SQLStore, time: timedelta) -> None:
    """Make everything in the store older. Needs a transaction."""
    postgresql = store.dialect.name == "postgresql"
    for table, columns in TIMES.items():
        older = (
            "{0} = {0} - $1::float8 * interval '1 second'"
            if postgresql
            else "{0} = coalesce(strftime('%Y-%m-%dT%H:%M:%fZ', {0}, $1 || ' seconds'), {0})"
        )
        changes = ", ".join(older.format(column) for column in columns)
        seconds: Any = time.total_seconds() if postgresql else f"{-time.total_seconds():.6f}"
        run(connection, Command(Sql(f"update {store.names(table)} set {changes}"), (seconds,)))
    _expire(connection, store, time)
    _remember(connection, store, time)


def _expire(connection: Connection, store: SQLStore, time: timedelta) -> None:
    """Bring the time nearer from when on an event need not be handled: it stands in the headers."""
    postgresql = store.dialect.name == "postgresql"
    for table, key in (("outbox", "position"), ("scheduled", "id"), ("deliveries", "number")):
        in_bytes = table == "deliveries"
        name = store.names(table)
        text = "convert_from(headers, 'UTF8')" if in_bytes and postgresql else "cast(headers as text)"
        rows = run(connection, Command(Sql(f"select {key}, {text} from {name} where {text} like '%\"expires\"%'"), ()))
        kind = "" if not postgresql else "::bytea" if in_bytes else "::json"
        changed = Sql(f"update {name} set headers = $2{kind} where {key} = $1")
        for row_id, headers in rows:
            fields = json.loads(headers)
            fields["expires"] = _older(fields["expires"], time)
            written = json.dumps(fields, separators=(",", ":"))
            run(connection, Command(changed, (row_id, written.encode() if in_bytes else written)))


def _remember(connection: Connection, store: SQLStore, time: timedelta) -> None:
    """Move the attempts that a delivery remembers into the past: how long it is tried counts from the first."""
    postgresql = store.dialect.name == "postgresql"
    text, kind = ("history::text", "::json") if postgresql else ("history", "")
    rows = run(connection, Command(Sql(f"select number, {text} from {store.names.deliveries} where {text} <> '[]'"), ()))
    changed = Sql(f"update {store.names.deliveries} set history = $2{kind} where number = $1")
    for number, history in rows:
        attempts = [{**attempt, "at": _older(attempt["at"], time)} for attempt in json.loads(history)]
        run(connection, Command(changed, (number, json.dumps(attempts))))


def _older(value: str, time: timedelta) -> str:
    return (datetime.fromisoformat(value) - time).isoformat(timespec="microseconds")
