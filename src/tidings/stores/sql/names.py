"""Qualified names of the store's tables, resolved once, always written out."""

from __future__ import annotations

import re

from tidings.errors import ConfigurationError

__all__ = ["TABLES", "Names"]

TABLES = (
    "outbox",
    "inbox",
    "attempts",
    "lanes",
    "deliveries",
    "checkpoints",
    "scheduled",
    "subscriptions",
    "limits",
    "permits",
    "workers",
    "worker_numbers",
    "stats",
    "command_keys",
    "commands",
    "audit",
    "meta",
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}\Z")


class Names:
    """`names.outbox` is the quoted, schema-qualified outbox table, and so on; `names("index")` qualifies anything else.

    Raises:
        ConfigurationError: schema or prefix is not a plain identifier of at most 41 characters.
    """

    outbox: str
    inbox: str
    attempts: str
    lanes: str
    deliveries: str
    checkpoints: str
    scheduled: str
    subscriptions: str
    limits: str
    permits: str
    workers: str
    worker_numbers: str
    stats: str
    command_keys: str
    commands: str
    audit: str
    meta: str

    def __init__(self, schema: str | None, prefix: str) -> None:
        for what, value in (("schema", schema), ("prefix", prefix)):
            if value and not (isinstance(value, str) and _IDENTIFIER.match(value)):
                raise ConfigurationError(
                    f"SQLStore {what}={value!r} is not a plain identifier: use letters, digits and underscores, 41 characters at most"
                )
        self.schema = schema
        self.prefix = prefix
        for table in TABLES:
            setattr(self, table, self(table))

    def __call__(self, name: str) -> str:
        """Return the qualified, quoted form of a name of ours."""
        plain = f'"{self.prefix}{name}"'
        return f'"{self.schema}".{plain}' if self.schema else plain

    def plain(self, name: str) -> str:
        """Return the quoted name without schema, as CREATE INDEX wants it."""
        return f'"{self.prefix}{name}"'
