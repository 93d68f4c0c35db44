"""Creating, upgrading, checking and mending the store's tables. `tidings db` is a thin shell over this."""

from __future__ import annotations

from sqlalchemy import Connection, text

from tidings.errors import ConfigurationError, ReplicaError, SchemaError
from tidings.stores.sql.driver import run
from tidings.stores.sql.migrations import OLDEST_USABLE, STEPS, VERSION, first_row
from tidings.stores.sql.names import TABLES, Names
from tidings.stores.sql.statement import Command, Sql

__all__ = [
    "DEMO",
    "check",
    "current_version",
    "foreign",
    "refuse_replica",
    "refuse_unsupported",
    "require_usable",
    "restored",
    "schemas_command",
    "schemas_of",
    "script",
    "system_identifier",
    "upgrade",
]

#: The comment on a schema that the demo has made. The next demo drops it, so that no store may find its place there by itself.
DEMO = "made by 'tidings demo', which replaces it each time"

_SCHEMAS = Sql("""
    select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relname = $1::text and c.relkind in ('r', 'p') and n.nspname !~ '^pg_temp'
      and obj_description(n.oid, 'pg_namespace') is distinct from $2::text
    order by 1
""")

# Servers that begin their banner with "PostgreSQL", and whose transaction ids or snapshots are others.
_NOT_QUITE = ("-YB-", "Yugabyte", "Redshift", "Greenplum", "Materialize", "QuestDB")


def refuse_unsupported(connection: Connection) -> None:
    """Refuse a server whose transactions do not behave as the log needs.

    Raises:
        ConfigurationError: not PostgreSQL 13 or later, nor SQLite 3.35 or later; or only PostgreSQL's protocol.
    """
    if connection.dialect.name == "postgresql":
        banner = connection.exec_driver_sql("select version()").scalar_one()
        if not banner.startswith("PostgreSQL") or any(word in banner for word in _NOT_QUITE):
            raise ConfigurationError(f"the server says it is {banner[:80]!r}: Tidings reads the log by PostgreSQL's own snapshots")
        number = connection.exec_driver_sql("select current_setting('server_version_num')::int").scalar_one()
        if number < 130000:
            raise ConfigurationError(f"the server is PostgreSQL {number // 10000}: Tidings needs version 13 or later")
    elif connection.dialect.name == "sqlite":
        version = connection.exec_driver_sql("select sqlite_version()").scalar_one()
        if tuple(map(int, version.split(".")[:2])) < (3, 35):
            raise ConfigurationError(f"SQLite is {version}: Tidings needs 3.35 or later (RETURNING)")
    else:
        raise ConfigurationError(f"no store for {connection.dialect.name!r}: use PostgreSQL or SQLite")


def current_version(connection: Connection, names: Names) -> int:
    """Return the schema version of the tables; 0 when there are none."""
    if not _has_table(connection, names, "meta"):
        return 0
    return connection.exec_driver_sql(f"select schema_version from {names.meta}").scalar_one_or_none() or 0


def upgrade(connection: Connection, names: Names, lock_class: int) -> tuple[int, int]:
    """Bring the tables to this code's version, in the caller's transaction; return the versions before and after.

    Two processes may do it at once: the second waits and finds nothing to do. A newer schema is left alone.
    """
    refuse_unsupported(connection)
    refuse_replica(connection)
    pg = connection.dialect.name == "postgresql"
    if pg:
        connection.exec_driver_sql("set local lock_timeout = '10s'")
        connection.exec_driver_sql(f"select pg_advisory_xact_lock({lock_class}, -2)")
        if names.schema and not _has_schema(connection, names.schema):
            connection.exec_driver_sql(f'create schema "{names.schema}"')
    before = current_version(connection, names)
    for number in range(before, VERSION):
        for statement in STEPS[number](connection.dialect.name, names):
            connection.exec_driver_sql(statement)
    if before == 0:
        connection.exec_driver_sql(first_row(connection.dialect.name, names, VERSION))
    elif before < VERSION:
        connection.exec_driver_sql(f"update {names.meta} set schema_version = {VERSION}")
    return before, max(before, VERSION)


def script(dialect: str, names: Names) -> str:
    """Return the SQL that creates the tables at this code's version, for a database administrator to read and run."""
    lines = [f"-- Tidings, schema version {VERSION}, for {dialect}"]
    if dialect == "sqlite":
        # Not possible inside a transaction; the file remembers it.
        lines.append("pragma journal_mode = wal;")
    lines.append("begin;")
    if names.schema and dialect == "postgresql":
        lines.append(f'create schema if not exists "{names.schema}";')
    for step in STEPS:
        lines += [f"{statement};" for statement in step(dialect, names)]
    lines += [f"{first_row(dialect, names, VERSION)};", "commit;"]
    return "\n\n".join(lines) + "\n"


