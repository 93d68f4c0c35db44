"""Changing what waits: a dead event edited into a new one, a scheduled one brought forward. Each needs a transaction."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection

from tidings.consume.outcome import Outcome
from tidings.errors import ConfigurationError
from tidings.ids import event_key, uuid7
from tidings.stores.sql.attempts import keep
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Amend"]


class Amend:
    """The statements on one set of tables. They take the row lock of a lane first, as everything does that changes one."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        pg = dialect.name == "postgresql"
        typed = dialect.cast
        uuid = "uuid" if pg else "text"
        text = "::text" if pg else ""
        mine = f"lane = {typed('$1', uuid)} and subscription_id = {typed('$2', 'int')}"
        self.find = Sql(f"""
            select lane{text}, subscription_id, event_key{text}, event_id, source, headers from {names.deliveries}
            where number = {typed("$1", "bigint")}
        """)
        self.hold = Sql(f"update {names.lanes} set state = state where {mine} and state = 'dead' returning depth")
        self.head = Sql(f"select min(number) from {names.deliveries} where {mine}")
        clock = "" if pg else f", {dialect.now}"
        handled_at = "" if pg else ", handled_at"
        self.give_up = Sql(f"""
            insert into {names.inbox} (event_key, subscription_id, outcome{handled_at})
            values ({typed("$1", uuid)}, {typed("$2", "int")}, {typed("$3", "smallint")}{clock}) on conflict do nothing
        """)
        binary = "bytea" if pg else "blob"
        self.replace = Sql(f"""
            update {names.deliveries}
            set event_id = {typed("$2", "text")}, event_key = {typed("$3", uuid)}, headers = {typed("$4", binary)}, data = {typed("$5", binary)},
              reason = 'edited', attempts = 0, history = '[]', error_type = null, error_message = null, traceback = null, fingerprint = null,
              failed_at = null
            where number = {typed("$1", "bigint")}
        """)
        self.keep = Sql(keep(names, dialect, names.deliveries, f"number = {typed('$1', 'bigint')}"))
        self.revive = Sql(f"""
            update {names.lanes} set state = 'retrying', attempts = 0, due_at = {dialect.now}, lease_until = null, owner = null where {mine}
        """)
        self.sooner = Sql(f"update {names.scheduled} set due_at = {dialect.now} where id = {typed('$1', uuid)} returning id")

    def edit(self, connection: Connection, number: int, data: bytes) -> str | None:
        """Put a new event in the place of a dead one, at the head of its lane, and let the lane be tried again; return the new event's id.

        The old one is remembered as discarded, with its attempts; the new one has its correlation, and names it as its cause. Only this subscription gets it:
        the others have handled the old one. None says that the event is not the head of a dead lane any more.

        Raises:
            ConfigurationError: the event's headers are not those of an event that could be understood.
        """
        found = run(connection, Command(self.find, (number,)))
        if not found:
            return None
        lane, subscription_id, old_key, old_id, source, headers = found[0]
        mine = (lane, subscription_id)
        if not run(connection, Command(self.hold, mine)) or run(connection, Command(self.head, mine))[0][0] != number:
            return None
        event_id = str(uuid7())
        arguments = (number, event_id, event_key(source, event_id), _caused(bytes(headers), old_id), data)
        run(connection, Command(self.give_up, (old_key, subscription_id, Outcome.DISCARDED)))
        run(connection, Command(self.keep, (number,)))
        run(connection, Command(self.replace, arguments))
        run(connection, Command(self.revive, mine))
        return event_id

    def run_now(self, connection: Connection, event_id: str) -> bool:
        """Let a scheduled event be due now; False when it does not wait any more."""
        return bool(run(connection, Command(self.sooner, (event_id,))))


def _caused(headers: bytes, old_id: str) -> bytes:
    try:
        found: Any = json.loads(headers)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigurationError("the headers of this event are not those of an event: it can be retried or discarded, not edited")
    return json.dumps({"correlationid": old_id, **found, "causationid": old_id}).encode()
