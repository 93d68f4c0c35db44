"""The services that share the tables: which there are, whether they run, how long they want things kept; and forgetting one that is gone for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
from sqlalchemy import Connection

from tidings.errors import StillRunning
from tidings.stores.base import Retention
from tidings.stores.sql.dialect import Dialect
from tidings.stores.sql.driver import run
from tidings.stores.sql.names import Names
from tidings.stores.sql.queries import ALIVE, Queries, Reader, Subscription, Worker
from tidings.stores.sql.registry import Registry
from tidings.stores.sql.retire import Retire
from tidings.stores.sql.statement import Command, Sql
from tidings.stores.sql.upkeep import ALERTS, PURGER, Upkeep

__all__ = ["Forgotten", "ServiceState", "Services", "services_of"]


class ServiceState(NamedTuple):
    """A service on these tables.

    Attributes:
        state: `running` when a worker of it is alive, `stopped`, or `forgotten`.
        workers: how many are alive.
        groups, subscriptions: those that are not retired.
        parked: events that are parked for it, retired subscriptions included.
        moved_at: when one of its readers last moved.
        outbox, inbox, dead, audit: for how many seconds it wants what kept; None is for ever. See `Service`.
        holds_log: whether the log is kept for it, be it for that time or until its groups have read it.
    """

    name: str
    state: Literal["running", "stopped", "forgotten"]
    workers: int
    groups: tuple[str, ...]
    subscriptions: int
    parked: int
    moved_at: datetime | None
    outbox: float | None
    inbox: float | None
    dead: float | None
    audit: float | None
    holds_log: bool


class Forgotten(NamedTuple):
    """What was retired of a service that was forgotten, and how many events stay parked for it."""

    groups: tuple[str, ...]
    subscriptions: tuple[str, ...]
    parked: int


def services_of(
    readers: Iterable[Reader], subscriptions: Iterable[Subscription], workers: Iterable[Worker], words: Mapping[str, Retention]
) -> list[ServiceState]:
    """Put together what is known of every service. Pure."""
    reading = [item for item in readers if item.kind in ("log", "queue", "stream")]
    subscribed, alive = list(subscriptions), [item for item in workers if item.alive]
    names = {item.service for item in reading} | {item.service for item in subscribed} | {item.service for item in alive} | set(words)
    return [_state(name, reading, subscribed, alive, words.get(name)) for name in sorted(names - {""})]


def _state(
    name: str, reading: Iterable[Reader], subscribed: Iterable[Subscription], alive: Iterable[Worker], word: Retention | None
) -> ServiceState:
    mine = [item for item in reading if item.service == name]
    own = [item for item in subscribed if item.service == name]
    workers = sum(item.service == name for item in alive)
    active = [item for item in mine if item.state != "retired"]
    groups = tuple(sorted({item.group for item in active} | {item.group for item in own if item.state != "retired"}))
    wanted = word is not None and word.outbox > 0
    return ServiceState(
        name, "running" if workers else "stopped" if groups or wanted else "forgotten", workers, groups,
        sum(item.state != "retired" for item in own), sum(item.parked for item in own),
        max((item.moved_at for item in mine if item.moved_at is not None), default=None),
        None if word is None else word.outbox, None if word is None else word.inbox, None if word is None else word.dead,
        None if word is None else word.audit,
        wanted or any(item.kind == "log" for item in active),
    )  # fmt: skip


class Services:
    """Each method is a function of a synchronous connection."""

    def __init__(self, names: Names, dialect: Dialect, registry: Registry, upkeep: Upkeep) -> None:
        service = f"service = {dialect.cast('$1', 'text')}"
        self._queries = Queries(names, dialect)
        self._registry = registry
        self._upkeep = upkeep
        self._retire = Retire(names, dialect)
        self.alive = Sql(f"select host, pid from {names.workers} where {service} and seen_at > {dialect.after(f'-{ALIVE:g}')} limit 3")
        self.leave = Sql(f"delete from {names.workers} where {service}")
        # What was told of its backlogs and breakers, and replays that stopped in the middle: nobody goes on with them.
        self.tasks = Sql(f"""
            delete from {names.checkpoints} where reader = {dialect.cast("$2", "text")} or ({service} and kind = 'replay')
        """)

    def list(self, connection: Connection) -> list[ServiceState]:
        """Return every service that has left a trace."""
        queries = self._queries
        return services_of(
            queries.readers(connection), queries.subscriptions(connection), queries.workers(connection),
            self._upkeep.retentions(connection, PURGER),
        )  # fmt: skip

    def forget(self, connection: Connection, service: str) -> Forgotten | None:
        """Retire all that a service has, and take back its word on how long the log is kept; None when there is nothing of it. Needs a transaction.

        The rest of its word stays: what it has handled is remembered for as long as it wanted, in case it comes back.

        Raises:
            StillRunning: a worker of it is alive.
        """
        # Who starts registers under this lock, and is alive from then on: he comes before, and is seen, or after, and is active again.
        self._registry.lock(connection)
        if alive := run(connection, Command(self.alive, (service,))):
            who = ", ".join(f"{host}:{pid}" for host, pid in alive)
            raise StillRunning(
                f"workers of service {service!r} are alive ({who}): stop them first; one that was killed counts for {ALIVE:g} s"
            )
        found = next((item for item in self.list(connection) if item.name == service), None)
        if found is None or found.state == "forgotten":
            return None
        labels = tuple(
            item.label for item in self._queries.subscriptions(connection) if item.service == service and item.state != "retired"
        )
        self._retire.service(connection, service)
        word = self._upkeep.retentions(connection, PURGER).get(service)
        if word is not None:
            self._upkeep.retain(connection, PURGER, service, msgspec.structs.replace(word, outbox=0.0))
        run(connection, Command(self.leave, (service,)))
        run(connection, Command(self.tasks, (service, ALERTS + service)))
        return Forgotten(found.groups, labels, found.parked)