def check(connection: Connection, names: Names) -> list[str]:
    """Return what is wrong with the tables, in sentences that say what to do; an empty list when all is well."""
    try:
        refuse_unsupported(connection)
    except ConfigurationError as error:
        return [str(error)]
    version = current_version(connection, names)
    if version == 0:
        return [f"there is no table {names.meta}: run 'tidings db upgrade'"]
    problems = []
    if version < OLDEST_USABLE:
        problems.append(f"the tables have schema version {version}, this code needs at least {OLDEST_USABLE}: run 'tidings db upgrade'")
    elif version < VERSION:
        problems.append(f"the tables have schema version {version}, this code brings {VERSION}: run 'tidings db upgrade' when it suits you")
    missing = [table for table in TABLES if not _has_table(connection, names, table)]
    if missing:
        return [*problems, f"tables are missing: {', '.join(names(table) for table in missing)}; restore them from a backup"]
    if connection.dialect.name == "postgresql":
        problems += _check_postgresql(connection, names)
    else:
        sequence = connection.exec_driver_sql(
            "select sql from sqlite_master where type = 'table' and name = ?", (f"{names.prefix}outbox",)
        ).scalar_one_or_none()
        if sequence is None or "autoincrement" not in sequence.lower():
            problems.append(
                f"{names.outbox}.position is not AUTOINCREMENT: numbers would be given out twice and events skipped; recreate the table"
            )
        mode = connection.exec_driver_sql("pragma journal_mode").scalar_one()
        if mode != "wal":
            problems.append(f"journal_mode is {mode!r}, not 'wal': call tidings.stores.sqlite.configure(engine)")
    return problems


def require_usable(connection: Connection, names: Names) -> None:
    """Raise when this code cannot run on the tables.

    Raises:
        SchemaError: they are missing, or older than this code can use.
    """
    version = current_version(connection, names)
    if version < OLDEST_USABLE:
        what = "there are no Tidings tables" if version == 0 else f"the tables have schema version {version}"
        where = f" with prefix {names.prefix!r}" + (f" in schema {names.schema!r}" if names.schema else "")
        raise SchemaError(f"{what}{where} in this database: run 'tidings db upgrade', or await store.upgrade()")


def refuse_replica(connection: Connection) -> None:
    """Raise on a server in recovery.

    Raises:
        ReplicaError: the log is read, and written, on the primary only.
    """
    if connection.dialect.name == "postgresql" and connection.exec_driver_sql("select pg_is_in_recovery()").scalar_one():
        raise ReplicaError("the database server is in recovery (a replica); give SQLStore the primary's address")


def schemas_of(connection: Connection, names: Names) -> list[str]:
    """Return the schemas that hold an outbox of this prefix, whatever the search path says, without the demo's."""
    return [row[0] for row in run(connection, schemas_command(names))]


def schemas_command(names: Names) -> Command:
    """Return the command behind `schemas_of`, for a publisher that has only a driver's connection."""
    return Command(_SCHEMAS, (f"{names.prefix}outbox", DEMO))


def system_identifier(connection: Connection) -> str | None:
    """Return what tells this database cluster from every other; None on SQLite."""
    if connection.dialect.name != "postgresql":
        return None
    return str(connection.exec_driver_sql("select system_identifier::text from pg_control_system()").scalar_one())


def foreign(connection: Connection, names: Names) -> bool:
    """Return whether the tables came from another cluster, or the transaction counter is behind a checkpoint: `restored` is due."""
    if connection.dialect.name != "postgresql":
        return False
    row = connection.exec_driver_sql(f"""
        select (select m.system_identifier is distinct from s.system_identifier::text from {names.meta} m, pg_control_system() s)
            or exists (select 1 from {names.checkpoints} c where c.previous is not null
                       and pg_snapshot_xmax(c.previous) > pg_snapshot_xmax(pg_current_snapshot()))
    """).scalar_one()  # fmt: skip
    return bool(row)


