"""What is left at the end of a run, as plain values: read once, checked by `ledger` without a database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection

from chaos.journal import entries
from tidings.ids import event_key

__all__ = ["Effect", "Facts", "Logged", "Mail", "Published", "Reader", "Transaction", "read_database", "read_transactions"]


class Published(NamedTuple):
    """An event that a transaction has committed, by the publisher's own table."""

    number: int
    name: str
    account: str
    sequence: int | None


class Logged(NamedTuple):
    """A row of the outbox."""

    position: int
    event_key: str
    name: str
    number: int
    account: str
    by: str | None
    causation: str | None
    id: str


class Effect(NamedTuple):
    """What a handler left in its transaction; `step` tells the order of the commits of one account."""

    subscription: str
    number: int
    by: str | None
    account: str
    step: int
    worker: str


class Mail(NamedTuple):
    """A call of the plain handler that went well."""

    number: int
    account: str
    worker: str


class Reader(NamedTuple):
    """A checkpoint: whether everything in the log is behind it, and how often its lease was taken.

    Attributes:
        place: of one that reads a broker by position.
    """

    group: str
    name: str
    drained: bool
    token: int
    place: str | None


@dataclass(slots=True)
class Transaction:
    """A publisher's transaction as the publisher saw it; `end` stays `lost` if it was killed before it could tell."""

    kept: list[int]
    dropped: list[int]
    end: str = "lost"


@dataclass(slots=True)
class Facts:
    """Everything that the ledger looks at."""

    published: list[Published] = field(default_factory=list)
    log: list[Logged] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    inbox: dict[str, dict[str, int]] = field(default_factory=dict)
    lanes: list[str] = field(default_factory=list)
    deliveries: list[str] = field(default_factory=list)
    scheduled: int = 0
    readers: list[Reader] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)


def read_transactions(directory: Path) -> list[Transaction]:
    """Return what the publishers wrote down."""
    found: dict[int, Transaction] = {}
    for entry in entries(directory / "transactions.jsonl"):
        if entry["does"] == "begins":
            kept = [number for numbers, savepoint in entry["parts"] if savepoint != "rolled back" for number in numbers]
            dropped = [number for numbers, savepoint in entry["parts"] if savepoint == "rolled back" for number in numbers]
            found[entry["tx"]] = Transaction(kept, dropped)
        else:
            found[entry["tx"]].end = entry["does"]
    return list(found.values())


def read_database(connection: Connection, directory: Path) -> Facts:
    """Read everything; nobody may be at work."""
    postgresql = connection.dialect.name == "postgresql"
    facts = Facts(transactions=read_transactions(directory))
    facts.published = [Published(*row) for row in connection.execute(sa.text("select number, name, account, sequence from published"))]
    for row in connection.execute(sa.text("select position, id, source, name, headers, data from tidings_outbox order by position")):
        headers, data = _json(row.headers), _json(row.data)
        facts.log.append(
            Logged(
                row.position, event_key(row.source, str(row.id)), row.name, data["number"], data["account"], data.get("by"),
                headers.get("causationid"), str(row.id),
            )
        )  # fmt: skip
    sql = 'select subscription, number, "by", account, step, worker from effects order by id'
    facts.effects = [Effect(*row) for row in connection.execute(sa.text(sql))]
    names = dict(connection.execute(sa.text("select id, name from tidings_subscriptions")).tuples().all())
    facts.inbox = {name: {} for name in names.values()}
    for key, subscription, outcome in connection.execute(sa.text("select event_key, subscription_id, outcome from tidings_inbox")):
        facts.inbox[names[subscription]][str(key).replace("-", "")] = outcome
    lanes = "select subscription_id, key, state, depth, attempts, due_at, lease_until, owner, lane from tidings_lanes order by key"
    for lane in connection.execute(sa.text(lanes)):
        facts.lanes.append(f"{names[lane.subscription_id]}: {lane._mapping}")
    deliveries = (
        "select subscription_id, number, lane, key, event_id, reason, attempts, error_message from tidings_deliveries order by number"
    )
    for delivery in connection.execute(sa.text(deliveries)):
        facts.deliveries.append(f"{names[delivery.subscription_id]}: {delivery._mapping}")
    facts.scheduled = connection.scalar(sa.text("select count(*) from tidings_scheduled")) or 0
    unread = (
        "exists (select 1 from tidings_outbox o where not pg_visible_in_snapshot(o.tx, c.previous))"
        if postgresql
        else "exists (select 1 from tidings_outbox o where o.position > c.position)"
    )
    readers = f"""
        select c.group_name, c.reader, c.kind <> 'log' or not {unread} as drained, c.lease_token, c.place from tidings_checkpoints c
        where c.kind in ('log', 'stream')
    """
    facts.readers = [Reader(*row) for row in connection.execute(sa.text(readers))]
    facts.mails = [Mail(entry["number"], entry["account"], entry["worker"]) for entry in entries(directory / "mails.jsonl")]
    return facts


def _json(value: Any) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
    return parsed
