"""What the pages and the JSON API have to show, as values: one method for each thing to look at. Only reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from sqlalchemy import Connection

from tidings.dashboard.charts import Charts, charts_of
from tidings.ids import event_key
from tidings.stores.sql.audit import Audit, Entry
from tidings.stores.sql.parked import Parked, ParkedQueries
from tidings.stores.sql.queries import Event, Queries, Reader, Subscription, Worker
from tidings.stores.sql.store import SQLStore
from tidings.stores.sql.views import LogRow, LogViews
from tidings.stores.sql.views_parked import ParkedViews
from tidings.stores.sql.views_stats import StatsViews, durations, quantile

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["Desk", "Overview", "ReaderState", "Step", "Story", "SubscriptionState", "Topic", "Topics", "WorkerState"]

P = ParamSpec("P")
R = TypeVar("R")

#: How many unread events a reader's backlog is counted up to.
BACKLOG = 10_000

#: The time of which rates and durations of subscriptions are given.
LATELY = timedelta(minutes=15)

_OUTCOMES = {0: "handled", 1: "expired", 2: "discarded", 3: "dead"}


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
    """A subscription with what it did within the last 15 minutes; durations in milliseconds, None where nothing was measured."""

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
    """All that one screen shows. `log_rows` is an estimate."""

    now: datetime
    replica: bool
    log_rows: int
    scheduled: int
    next_due: datetime | None
    readers: list[ReaderState]
    subscriptions: list[SubscriptionState]
    workers: list[WorkerState]


class Step(NamedTuple):
    """One thing that happened to an event, or has not yet."""

    at: datetime | None
    what: str
    who: str
    state: str
    detail: str = ""
    link: str = ""


class Story(NamedTuple):
    """An event with all that is known of it."""

    event: Event
    steps: list[Step]
    parked: list[Parked]
    conversation: list[tuple[LogRow, str | None]]
    correlation: str


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
        """Run a query on one autocommit connection."""
        return await self.store.call(function, *arguments, **keywords)

    async def open(self) -> None:
        """Find the tables, once.

        Raises:
            StoreError: there are none, or they cannot be used.
        """
        if not self._ready:
            async with self._opening:
                await self.store.call(_look, self.store)
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
    def queries(self) -> Queries:
        """What the command line asks, too."""
        return Queries(self.store.names, self.store.dialect, counted=BACKLOG)

    async def overview(self) -> Overview:
        """Return the state of everything."""
        return await self.ask(self._overview)

    def _overview(self, connection: Connection) -> Overview:
        queries = self.queries
        now, replica = queries.clock(connection)
        scheduled = queries.scheduled(connection)
        workers, readers, _ = self._workers(connection)
        return Overview(
            now, replica, self.log.size(connection), scheduled.events, scheduled.next_due, readers, self._subscriptions(connection), workers
        )

    def _workers(self, connection: Connection) -> tuple[list[WorkerState], list[ReaderState], list[Reader]]:
        queries = self.queries
        workers, readers = queries.workers(connection), queries.readers(connection)
        alive = {worker.id for worker in workers if worker.alive}
        states = [self._reader(connection, queries, item, alive) for item in readers if item.kind in ("log", "queue", "stream")]
        tasks = [item for item in readers if item.kind not in ("log", "queue", "stream")]
        return [_worker(worker, readers) for worker in workers], states, tasks

    def _reader(self, connection: Connection, queries: Queries, item: Reader, alive: set[str]) -> ReaderState:
        known = item.kind == "log" and item.state != "retired"
        backlog = queries.backlog(connection, item) if known else None
        return ReaderState(
            item.reader, item.service, item.group, item.kind, item.state, item.owner, item.host, item.pid, item.owner in alive, item.moved_at,
            item.restarts, None if backlog is None else backlog.events, None if backlog is None else backlog.oldest,
        )  # fmt: skip

    async def subscriptions(self) -> list[SubscriptionState]:
        """Return every subscription."""
        return await self.ask(self._subscriptions)

    def _subscriptions(self, connection: Connection) -> list[SubscriptionState]:
        queries = Queries(self.store.names, self.store.dialect)
        lately: dict[str, list[tuple[str, int]]] = {}
        for item in queries.activity(connection, LATELY):
            lately.setdefault(item.subject, []).append((item.measure, item.total))
        if self._concurrency is None:
            self._concurrency = {} if self.service is None else self.service.concurrency()
        own = None if self.service is None else self.service.name
        mine = self._concurrency
        return [
            _subscription(item, lately.get(item.label, []), mine.get(item.label) if item.service == own else None)
            for item in queries.subscriptions(connection)
        ]

    async def charts(self, span: timedelta, service: str | None = None, subject: str | None = None) -> Charts:
        """Return what is drawn, of this time up to now."""
        stats = StatsViews(self.store.names, self.store.dialect)

        def work(connection: Connection) -> Charts:
            now, _ = self.queries.clock(connection)
            since = (now - span).replace(second=0, microsecond=0)
            minutes, counts = stats.counts(connection, since, now, service, subject)
            return charts_of(minutes, counts, stats.histograms(connection, since, now, service, subject))

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
        headers = _headers(event.headers)
        correlation = headers.get("correlationid", event.id)
        steps = self._steps(connection, log, event, parked)
        return Story(event, steps, parked, log.conversation(connection, correlation, event.position), correlation), None

    def deliveries_of(self, connection: Connection, event_id: str) -> list[Parked]:
        """Return where an event is parked."""
        return ParkedQueries(self.store.names, self.store.dialect).by_event(connection, event_id)

    async def delivery(self, number: int) -> Parked | None:
        """Return a parked event in full."""
        found = await self.ask(ParkedQueries(self.store.names, self.store.dialect).by_number, number)
        return found[0] if found else None

    def _steps(self, connection: Connection, log: LogViews, event: Event, parked: list[Parked]) -> list[Step]:
        steps = [Step(event.time, "committed", event.source, "ok", f"position {event.position:,} of the log, topic {event.topic}")]
        handled = log.handled(connection, event_key(event.source, event.id))
        passed = {
            (service, group): (yes, moved, owner) for _, service, group, _, yes, moved, owner in log.passed(connection, event.position)
        }
        hosts = {worker.id: f"{worker.host}:{worker.pid}" for worker in self.queries.workers(connection)}
        held = {item.label: item for item in parked}
        for item in self.queries.subscriptions(connection):
            relay = item.name.startswith("relay:")
            if (relay and item.service != event.source) or (not relay and event.name not in item.events):
                continue
            yes, moved, owner = passed.get((item.service, item.group), (False, None, None))
            if (delivery := held.get(item.label)) is not None:
                steps += _attempts(delivery)
            elif item.id in handled:
                outcome, at = handled[item.id]
                word = _OUTCOMES.get(outcome, "handled")
                steps.append(Step(at, word, item.label, "bad" if word == "dead" else "ok"))
            elif (item.service, item.group) not in passed:
                continue
            elif relay:
                who = hosts.get(owner or "", "")
                steps.append(
                    Step(None, "relayed" if yes else "not relayed yet", item.label, "ok" if yes else "wait", _since(yes, moved, who))
                )
            elif item.state != "retired":
                steps.append(Step(None, "passed" if yes else "not read yet", item.label, "ok" if yes else "wait", _passed(yes)))
        known = [step for step in steps if step.at is not None]
        return sorted(known, key=lambda step: step.at or event.time or datetime.now(UTC)) + [step for step in steps if step.at is None]

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


def _headers(text: str) -> dict[str, str]:
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}


def _subscription(item: Subscription, lately: list[tuple[str, int]], concurrency: int | None) -> SubscriptionState:
    counts = dict(lately)
    took, lag = durations(lately, "took"), durations(lately, "lag")
    return SubscriptionState(
        item.id, item.label, item.service, item.group, item.name, item.events, item.ordered, item.state, item.breaker, item.breaker_since,
        item.breaker_reason, item.retrying, item.dead, item.waiting, item.blocked_since, counts.get("handled", 0), counts.get("failed", 0),
        counts.get("duplicates", 0), quantile(took, 0.5), quantile(took, 0.99), quantile(lag, 0.5), quantile(lag, 0.99), concurrency,
    )  # fmt: skip


def _worker(worker: Worker, readers: list[Reader]) -> WorkerState:
    return WorkerState(*worker, holds=tuple(item.reader for item in readers if item.owner == worker.id))


def _attempts(delivery: Parked) -> list[Step]:
    link = f"/deliveries/{delivery.number}"
    steps = []
    for attempt in delivery.history:
        if isinstance(attempt, dict):
            what = f"attempt {attempt.get('attempt', '?')} failed"
            steps.append(Step(_parsed(attempt.get("at")), what, delivery.label, "bad", str(attempt.get("error", "")), link))
    if not steps:
        steps.append(Step(delivery.parked_at, "parked", delivery.label, "wait", delivery.reason, link))
    if delivery.state == "retrying":
        steps.append(Step(delivery.due_at, "is tried again", delivery.label, "wait", "", link))
    elif delivery.state == "waiting":
        steps.append(Step(None, "waits behind another", delivery.label, "wait", f"delivery {delivery.head}", link))
    else:
        # Attempts are timed by the worker's clock, the rest by the database's: what is the last must not come before them.
        at = max((time for time in (steps[-1].at, delivery.failed_at) if time is not None), default=None)
        steps.append(Step(at, delivery.state, delivery.label, "bad", delivery.reason, link))
    return steps


def _parsed(at: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(at) if isinstance(at, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)


def _since(yes: bool, moved: datetime | None, who: str) -> str:
    if not yes or moved is None:
        return ""
    return f"at the latest at {moved:%Y-%m-%d %H:%M:%S} UTC" + (f" by {who}" if who else "")


def _passed(yes: bool) -> str:
    return "its reader has it behind it; the inbox does not remember it any more, or never wanted it" if yes else ""