def restored(connection: Connection, names: Names) -> bool:
    """Make the rows of a restored or moved database native again, in the caller's transaction; return whether anything was to be done.

    An old row with a position above all that a reader has ever seen cannot have been read, so it is delivered; what was read is marked as
    always visible and never new (transaction 3). Nothing is guessed from transaction ids of the other cluster.
    """
    if connection.dialect.name != "postgresql":
        return False
    connection.exec_driver_sql(f"lock table {names.outbox} in share row exclusive mode")
    if not foreign(connection, names):
        return False
    # Who has retired from the log is owed nothing. Whoever still reads with marks of the other cluster is fenced.
    connection.exec_driver_sql(f"""
        update {names.outbox} o set tx = case when exists (
            select 1 from {names.checkpoints} c
            where c.kind = 'log' and c.state <> 'retired' and (
              o.position > c.high
              or not pg_visible_in_snapshot(o.tx, c.previous)
                and not (c.current is not null and o.position <= c.position and pg_visible_in_snapshot(o.tx, c.current))))
          then pg_current_xact_id() else '3'::xid8 end
    """)
    # A snapshot leaves out the transaction that takes it: when a later one has ended, the rows above would be taken for old ones.
    connection.exec_driver_sql(f"""
        update {names.checkpoints} set previous = n.snap, current = null, position = 0,
          lease_token = lease_token + 1, lease_until = null, owner = null
        from (
          select case when not pg_visible_in_snapshot(me, s) then s else (
            pg_snapshot_xmin(s) || ':' || pg_snapshot_xmax(s) || ':' ||
            (select string_agg(x::text, ',' order by x) from (select pg_snapshot_xip(s) union select me) i(x)))::pg_snapshot end as snap
          from (select pg_current_snapshot() as s, pg_current_xact_id() as me) t) n
        where kind = 'log'
    """)
    # Logical replication copies rows and not sequences; and a number that was purged must not be given out again either.
    for table, column, others in (
        ("outbox", "position", f"(select max(high) from {names.checkpoints})"),
        ("deliveries", "number", "0"),
        ("subscriptions", "id", "0"),
    ):
        connection.exec_driver_sql(f"""
            select setval(s, greatest((select max({column}) from {names(table)}), {others}, pg_sequence_last_value(s), 1))
            from (select pg_get_serial_sequence('{names(table)}', '{column}')::regclass as s) i
        """)
    connection.exec_driver_sql(f"""
        select setval(s, greatest((select max(lease_token) from {names.lanes}), pg_sequence_last_value(s), 1))
        from (select '{names("token")}'::regclass as s) i
    """)
    connection.exec_driver_sql(f"""
        update {names.meta} set generation = generation + 1,
          system_identifier = (select system_identifier::text from pg_control_system())
    """)
    return True


def _has_schema(connection: Connection, schema: str) -> bool:
    # `create schema if not exists` asks for the right to create schemas even where there is nothing to create.
    statement = text("select count(*) from pg_namespace where nspname = :name")
    return bool(connection.execute(statement, {"name": schema}).scalar_one())


def _has_table(connection: Connection, names: Names, table: str) -> bool:
    if connection.dialect.name == "postgresql":
        statement = text("select to_regclass(:name) is not null")
        return bool(connection.execute(statement, {"name": names(table)}).scalar_one())
    statement = text("select count(*) from sqlite_master where type = 'table' and name = :name")
    return bool(connection.execute(statement, {"name": f"{names.prefix}{table}"}).scalar_one())


def _check_postgresql(connection: Connection, names: Names) -> list[str]:
    problems = []
    if connection.exec_driver_sql("select pg_is_in_recovery()").scalar_one():
        problems.append("the server is in recovery (a replica): give SQLStore the primary's address")
    sequence = connection.execute(
        text("""
            select s.seqcache, s.seqcycle from pg_sequence s
            where s.seqrelid = pg_get_serial_sequence(:table, 'position')::regclass
        """),
        {"table": names.outbox},
    ).one_or_none()
    if sequence is None:
        problems.append(f"{names.outbox}.position is not an identity column: publishing is not possible; restore it from a backup")
    elif sequence.seqcache != 1 or sequence.seqcycle:
        problems.append(
            f"the sequence of {names.outbox}.position has cache {sequence.seqcache}{' and cycles' if sequence.seqcycle else ''}: "
            f"alter table {names.outbox} alter column position set cache 1 set no cycle"
        )
    indexed = connection.execute(
        text("""
            select count(*) from pg_index i
            join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] and a.attname = 'tx'
            join pg_attribute b on b.attrelid = i.indrelid and b.attnum = i.indkey[1] and b.attname = 'position'
            where i.indrelid = to_regclass(:table) and i.indisvalid and i.indpred is null
        """),
        {"table": names.outbox},
    ).scalar_one()
    if not indexed:
        problems.append(f"the index (tx, position) of {names.outbox} is missing: create index on {names.outbox} (tx, position)")
    if foreign(connection, names):
        problems.append("the tables come from another cluster, or the cluster was moved: run 'tidings db restored'")
    return problems
