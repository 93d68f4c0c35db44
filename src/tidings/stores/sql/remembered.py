"""What the inbox remembers of an event: for whom it is over, how it ended, when, and which worker handled it. Read only, bounded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tidings.ids import event_key, event_key_bounds
from tidings.stores.sql.dialect import Dialect, as_datetime
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import SHARED, label_of, title_of
from tidings.stores.sql.statement import Command, Sql

__all__ = ["OUTCOMES", "Ended", "Found", "Remembered"]

#: What `consume.outcome` is called.
OUTCOMES = {0: "handled", 1: "expired", 2: "discarded", 3: "dead"}

#: Most rows of one answer; most bytes of an id that is looked for.
_MOST = 500
_LONGEST = 1024


class Ended(NamedTuple):
    """How an event ended for a subscription.

    Attributes:
        outcome: as in the inbox (`consume.outcome`); `word` says it.
        worker: the process that handled it, as `host:pid`; None when an operator ended it, or the process was forgotten.
        attempts: those that failed before, the last ten, as a delivery remembers them.
    """

    subscription_id: int
    subscription: str
    service: str
    outcome: int
    at: datetime | None
    worker: str | None
    attempts: tuple[dict[str, Any], ...] = ()

    @property
    def word(self) -> str:
        """What the outcome is called."""
        return OUTCOMES.get(self.outcome, "handled")

    @property
    def title(self) -> str:
        """What the subscription is called among those of several services."""
        return title_of(self.service, self.subscription)


class Found(NamedTuple):
    """What the inbox remembers of an id.

    Attributes:
        source: the producer with which the id was found; None when it was not, and `ended` has what else was made in the id's millisecond.
    """

    source: str | None
    ended: list[Ended]


class Remembered:
    """The queries on one set of tables. Each method is a function of a synchronous connection, for `store.call`."""

    def __init__(self, names: Names, dialect: Dialect) -> None:
        kind = "uuid" if dialect.name == "postgresql" else "text"
        history = f"a.history{'::text' if dialect.name == 'postgresql' else ''}"
        columns = f"i.event_key, s.id, s.group_name, s.name, s.service, i.outcome, i.handled_at, w.host, w.pid, {history}"
        # A number is given to another one after it has gone round: whose it was is said by the time, too.
        tables = f"""
            {names.inbox} i
            join {names.subscriptions} s on s.id = i.subscription_id and s.group_name not like '%{SHARED}'
            left join {names.worker_numbers} w on w.number = i.worker and w.started_at <= i.handled_at
            left join {names.attempts} a on a.event_key = i.event_key and a.subscription_id = i.subscription_id
        """
        self.of_key_ = Sql(f"""
            select {columns} from {tables} where i.event_key = {dialect.cast("$1", kind)} order by i.handled_at, s.id limit {_MOST}
        """)
        low, high = dialect.cast("$1", kind), dialect.cast("$2", kind)
        self.between_ = Sql(f"""
            select {columns} from {tables} where i.event_key between {low} and {high} order by i.event_key, i.handled_at, s.id limit {_MOST}
        """)
        self.services_ = Sql(f"select distinct service from {names.subscriptions} order by 1 limit {_MOST}")
        self.sources_ = Sql(f"""
            select distinct source from {names.deliveries}
            where event_key between {low} and {high} and event_id = {dialect.cast("$3", "text")} limit {_MOST}
        """)

    def of(self, connection: Connection, source: str, event_id: str) -> list[Ended]:
        """Return how an event ended for each subscription that is done with it."""
        return [_ended(row) for row in run(connection, Command(self.of_key_, (event_key(source, event_id),)))]

    def search(self, connection: Connection, event_id: str, source: str | None = None, sources: Iterable[str] = ()) -> Found:
        """Look for an event of which only the id is known: the inbox keeps a hash of producer and id, and neither of them.

        Args:
            source: the producer. Without it, every service of these tables is tried, whoever has something parked under this id, and `sources`.
                When it is none of them, there remains what a version 7 id says of its time.
        """
        if len(event_id) > _LONGEST or (source is not None and len(source) > _LONGEST):
            return Found(None, [])
        bounds = event_key_bounds(event_id)
        # Between services of ours, the attribute is the name behind a slash.
        known = (
            [source, source.removeprefix("/")] if source is not None else [row[0] for row in run(connection, Command(self.services_, ()))]
        )
        if source is None:
            known += [row[0] for row in run(connection, Command(self.sources_, (*bounds, event_id)))] if "\0" not in event_id else []
            known += sources
        for each in dict.fromkeys(known):
            if ended := self.of(connection, each, event_id):
                return Found(each, ended)
        if source is not None or bounds[0] == "0" * 32:
            return Found(None, [])
        return Found(None, [_ended(row) for row in run(connection, Command(self.between_, bounds))])


def _ended(row: Any) -> Ended:
    _, number, group, name, service, outcome, at, host, pid, history = row
    attempts = tuple(each for each in json.loads(history or "[]") if isinstance(each, dict))
    return Ended(
        number, label_of(group, name), service, int(outcome), as_datetime(at), None if host is None else f"{host}:{pid}", attempts
    )  # fmt: skip
