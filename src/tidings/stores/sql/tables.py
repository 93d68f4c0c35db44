"""The store's tables as SQLAlchemy knows them: for Alembic, for `create_all` in tests, and for queries of your own.

The tables are made by the numbered migrations (`tidings db upgrade`); what stands here says the same in SQLAlchemy's words. A test holds
the two together. The databases differ in columns and defaults as well as in types, so a `MetaData` is made for one of them.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Identity,
    Integer,
    MetaData,
    Sequence,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.schema import SchemaItem

from tidings.errors import ConfigurationError
from tidings.stores.sql.columns import POSTGRESQL_WORDS, SQLITE_WORDS, Maker, PgSnapshot, Words, Xid8
from tidings.stores.sql.migrations import first_row
from tidings.stores.sql.names import Names

__all__ = ["metadata"]


def metadata(
    schema: str | None = None,
    prefix: str = "tidings_",
    into: MetaData | None = None,
    *,
    dialect: Literal["postgresql", "sqlite"] = "postgresql",
) -> MetaData:
    """Return the store's tables as a SQLAlchemy `MetaData`.

    With it in `target_metadata`, Alembic's autogenerate finds no difference after `tidings db upgrade`. `stores.sql.alembic` keeps it away
    from the tables altogether.

    Args:
        schema, prefix: as `SQLStore` has them; None is the default schema of the connection.
        into: add the tables to this `MetaData` instead of a new one.
        dialect: whose tables.

    Raises:
        ConfigurationError: bad schema, prefix or dialect; `create_all` on another kind of database.
    """
    if dialect not in ("postgresql", "sqlite"):
        raise ConfigurationError(f"metadata(dialect={dialect!r}): there are tables for 'postgresql' and 'sqlite'")
    names = Names(schema, prefix)
    made = MetaData() if into is None else into
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql.base import ischema_names

        # Reflection, and with it Alembic, warns about types that it does not know.
        ischema_names.setdefault("xid8", Xid8)
        ischema_names.setdefault("pg_snapshot", PgSnapshot)
        Sequence(f"{prefix}token", cache=1, schema=schema, metadata=made)
    words = POSTGRESQL_WORDS if dialect == "postgresql" else SQLITE_WORDS
    tables = _tables(Maker(made, schema, prefix), words)

    def refuse_others(table: Table, connection: Connection, **_: Any) -> None:
        if connection.dialect.name != dialect:
            raise ConfigurationError(
                f"{table.name} is described for {dialect}, and this is {connection.dialect.name}: "
                f"metadata(dialect={connection.dialect.name!r}), or leave the tables to SQLStore.upgrade()"
            )

    for table in tables:
        event.listen(table, "before_create", refuse_others)
    event.listen(tables[0], "after_create", DDL(first_row(dialect, names)))  # type: ignore[no-untyped-call]
    return made


def _tables(make: Maker, w: Words) -> list[Table]:
    pg = w.postgresql
    brin: dict[str, Any] = {"postgresql_using": "brin", "postgresql_with": {"pages_per_range": 32}} if pg else {}
    rowless: dict[str, Any] = {} if pg else {"sqlite_with_rowid": False}
    retrying: dict[str, Any] = {f"{'postgresql' if pg else 'sqlite'}_where": text("state = 'retrying'")}
    dead: dict[str, Any] = {f"{'postgresql' if pg else 'sqlite'}_where": text("state = 'dead'")}
    failed: dict[str, Any] = {f"{'postgresql' if pg else 'sqlite'}_where": text("fingerprint is not null")}

    def now(name: str) -> Column[Any]:
        return Column(name, w.time, nullable=False, server_default=w.now)

    def integer(name: str, default: int | None = 0, kind: Any = Integer) -> Column[Any]:
        return Column(name, kind, nullable=False, server_default=None if default is None else text(str(default)))

    def number() -> list[SchemaItem]:
        return [Identity(always=True, cache=1)] if pg else []

    def event_columns() -> list[Column[Any]]:
        """What a row of the log and a scheduled event have in common, from source to data."""
        return [
            Column("source", Text, nullable=False),
            Column("name", Text, nullable=False),
            Column("version", Integer),
            Column("topic", Text, nullable=False),
            Column("key", Text),
            Column("slot", w.small),
            Column("headers", w.json, nullable=False),
            Column("data", w.json, nullable=False),
        ]

    return [
        make.table(
            "meta",
            Column("singleton", w.boolean, primary_key=True, autoincrement=False, server_default=w.true),
            Column("schema_version", Integer, nullable=False),
            Column("system_identifier", Text),
            integer("generation", 1),
            Column("purged_to", w.big),
            *([] if pg else [integer("token")]),
            make.check("meta_singleton", w.true_check),
        ),
        make.table(
            "outbox",
            Column("position", w.big, *number(), primary_key=True),
            *([Column("tx", Xid8, nullable=False, server_default=text("pg_current_xact_id()"))] if pg else []),
            Column("id", w.uuid, nullable=False),
            *event_columns(),
            now("time"),
            *([make.index("outbox_tx", "tx", "position")] if pg else []),
            make.index("outbox_time", "time", **brin),
            sqlite_autoincrement=True,
        ),
        make.table(
            "inbox",
            Column("event_key", w.uuid, primary_key=True),
            Column("subscription_id", Integer, primary_key=True, autoincrement=False),
            integer("outcome", 0, w.small),
            # Two bytes that stand where PostgreSQL would leave two empty before a time: a row is as long as without it.
            Column("worker", w.small),
            now("handled_at"),
            make.index("inbox_handled_at", "handled_at", **brin),
            **rowless,
        ),
        make.table(
            "attempts",
            Column("event_key", w.uuid, primary_key=True),
            Column("subscription_id", Integer, primary_key=True, autoincrement=False),
            Column("history", w.json, nullable=False),
            now("ended_at"),
            make.index("attempts_ended_at", "ended_at", **brin),
            **rowless,
        ),
        make.table(
            "lanes",
            Column("lane", w.uuid, primary_key=True),
            Column("subscription_id", Integer, primary_key=True, autoincrement=False),
            Column("key", Text),
            *make.state("lanes", "retrying"),
            integer("depth"),
            integer("attempts"),
            now("due_at"),
            now("blocked_at"),
            integer("lease_token", 0, w.big),
            Column("lease_until", w.time),
            Column("owner", Text),
            make.index("lanes_due_at", "due_at", **retrying),
            make.index("lanes_dead", "blocked_at", "lane", "subscription_id", **dead),
            **(rowless or {"postgresql_with": {"fillfactor": 70}}),
        ),
        make.table(
            "deliveries",
            Column("number", w.big, *number(), primary_key=True),
            Column("event_key", w.uuid, nullable=False),
            integer("subscription_id", None),
            Column("lane", w.uuid, nullable=False),
            Column("event_id", Text, nullable=False),
            Column("source", Text, nullable=False),
            Column("name", Text, nullable=False),
            Column("version", Integer),
            Column("topic", Text, nullable=False),
            Column("key", Text),
            Column("time", w.time),
            Column("sequence", w.big),
            Column("headers", w.bytes, nullable=False),
            Column("data", w.bytes, nullable=False),
            Column("reason", Text, nullable=False),
            integer("attempts"),
            Column("history", w.json, nullable=False, server_default=w.nothing),
            Column("error_type", Text),
            Column("error_message", Text),
            Column("traceback", Text),
            Column("fingerprint", Text),
            now("parked_at"),
            Column("failed_at", w.time),
            make.index("deliveries_event", "event_key", "subscription_id", unique=True),
            make.index("deliveries_lane", "lane", "subscription_id", "number"),
            make.index("deliveries_fingerprint", "fingerprint", "subscription_id", "number", **failed),
            sqlite_autoincrement=True,
        ),
        make.table(
            "checkpoints",
            Column("reader", Text, primary_key=True),
            Column("shard", w.small, primary_key=True, autoincrement=False, server_default=text("0")),
            Column("service", Text, nullable=False),
            Column("group_name", Text, nullable=False),
            Column("kind", Text, nullable=False),
            *make.state("checkpoints"),
            *([Column("previous", PgSnapshot), Column("current", PgSnapshot)] if pg else []),
            integer("position", 0, w.big),
            integer("high", 0, w.big),
            Column("place", Text),
            integer("lease_token", 0, w.big),
            Column("lease_until", w.time),
            Column("owner", Text),
            integer("restarts"),
            now("moved_at"),
            **({"postgresql_with": {"fillfactor": 50}} if pg else {}),
        ),
        make.table(
            "scheduled",
            Column("id", w.uuid, primary_key=True),
            *event_columns(),
            Column("keyed", w.boolean, nullable=False),
            Column("due_at", w.time, nullable=False),
            now("published_at"),
            make.index("scheduled_due_at", "due_at", "id"),
        ),
        make.table(
            "subscriptions",
            Column("id", Integer, *number(), primary_key=True),
            Column("service", Text, nullable=False),
            Column("group_name", Text, nullable=False),
            Column("name", Text, nullable=False),
            Column("events", w.json, nullable=False),
            Column("ordered", w.boolean, nullable=False, server_default=w.true),
            *make.state("subscriptions"),
            now("registered_at"),
            Column("breaker", Text),
            Column("breaker_since", w.time),
            Column("breaker_reason", Text),
            Column("breaker_owner", Text),
            make.index("subscriptions_name", "service", "group_name", "name", unique=True),
            sqlite_autoincrement=True,
        ),
        make.table(
            "limits",
            Column("scope", Text, primary_key=True),
            Column("spent_until", w.time),
            **(rowless or {"postgresql_with": {"fillfactor": 50}}),
        ),
        make.table(
            "permits",
            Column("scope", Text, primary_key=True),
            Column("owner", Text, primary_key=True),
            integer("held"),
            integer("wanted"),
            Column("lease_until", w.time, nullable=False),
            **(rowless or {"postgresql_with": {"fillfactor": 50}}),
        ),
        make.table(
            "workers",
            Column("id", w.uuid, primary_key=True),
            Column("service", Text, nullable=False),
            Column("environment", Text),
            Column("roles", Text, nullable=False),
            Column("host", Text, nullable=False),
            integer("pid", None),
            Column("version", Text, nullable=False),
            Column("brokers", w.json, nullable=False, server_default=w.nothing),
            now("started_at"),
            now("seen_at"),
        ),
        make.table(
            "worker_numbers",
            Column("number", w.small, primary_key=True, autoincrement=False),
            Column("worker", w.uuid, nullable=False),
            Column("service", Text, nullable=False),
            Column("host", Text, nullable=False),
            integer("pid", None),
            now("started_at"),
            Column("gone_at", w.time),
        ),
        make.table(
            "stats",
            Column("bucket", w.time, primary_key=True),
            Column("service", Text, primary_key=True),
            Column("subject", Text, primary_key=True),
            Column("measure", Text, primary_key=True),
            integer("value", None, w.big),
            **rowless,
        ),
        make.table(
            "command_keys",
            Column("service", Text, primary_key=True),
            Column("key", Text, primary_key=True),
            Column("command", Text, nullable=False),
            Column("fingerprint", Text, nullable=False),
            Column("result", w.json),
            now("created_at"),
            make.index("command_keys_created_at", "created_at", **brin),
            **rowless,
        ),
        make.table(
            "commands",
            Column("id", w.uuid, primary_key=True),
            Column("service", Text, nullable=False),
            Column("command", Text, nullable=False),
            Column("actor", Text),
            Column("idempotency_key", Text),
            Column("data", w.json, nullable=False),
            Column("outcome", Text, nullable=False),
            Column("error_type", Text),
            Column("error_message", Text),
            Column("started_at", w.time, nullable=False),
            integer("milliseconds", None),
            make.index("commands_started_at", "service", "started_at"),
        ),
        make.table(
            "audit",
            Column("number", w.big, *number(), primary_key=True),
            now("time"),
            now("changed_at"),
            Column("actor", Text, nullable=False),
            Column("action", Text, nullable=False),
            Column("target", w.json, nullable=False),
            integer("count", 0, w.big),
            Column("outcome", Text, nullable=False),
            sqlite_autoincrement=True,
        ),
    ]
