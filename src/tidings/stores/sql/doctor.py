"""What `tidings doctor` asks a database: its settings, whoever holds transactions open, and how the tables differ from what they should be."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, inspect

from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import TABLES, Names
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.tables import metadata

__all__ = ["Doctor", "Holder", "Server"]


class Server(NamedTuple):
    """How a database server is set; on SQLite only the version says something."""

    version: str
    synchronous_commit: str = "on"
    autovacuum: bool = True
    max_connections: int = 0
    reserved: int = 0
    connections: int = 0


class Holder(NamedTuple):
    """Somebody who keeps old row versions, or its own events, from everybody.

    Attributes:
        kind: `transaction`, `prepared` or `slot`.
        who: its process id, name, or identifier, with what it says of itself.
        seconds: for how long; None where the server does not know.
        writes: whether it has written something: then events of its own may wait for its end.
    """

    kind: str
    who: str
    seconds: float | None
    writes: bool


class Doctor:
    """Each method is a function of a synchronous connection, for `store.call`; none of them changes anything."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        self._names = names
        self._dialect = dialect
        self.server_ = Sql("""
            select current_setting('server_version'), current_setting('synchronous_commit'), current_setting('autovacuum') = 'on',
                   current_setting('max_connections')::int, current_setting('superuser_reserved_connections')::int,
                   (select count(*) from pg_stat_activity where backend_type = 'client backend')
        """)
        self.holders_ = Sql("""
            select 'transaction', pid::text || ' ' || coalesce(usename::text, '') || ' ' || coalesce(application_name, '') || ' (' ||
                     coalesce(state, 'its state may not be seen') || ')',
                   extract(epoch from clock_timestamp() - xact_start)::float8, backend_xid is not null
            from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and xact_start < clock_timestamp() - $1::float8 * interval '1 second'
              and (backend_xid is not null or backend_xmin is not null)
            union all
            select 'prepared', gid, extract(epoch from clock_timestamp() - prepared)::float8, true
            from pg_prepared_xacts
            where database = current_database() and prepared < clock_timestamp() - $1::float8 * interval '1 second'
            union all
            select 'slot', slot_name::text, null, false from pg_replication_slots
            where not active and (xmin is not null or catalog_xmin is not null)
            order by 3 desc nulls last limit 20
        """)
        self.unvacuumed_ = Sql("""
            select c.relname::text from pg_class c
            where c.oid = any(array(select to_regclass(t) from unnest($1::text[]) t))
              and c.reloptions::text like '%autovacuum_enabled=false%' order by 1
        """)
        self.waiting_for_code_ = Sql(f"""
            select s.service, s.group_name || '/' || s.name, count(*) from (
              select subscription_id from {names.deliveries} where reason = 'waiting for code' limit 10000) d
            join {names.subscriptions} s on s.id = d.subscription_id group by 1, 2 order by 1, 2
        """)

    def server(self, connection: Connection) -> Server:
        """Return the settings that matter."""
        if self._dialect.name == "sqlite":
            return Server(str(connection.exec_driver_sql("select sqlite_version()").scalar_one()))
        return Server._make(run(connection, Command(self.server_, ()))[0])

    def holders(self, connection: Connection, seconds: float) -> list[Holder]:
        """Return who has held a transaction open for longer than that, the longest first."""
        if self._dialect.name == "sqlite":
            return []
        return [Holder._make(row) for row in run(connection, Command(self.holders_, (seconds,)))]

    def unvacuumed(self, connection: Connection) -> list[str]:
        """Return the tables of ours for which autovacuum was switched off."""
        if self._dialect.name == "sqlite":
            return []
        return [row[0] for row in run(connection, Command(self.unvacuumed_, ([self._names(table) for table in TABLES],)))]

    def waiting_for_code(self, connection: Connection) -> list[tuple[str, str, int]]:
        """Return service, subscription and number of events that no process so far has understood, or has had the code for."""
        return [(row[0], row[1], row[2]) for row in run(connection, Command(self.waiting_for_code_, ()))]

    def drift(self, connection: Connection) -> list[str]:
        """Return how the tables differ from what this code makes: columns and indexes that are missing, columns that are not ours."""
        names = self._names
        inspector = inspect(connection)
        there = set(inspector.get_table_names(schema=names.schema))
        problems = []
        for table in metadata(names.schema, names.prefix, dialect=self._dialect.name).sorted_tables:
            if table.name not in there:
                # Missing tables are found by `store.check`.
                continue
            columns = {column["name"] for column in inspector.get_columns(table.name, schema=names.schema)}
            wanted = {column.name for column in table.columns}
            problems += [f"column {table.name}.{name} is missing" for name in sorted(wanted - columns)]
            problems += [f"column {table.name}.{name} is not ours" for name in sorted(columns - wanted)]
            indexes = {index["name"] for index in inspector.get_indexes(table.name, schema=names.schema)}
            problems += [f"index {index.name} of {table.name} is missing" for index in table.indexes if index.name not in indexes]
        return sorted(problems)
