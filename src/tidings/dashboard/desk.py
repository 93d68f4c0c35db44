"""What the pages and the JSON API have to show, as values: one method for each thing to look at. Only reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Connection

from tidings.dashboard.charts import Charts, charts_of
from tidings.dashboard.outage import reaching
from tidings.dashboard.story import Story, correlation_of, steps_of
from tidings.observability.status import Status, is_inbound, is_relay, is_unread, problems_of
from tidings.stores.sql.audit import Audit, Entry
from tidings.stores.sql.brokers import Broker, Brokers, brokers_of
from tidings.stores.sql.migrate import current_version
from tidings.stores.sql.parked import Parked, ParkedQueries
from tidings.stores.sql.queries import Activity, Backlog, Queries, Reader, Subscription, Worker
from tidings.stores.sql.remembered import Found, Remembered
from tidings.stores.sql.services import Services, ServiceState
from tidings.stores.sql.store import SQLStore
from tidings.stores.sql.views import LogViews
from tidings.stores.sql.views_keys import KeyViews
from tidings.stores.sql.views_parked import ParkedViews
from tidings.stores.sql.views_stats import StatsViews, durations, quantile

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["Desk", "Overview", "ReaderState", "SubscriptionState", "Topic", "Topics", "WorkerState"]

P = ParamSpec("P")
R = TypeVar("R")

#: How many unread events a reader's backlog is counted up to.
BACKLOG = 10_000

#: The time of which rates and durations of subscriptions are given.
LATELY = timedelta(minutes=15)

#: Readers of these kinds read the log, or a broker; the others are leased tasks.
_SOURCES = ("log", "queue", "stream")


class ReaderState(NamedTuple):
    """A reader of the log or of a broker; `backlog` is counted up to 10,001, and None of what is not read from the log."""

    reader: str
    service: str
    group: str
    kind: str
    state: str
    owner: str | None
    host: str | None
    pid: int | None
    alive: bool
    moved_at: datetime | None
    restarts: int
    backlog: int | None
    oldest: datetime | None


class SubscriptionState(NamedTuple):
    """A subscription with what it did within the last 15 minutes; durations in milliseconds, None where nothing was measured; 60,000 is that or more.

    What a relay has `handled` is what a broker has confirmed.
    """

    id: int
    label: str
    service: str
    group: str
    name: str
    events: tuple[str, ...]
    ordered: bool
    state: str
    breaker: str | None
    breaker_since: datetime | None
    breaker_reason: str | None
    retrying: int
    dead: int
    waiting: int
    blocked_since: datetime | None
    handled: int
    failed: int
    duplicates: int
    took_p50: float | None
    took_p99: float | None
    lag_p50: float | None
    lag_p99: float | None
    concurrency: int | None


class WorkerState(NamedTuple):
    """A process that runs a service, and the readers that it acts for."""

    id: str
    service: str
    environment: str | None
    roles: str
    host: str
    pid: int
    version: str
    started_at: datetime | None
    seen_at: datetime | None
    alive: bool
    holds: tuple[str, ...]


class Overview(NamedTuple):
    """All that one screen shows. `well` says whether nothing has to be done, `problems` what; `log_rows` is an estimate."""

    well: bool
    problems: list[str]
    now: datetime
    replica: bool
    log_rows: int
    scheduled: int
    next_due: datetime | None
    readers: list[ReaderState]
    subscriptions: list[SubscriptionState]
    workers: list[WorkerState]
    brokers: list[Broker]


class Topic(NamedTuple):
    """A type of event: who has published it lately, and who subscribes to it. `count` is of the newest 10,000 events."""

    name: str
    versions: tuple[int | None, ...]
    topics: tuple[str, ...]
    publishers: tuple[str, ...]
    subscribers: tuple[str, ...]
    contract: str | None
    about: str
    lately: int
    last: datetime | None


class Topics(NamedTuple):
    """The types of events, and who has to do with them."""

    types: list[Topic]


class Desk:
    """Asks the store.

    Args:
        store: the tables.
        service: the service that the dashboard is part of, if it is; then its contracts are known, and how many handlers run at once.
    """

    def __init__(self, store: SQLStore, service: Service | None = None) -> None:
        self.store = store
        self.service = service
        self._concurrency: dict[str, int] | None = None
        #: Set when the server stops: streams end.
        self.closing = asyncio.Event()
        self._ready = False
        self._opening = asyncio.Lock()

    async def ask(self, function: Callable[Concatenate[Connection, P], R], *arguments: P.args, **keywords: P.kwargs) -> R:
        """Run a query on one autocommit connection.

        Raises:
            DatabaseDown: there is none to be had.
        """
        with reaching(self.store):
            return await self.store.call(function, *arguments, **keywords)

    async def open(self) -> None:
        """Find the tables, once.

        Raises:
            StoreError: there are none, or they cannot be used.
            DatabaseDown: it cannot be known.
        """
        if not self._ready:
            async with self._opening:
                await self.ask(_look, self.store)
                self._ready = True

    @property
    def log(self) -> LogViews:
        """Queries on the log."""
        return LogViews(self.store.names, self.store.dialect)

    @property
    def parked(self) -> ParkedViews:
        """Queries on what failed or waits."""
        return ParkedViews(self.store.names, self.store.dialect)

    @property
    def keys(self) -> KeyViews:
        """Queries on keys that something is parked of."""
        return KeyViews(self.store.names, self.store.dialect)

    @property
    def queries(self) -> Queries:
        """What the command line asks, too."""
        return Queries(self.store.names, self.store.dialect, counted=BACKLOG)

    async def overview(self, *, quoting: bool = True) -> Overview:
        """Return the state of everything; without `quoting` nothing that an error of a handler says."""
        return await self.ask(self._overview, quoting)

    def _overview(self, connection: Connection, quoting: bool) -> Overview:
        queries = self.queries
        now, replica = queries.clock(connection)
        scheduled = queries.scheduled(connection)
        workers, readers = queries.workers(connection), queries.readers(connection)
        backlogs = self._backlogs(connection, readers)
        subscriptions, activity = self._active(connection, quoting)
        brokers = brokers_of(
            Brokers(self.store.names, self.store.dialect).reported(connection), subscriptions, readers, backlogs, activity, now
        )
        status = Status(
            now,
            replica,
            current_version(connection, self.store.names),
            readers,
            backlogs,
            subscriptions,
            activity,
            scheduled,
            workers,
            brokers,
        )
        problems = problems_of(status)
        return Overview(
            not problems, problems, now, replica, self.log.size(connection), scheduled.events, scheduled.next_due, _readers(readers, backlogs, now),
            self._states(subscriptions, activity), [_worker(worker, readers, now) for worker in workers], brokers,
        )  # fmt: skip

    def _workers(self, connection: Connection) -> tuple[list[WorkerState], list[ReaderState], list[Reader]]:
        now, _ = self.queries.clock(connection)
        workers, readers = self.queries.workers(connection), self.queries.readers(connection)
        states = _readers(readers, self._backlogs(connection, readers), now)
        return [_worker(worker, readers, now) for worker in workers], states, [item for item in readers if item.kind not in _SOURCES]

    def _backlogs(self, connection: Connection, readers: list[Reader]) -> dict[str, Backlog]:
        queries = self.queries
        return {item.reader: queries.backlog(connection, item) for item in readers if item.kind == "log" and item.state != "retired"}

    async def services(self) -> list[ServiceState]:
        """Return every service that has left a trace."""
        store = self.store
        return await self.ask(Services(store.names, store.dialect, store.registry, store.upkeep).list)

    async def subscriptions(self, *, quoting: bool = True) -> list[SubscriptionState]:
        """Return every subscription; without `quoting` nothing that an error of a handler says."""
        return await self.ask(self._subscriptions, quoting)

    def _subscriptions(self, connection: Connection, quoting: bool) -> list[SubscriptionState]:
        return self._states(*self._active(connection, quoting))

    def _active(self, connection: Connection, quoting: bool) -> tuple[list[Subscription], list[Activity]]:
        queries = Queries(self.store.names, self.store.dialect)
        found = queries.subscriptions(connection)
        return found if quoting else [_unquoted(item) for item in found], queries.activity(connection, LATELY)

    def _states(self, subscriptions: list[Subscription], activity: list[Activity]) -> list[SubscriptionState]:
        lately: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for item in activity:
            lately.setdefault((item.service, item.subject), []).append((item.measure, item.total))
        if self._concurrency is None:
            self._concurrency = {} if self.service is None else self.service.concurrency()
        own = None if self.service is None else self.service.name
        mine = self._concurrency
        return [
            _subscription(item, lately.get((item.service, item.label), []), mine.get(item.label) if item.service == own else None)
            for item in subscriptions
        ]

    async def charts(self, span: timedelta, service: str | None = None, subject: str | None = None) -> Charts:
        """Return what is drawn, of this time up to now."""
        stats = StatsViews(self.store.names, self.store.dialect)

        def work(connection: Connection) -> Charts:
            now, _ = self.queries.clock(connection)
            since = (now - span).replace(second=0, microsecond=0)
            minutes, counts = stats.counts(connection, since, now, service, subject)
            return charts_of(minutes, counts, *stats.histograms(connection, since, now, service, subject))

        return await self.ask(work)

    async def story(self, event_id: str, at: int | None, after: int | None) -> tuple[Story | None, int | None]:
        """Return an event of the log, and where to search further if it was not found.

        Args:
            at: its position, if that is known.
            after: the position at which to search on.
        """
        return await self.ask(self._story, event_id, at, after)

    def _story(self, connection: Connection, event_id: str, at: int | None, after: int | None) -> tuple[Story | None, int | None]:
        log = self.log
        event = None if at is None else log.at(connection, at)
        further = None
        if event is None or event.id != event_id:
            event, further = log.by_id(connection, event_id, after)
        if event is None:
            return None, further
        parked = self.deliveries_of(connection, event_id)
        correlation = correlation_of(event)
        remembered = Remembered(self.store.names, self.store.dialect).of(connection, event.source, event.id)
        steps = steps_of(
            event, parked, remembered, log.passed(connection, event.position), self.queries.subscriptions(connection), self.queries.workers(connection)
        )  # fmt: skip
        return Story(event, steps, parked, log.conversation(connection, correlation, event.position), correlation), None

    def deliveries_of(self, connection: Connection, event_id: str) -> list[Parked]:
        """Return where an event is parked."""
        return ParkedQueries(self.store.names, self.store.dialect).by_event(connection, event_id)

    async def remembered(self, event_id: str, source: str | None) -> Found:
        """Return what the inbox remembers of an event that is not in the log."""
        contracts = () if self.service is None else self.service.contracts
        known = [name for contract in contracts for name in (contract.source, contract.name) if name is not None]
        return await self.ask(Remembered(self.store.names, self.store.dialect).search, event_id, source, known)

    async def delivery(self, number: int) -> Parked | None:
        """Return a parked event in full."""
        found = await self.ask(ParkedQueries(self.store.names, self.store.dialect).by_number, number)
        return found[0] if found else None

    async def topics(self) -> Topics:
        """Return the types of events."""

        def work(connection: Connection) -> tuple[list[Any], list[Subscription]]:
            return self.log.kinds(connection), self.queries.subscriptions(connection)

        kinds, subscriptions = await self.ask(work)
        from tidings.dashboard.topics import topics_of

        return Topics(topics_of(kinds, subscriptions, self.service))

    async def workers(self) -> tuple[list[WorkerState], list[ReaderState], list[Reader]]:
        """Return the processes, the readers, and the leased tasks."""
        return await self.ask(self._workers)

    async def audit(self, limit: int, before: int | None) -> list[Entry]:
        """Return what operators have done, newest first."""
        return await self.ask(Audit(self.store.names, self.store.dialect).list, limit, before)

    async def entry(self, number: int) -> Entry | None:
        """Return one action."""
        return await self.ask(Audit(self.store.names, self.store.dialect).one, number)


def _look(connection: Connection, store: SQLStore) -> None:
    from tidings.stores.sql.migrate import require_usable

    store.resolve(connection)
    require_usable(connection, store.names)


def _subscription(item: Subscription, lately: list[tuple[str, int]], concurrency: int | None) -> SubscriptionState:
    counts = dict(lately)
    took, lag = durations(lately, "took"), durations(lately, "lag")
    return SubscriptionState(
        item.id, item.label, item.service, item.group, item.name, item.events, item.ordered, item.state, item.breaker, item.breaker_since,
        item.breaker_reason, item.retrying, item.dead, item.waiting, item.blocked_since,
        counts.get("relayed" if is_relay(item) else "handled", 0), counts.get("failed", 0),
        counts.get("duplicates", 0), quantile(took, 0.5), quantile(took, 0.99), quantile(lag, 0.5), quantile(lag, 0.99), concurrency,
    )  # fmt: skip


def _unquoted(item: Subscription) -> Subscription:
    """Return a subscription without the error that its breaker opened for, which follows how often handlers failed. What brokers say stays."""
    if item.breaker_reason is None or is_relay(item) or is_inbound(item):
        return item
    return item._replace(breaker_reason=item.breaker_reason.partition(": ")[0])


def _worker(worker: Worker, readers: list[Reader], now: datetime) -> WorkerState:
    return WorkerState(*worker, holds=tuple(item.reader for item in readers if item.owner == worker.id and not is_unread(item, now)))


def _readers(readers: list[Reader], backlogs: dict[str, Backlog], now: datetime) -> list[ReaderState]:
    return [
        ReaderState(
            item.reader, item.service, item.group, item.kind, item.state, item.owner, item.host, item.pid, not is_unread(item, now), item.moved_at,
            item.restarts, *((None, None) if (backlog := backlogs.get(item.reader)) is None else backlog),
        )
        for item in readers
        if item.kind in _SOURCES
    ]  # fmt: skip
