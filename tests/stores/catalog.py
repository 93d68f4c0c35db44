"""The store's tables as the database describes them, to compare two ways of making them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

_POSTGRESQL = {
    "columns": """
        select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
        from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace = cast(:schema as regnamespace) and c.relkind = 'r'
    """,
    "tables": """
        select relname, reloptions::text from pg_class where relnamespace = cast(:schema as regnamespace) and relkind = 'r'
    """,
    "indexes": """
        select replace(pg_get_indexdef(i.indexrelid), n.nspname || '.', '') from pg_index i
        join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
        where c.relnamespace = cast(:schema as regnamespace) and c.relkind = 'r'
    """,
    "constraints": """
        select conrelid::regclass::oid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = cast(:schema as regnamespace)
    """,
    "sequences": """
        select sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size
        from pg_sequences where schemaname = :schema
    """,
}


def described(connection: Connection, schema: str | None = None) -> dict[str, Any]:
    """Describe every table, column, default, index, constraint and sequence of a schema, in words that can be compared."""
    if connection.dialect.name == "postgresql":
        schema = schema or connection.scalar(text("select current_schema()"))
        connection.execute(text("select set_config('search_path', :schema, true)"), {"schema": schema})
        return {
            what: sorted(map(repr, connection.execute(text(query), {"schema": schema} if ":schema" in query else {})))
            for what, query in _POSTGRESQL.items()
        }
    tables: dict[str, Any] = {}
    for name, sql in connection.execute(text("select name, sql from sqlite_master where type = 'table' and name not like 'sqlite_%'")):
        words = sql.lower()
        tables[name] = {
            "columns": [tuple(row)[1:] for row in connection.exec_driver_sql(f'pragma table_xinfo("{name}")')],
            "checks": words.count("check ("),
            "autoincrement": "autoincrement" in words,
            "without rowid": "without rowid" in words,
            "indexes": sorted(
                (
                    index[1] if index[3] == "c" else "", index[2], index[3], index[4],
                    tuple(tuple(column)[2:] for column in connection.exec_driver_sql(f'pragma index_info("{index[1]}")')),
                )
                for index in connection.exec_driver_sql(f'pragma index_list("{name}")')
            ),
        }  # fmt: skip
    return tables
