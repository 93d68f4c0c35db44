"""What was tried of events that had failed and are over: kept beside the inbox, written as they leave the deliveries. Nothing of events that succeed at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.statement import Command, Sql

__all__ = ["Leaving", "keep"]


def keep(names: Names, dialect: Dialect, source: str, where: str) -> str:
    """Return the statement that keeps the attempts of deliveries that have any.

    Args:
        source: the deliveries, or what has been removed from them.
        where: which of them, a condition on their columns.
    """
    pg = dialect.name == "postgresql"
    # An event that is replayed may fail again.
    return f"""
        insert into {names.attempts} (event_key, subscription_id, history{"" if pg else ", ended_at"})
        select event_key, subscription_id, history{"" if pg else f", {dialect.now}"} from {source}
        where {where} and history{"::text" if pg else ""} <> '[]'
        on conflict (event_key, subscription_id) do update set history = excluded.history, ended_at = excluded.ended_at
    """


class Leaving:
    """Removes deliveries, and keeps the attempts of those that have any, in the transaction in which the events are over.

    Args:
        where: which ones, a condition on the columns of deliveries.
    """

    def __init__(self, names: Names, dialect: Dialect, where: str) -> None:
        if dialect.name == "postgresql":
            self._statements = [
                Sql(f"""
                    with gone as (delete from {names.deliveries} where {where} returning number, event_key, subscription_id, history),
                         kept as ({keep(names, dialect, "gone", "true")})
                    select number from gone
                """)
            ]
        else:
            self._statements = [
                Sql(keep(names, dialect, names.deliveries, where)),
                Sql(f"delete from {names.deliveries} where {where} returning number"),
            ]

    def __call__(self, connection: Connection, *arguments: Any) -> Sequence[Any]:
        """Remove them; return their numbers."""
        rows: Sequence[Any] = []
        for statement in self._statements:
            rows = run(connection, Command(statement, arguments))
        return rows
