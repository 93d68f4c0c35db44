"""`Service`: one application's contracts, store and subscriptions, put together. A composition root, not a place for logic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from uuid import UUID

from tidings import __version__
from tidings.checks import (
    check_callback,
    check_collections,
    check_context,
    check_retention,
    check_roles,
    check_settings,
    check_start,
    check_subscriptions,
)
from tidings.clock import check_aware
from tidings.consume.breaker import Breaker
from tidings.consume.counters import Counters
from tidings.consume.environments import EnvironmentRouting, group_of, routing_of
from tidings.consume.execution import Execution
from tidings.consume.filters import Filters, HandlerFilter
from tidings.consume.gate import Gatekeeper
from tidings.consume.limits import Limit
from tidings.consume.providers import Providers
from tidings.consume.replay import Interval, Progress, Replay, subscription_to_replay
from tidings.consume.retry import Retry
from tidings.consume.routing import MAX_HOPS, Compiled, compile_subscription, event_types
from tidings.consume.subscriptions import NAMES, Subscription, Subscriptions, is_name
from tidings.consume.tuning import Tuning
from tidings.context.keys import ContextKey
from tidings.contracts import Contract, EventType
from tidings.domain.behaviours import DEFAULT
from tidings.domain.commands import Behaviour, Commands
from tidings.domain.dispatch import Domain, Factory
from tidings.domain.unit_of_work import UnitOfWork
from tidings.errors import ConfigurationError, ContractError
from tidings.ids import uuid7
from tidings.observability.alerts import BacklogAlert, BreakerAlert, Watch
from tidings.observability.measures import Sampler
from tidings.operations import Operations
from tidings.publish.buffer import Cancellation
from tidings.publish.filters import PublishFilter, check_filters
from tidings.publish.publish import UNSET
from tidings.publish.publisher import Publisher
from tidings.publish.publishing import Publishing
from tidings.publish.session import AnySession, cancel, publish, synchronous
from tidings.publish.session_buffer import listen_to_sessions
from tidings.relay.routing import Destination, Routes, Routing
from tidings.runtime import ROLES, Dead, Role, Runtime
from tidings.stores.sql.commands import AuditRow
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Provision
from tidings.transports.local import Local

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from tidings.dashboard import Auth, Dashboard, Redact
    from tidings.log import LoggedEvent
    from tidings.observability.asgi import App
    from tidings.observability.health import Health
    from tidings.observability.prometheus import Collector

__all__ = ["Dead", "Service"]

T = TypeVar("T")
OnDead = TypeVar("OnDead", bound=Callable[[Dead], Awaitable[None] | None])
OnBacklog = TypeVar("OnBacklog", bound=Callable[[BacklogAlert], Awaitable[None] | None])
OnBreaker = TypeVar("OnBreaker", bound=Callable[[BreakerAlert], Awaitable[None] | None])


class Service:
    """Publishes integration events in the user's transactions, and runs the handlers of its subscriptions.

    Making a service connects to nothing and starts nothing; `async with service`, `service.lifespan` or `tidings run` does.

    Args:
        name: the service's name, and of its default group; also the `source` of what it publishes. Do not change it once it is in use.
        contracts: every contract whose events it publishes or handles.
        subscriptions: the handlers, module by module.
        store: the tables in the service's database.
        transport: how events leave the service, and come to it: `RabbitMQ(url)`, `Kafka(url)`, `NATS(url)` or `Redis(url)`, or several, of which
            subscribers read the first. `Local()`, which is the default, keeps them in the log of the store, where subscribers read them; beside
            a broker, `[RabbitMQ(url), Local()]`, it lets this service's subscribers read the log while others get the events from the broker.
        routes: other transports for some contracts, or topics: `{orders: Kafka(url), "audit.entries": Local()}`.
        provision: make what is missing at the brokers (`create`), or refuse to start without it (`verify`), or leave it all (`off`).
        retry: the default policy for failed events.
        breaker: the default of when a subscription stops taking events because what its handlers need is down; `Breaker.off()` for never.
        limit: how many handlers of all subscriptions together run at once, and how many events they handle in a time, in all processes.
        subscription_limit: the same for each subscription that does not say otherwise.
        environment: `dev`, `test`, `prod` … for topic namers that use it; with `route_by_environment` one of several that run beside each other.
        route_by_environment: let this environment, e.g. `canary`, handle the events that belong to it, in a group of its own on the same log; see
            `docs/context.md`. True, or `EnvironmentRouting(default="main")`; in all environments alike.
        context: what handlers hand on of the events that they handle besides tenant, environment, trace and baggage, e.g. `[REGION]`.
        publish_filters: functions that see each event at the call that publishes it, `filter(publication)`; they may change its headers or
            refuse it by raising `Vetoed`. The first one is called first.
        handler_filters: functions around each call of a handler, `async def filter(call, next)`. The first one is outermost.
        max_hops: how many handlers may lead to an event one by one; what is beyond is dead at once: a circle of handlers ends.
        start: where a group starts that the store does not know yet: `earliest` (everything the log still has) or `now`; or by group. A relay
            starts with the earliest, unless its group says otherwise: `{"relay:rabbitmq": "now"}`. A name that no group or relay has is refused.
        outbox_retention: how long published events are kept; of services that share tables, the longest counts.
        inbox_retention: how long handled events are remembered; longer than anything that can bring an event again.
        dead_retention: how long dead events are kept that nothing waits behind; then they are discarded, with a warning in the log. None is until
            somebody decides.
        audit_retention: how long is kept what `Audit()` has written down about this service's commands; None for ever.
        operations_retention: how long is kept what operators have done; of services that share tables, the longest counts. None for ever.
        max_message_bytes: the most bytes of one event, data and headers; also of one that a broker brings.
        grace: seconds that stopping waits for handlers under way.
        roles: what this process does when it runs: `relay`, `consume`, `schedule`; an empty collection publishes only.
        same_database: further engines that lead to the store's database under another address, e.g. past a proxy.
        behaviours: the steps that each command goes through, from the outside inward; see `tidings.domain`. By default `Logging()`,
            `Transactional()`, `Idempotency()`, `Validation()`.

    Raises:
        ConfigurationError: the parts do not fit together; the message says how to mend it.
        ContractError: a contract is inconsistent.
    """

    def __init__(
        self,
        name: str,
        *,
        contracts: Sequence[Contract] = (),
        subscriptions: Sequence[Subscriptions] = (),
        store: SQLStore,
        transport: Destination | None = None,
        routes: Routes | None = None,
        provision: Provision = "create",
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        limit: Limit | None = None,
        subscription_limit: Limit | None = None,
        environment: str | None = None,
        route_by_environment: bool | EnvironmentRouting = False,
        context: Sequence[ContextKey[Any]] = (),
        publish_filters: Sequence[PublishFilter] = (),
        handler_filters: Sequence[HandlerFilter] = (),
        max_hops: int = MAX_HOPS,
        start: Literal["earliest", "now"] | Mapping[str, Literal["earliest", "now"]] = "earliest",
        outbox_retention: timedelta = timedelta(days=7),
        inbox_retention: timedelta = timedelta(days=14),
        dead_retention: timedelta | None = None,
        audit_retention: timedelta | None = timedelta(days=365),
        operations_retention: timedelta | None = timedelta(days=365),
        max_message_bytes: int = 1 << 20,
        grace: float = 30.0,
        roles: Collection[Role] = ROLES,
        same_database: Sequence[Any] = (),
        behaviours: Sequence[Behaviour] = DEFAULT,
    ) -> None:
        check_settings(
            name=name, store=store, provision=provision, retry=retry, breaker=breaker, limit=limit, subscription_limit=subscription_limit,
            environment=environment, max_hops=max_hops, max_message_bytes=max_message_bytes, grace=grace, start=start,
        )  # fmt: skip
        check_collections(
            contracts=contracts, subscriptions=subscriptions, context=context, roles=roles, routes=routes, same_database=same_database
        )
        self.name = name
        self.store = store
        self.transport = Local() if transport is None else transport
        self.provision: Provision = provision
        self.contracts = tuple(contracts)
        self.counters = Counters()
        self.tuning = Tuning()
        self.retry = retry or Retry()
        self.breaker = breaker or Breaker()
        self.limit = limit or Limit()
        self.subscription_limit = subscription_limit or Limit()
        self.environment = environment
        self._environments = routing_of(route_by_environment, environment)
        # All environments have the same topics: they share a log.
        topics = environment if self._environments is None else self._environments.default
        self.grace = grace
        self._max_message_bytes = max_message_bytes
        self._types = event_types(self.contracts)
        self.routing = Routing(self.transport, routes or {}, self.contracts, list(self._types.values()), topics)
        self.context = tuple(context)
        check_context(self.context, self.routing)
        self.max_hops = max_hops
        self._publish_filters: tuple[PublishFilter, ...] = check_filters("publish_filters", publish_filters)
        self._handler_filters: tuple[HandlerFilter, ...] = check_filters("handler_filters", handler_filters)
        self._own = Subscriptions()
        self._declared = (*subscriptions, self._own)
        self._start: Mapping[str, Literal["earliest", "now"]] | str = start
        self._retention = check_retention(
            outbox_retention=outbox_retention,
            inbox_retention=inbox_retention,
            dead_retention=dead_retention,
            audit_retention=audit_retention,
            operations_retention=operations_retention,
        )
        self.roles: Collection[Role] = frozenset(roles)
        self._providers = Providers()
        self._on_dead: list[Callable[[Dead], Awaitable[None] | None]] = []
        self._on_backlog: list[tuple[float, Callable[[BacklogAlert], Awaitable[None] | None]]] = []
        self._on_breaker: list[Callable[[BreakerAlert], Awaitable[None] | None]] = []
        self._sampler: Sampler | None = None
        self._runtime: Runtime | None = None
        listen_to_sessions()
        self.publisher = Publisher(
            name, self._type_of, store.publishing_statements, environment=topics, max_message_bytes=max_message_bytes,
            same_database=store.leads_here(same_database), same_identity=store.is_here, wake=self._wake,
            scheduled=self._scheduled, count=self.counters.committed, collision=self.routing.collision, context=self.context, filters=self._publish_filters,
        )  # fmt: skip
        #: Adds a handler; see `Subscriptions.subscribe`. For small programs: in larger ones, give each module a `Subscriptions`.
        self.subscribe = self._own.subscribe
        self.domain = Domain(name, self.publisher, self._declared, self._types, self._providers, self.counters)
        self.domain.commands = self.commands = Commands(self.domain, store, behaviours)
        #: Add handlers of domain events and of commands, in the same way; see `Subscriptions`.
        self.on, self.converts = self._own.on, self._own.converts
        self.handles, self.validates = self._own.handles, self._own.validates

    # Publishing

    def publish(
        self,
        session: AnySession,
        event: object,
        /,
        *,
        key: Any = UNSET,
        delay: timedelta | None = None,
        at: datetime | None = None,
        expires: timedelta | datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> UUID:
        """Publish an event in the session's transaction; return its id. There is nothing to await.

        The event is encoded now, and inserted just before the transaction commits; with a rollback, also of a savepoint, it is gone.

        Args:
            session: a SQLAlchemy `Session` or `AsyncSession`, or a scoped form of one, on the store's database.
            event: an instance of an event class of the service's contracts.
            key: the partition key, if not the one that the contract takes from the event; None for no key.
            delay: enter the log later, after this time on the database's clock. `cancel` can stop it.
            at: the same, at this time (aware).
            expires: from when on nobody needs to handle it any more: a time (aware), or a time from now.
            headers: the user's own headers, text only.

        Raises:
            InvalidEvent: the event does not fit its contract, or key, headers, times or size cannot be used.
            NoTransaction: autocommit, a closed session, or a session that may not begin a transaction.
            WrongDatabase: the session belongs to another database than the store.
        """
        return publish(self.publisher, session, event, key, delay, at, expires, headers)

    def publishing(self, connection: Any, /) -> Publishing:
        """Return a block that publishes on a connection: `async with service.publishing(connection) as publish: publish(event)`.

        For asyncpg, psycopg 3, sqlite3, aiosqlite and SQLAlchemy connections; `with` for synchronous drivers. The events are inserted
        when the block is left, last. A transaction that the block began is committed then; otherwise the caller commits.

        Raises:
            TypeError: not a connection that is supported.
            NoTransaction: the connection is in autocommit mode or its transaction has failed.
        """
        return Publishing(self.publisher, connection)

    def cancel(self, session: AnySession, event_id: UUID, /) -> Cancellation:
        """Cancel a scheduled event when the session commits; `.cancelled` then says whether it was still waiting."""
        return cancel(self.publisher, session, event_id)

    # Units of work and commands

    def unit_of_work(self, factory: Factory | None = None, /) -> UnitOfWork:
        """Return a block with a session that commits once, at its end: `async with service.unit_of_work() as uow`, or `with`.

        A block inside another joins it; see `UnitOfWork`.

        Args:
            factory: which of the attached session factories, if there are several.
        """
        return self.domain.unit_of_work(factory)

    async def execute(self, command: object, /, *, idempotency_key: str | None = None) -> Any:
        """Execute a command: lead it through the behaviours to its handler, and return what that returns.

        In a handler, ask for `Execute` instead, and it runs in the handler's transaction. With synchronous sessions it runs in a thread.

        Args:
            command: an instance of a class that has a handler, `@handlers.handles(...)`.
            idempotency_key: the same for each attempt to get this very command executed once.

        Raises:
            ValidationFailed: it is not valid; nothing was touched.
            IdempotencyConflict: the key belongs to another command.
            UnitOfWorkRolledBack: a command inside it failed, and its handler went on.
            ConfigurationError: it has no handler, or no session factory is attached.
        """
        return await self.commands.execute(command, idempotency_key)

    def execute_sync(self, command: object, /, *, idempotency_key: str | None = None) -> Any:
        """Do what `execute` does, in a program without event loop; handlers, validators and behaviours wait for nothing asynchronous."""
        return self.commands.execute_sync(command, idempotency_key)

    async def audited(
        self,
        *,
        command: str | None = None,
        actor: str | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[AuditRow]:
        """Return what `Audit()` has written down, the newest first.

        Args:
            command: the name of a command's class.
            actor: who asked for it.
            outcome: `succeeded`, `rejected`, `failed`, `rolled back` or `repeated`.
            since: it began at this time (aware) or later.
            until: it began before this time.
            limit: the most rows, 1 or more.

        Raises:
            ConfigurationError: a time has no zone, or the limit is less than 1.
        """
        check_aware(since=since, until=until)
        if not isinstance(limit, int) or limit < 1:
            raise ConfigurationError(f"audited(limit={limit!r}): give a whole number of at least 1")
        store = self.store

        def read(connection: Any) -> Sequence[AuditRow]:
            store.resolve(connection)
            return store.commands.audited(connection, self.name, command, actor, outcome, since, until, limit)

        return await store.transact(read)

    # Putting together

    def attach(self, *factories: Factory) -> None:
        """Hear of the domain events that are recorded in the sessions of these factories: `sessionmaker`s and `async_sessionmaker`s.

        Their handlers and converters run before such a session commits. Sessions of other factories record nothing; those that handlers of
        this service's subscriptions are given are attached by themselves.

        Raises:
            ConfigurationError: one is no session factory, or has another service; or it makes synchronous sessions and a handler is async.
        """
        for factory in factories:
            self.domain.attach(factory)

    def track(self, session: AnySession, aggregate: object, /) -> None:
        """Handle the domain events of an object that is not mapped with this session's transaction, from now until it ends.

        Raises:
            TypeError: it records no events.
            NoTransaction: the session has no transaction, and none begins by itself.
        """
        self.domain.track(synchronous(session), aggregate)

    def record(self, session: AnySession, event: object, /) -> None:
        """Record a domain event in this session's transaction, without an object that it happened to."""
        self.domain.record(synchronous(session), event)

    def subscription(self, name: str, **options: Any) -> Subscription:
        """Return a new subscription that takes several handlers; see `Subscriptions.subscription`."""
        return self._own.subscription(name, **options)

    def provide(self, kind: type[T] | Any, provider: T | Callable[..., Any], /) -> None:
        """Let handlers ask for this type: an instance of it, or a function that makes one for each event.

        The function's own parameters are injected too. If it returns a context manager, that is left after the event.
        """
        self._providers.add(kind, provider)

    def on_dead(self, callback: OnDead, /) -> OnDead:
        """Call this function once for each event that is not tried again, after it has been stored as dead.

        Raises:
            ConfigurationError: it is no function.
        """
        check_callback("on_dead", callback)
        self._on_dead.append(callback)
        return callback

    def on_backlog(self, *, age: timedelta) -> Callable[[OnBacklog], OnBacklog]:
        """Call a function once when the oldest event that a reader has not read gets this old, and once when that is over.

        One process of the service calls it, within about ten seconds; readers are the groups, and the relays.

        Args:
            age: 1 second or more.

        Raises:
            ConfigurationError: the age is less than a second, or what is decorated is no function.
        """
        if not isinstance(age, timedelta) or age < timedelta(seconds=1):
            raise ConfigurationError(f"on_backlog(age={age!r}): give a timedelta of a second or more")

        def add(callback: OnBacklog) -> OnBacklog:
            check_callback("on_backlog", callback)
            self._on_backlog.append((age.total_seconds(), callback))
            return callback

        return add

    def on_breaker(self, callback: OnBreaker, /) -> OnBreaker:
        """Call this function once when a subscription's breaker opens, or a broker cannot be used, and once when that is over.

        One process of the service calls it, within about ten seconds.

        Raises:
            ConfigurationError: it is no function.
        """
        check_callback("on_breaker", callback)
        self._on_breaker.append(callback)
        return callback

    # Looking at it

    async def health(self, *, timeout: float = 2.0, stalled: timedelta = timedelta(seconds=60)) -> Health:
        """Return whether this process is alive and does its work; whatever has gone wrong, this answers.

        Not ready is: a task that has ended, a broker that cannot be used, a store that does not answer, a reader that nobody reads for although
        this process should, and a reader or relay of this process that does not move although events wait. What other processes hold is
        theirs to tell.

        Args:
            timeout: seconds that the store has for its answer, more than 0.
            stalled: for how long a reader may stand still although events wait, 0 or more.

        Raises:
            ConfigurationError: one of the two cannot be.
        """
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigurationError(f"health(timeout={timeout!r}): give seconds, more than 0")
        if not isinstance(stalled, timedelta) or stalled < timedelta(0):
            raise ConfigurationError(f"health(stalled={stalled!r}): give a timedelta of 0 or more")
        from tidings.observability.health import check

        return await check(self._runtime, timeout=timeout, stalled=stalled.total_seconds())

    def health_app(self) -> App:
        """Return an ASGI application with `/live` and `/ready`, 200 or 503 with reasons as JSON: `app.mount("/health", service.health_app())`.

        `/live` asks the tasks of this process and nothing else; `/ready` is `health()`.
        """
        from tidings.observability.asgi import health_app
        from tidings.observability.health import check_alive

        return health_app(self.health, lambda: check_alive(self._runtime))

    def collector(self) -> Collector:
        """Return what a `prometheus_client` registry collects from: `REGISTRY.register(service.collector())`. Call it before the service starts.

        Raises:
            MissingExtra: `tidings[prometheus]` is not installed.
        """
        from tidings.observability.prometheus import Collector

        return Collector(self.name, self.counters, self._sampling())

    def metrics_app(self) -> App:
        """Return an ASGI application that answers `/metrics` for Prometheus: `app.mount("/metrics", service.metrics_app())`.

        Raises:
            MissingExtra: `tidings[prometheus]` is not installed.
        """
        from tidings.observability.prometheus import Collector, metrics_app

        return metrics_app(Collector(self.name, self.counters, self._sampling()), self._sampling())

    def instrument(
        self,
        *,
        metrics: bool = True,
        traces: bool = True,
        meter_provider: MeterProvider | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        """Give metrics and traces to OpenTelemetry. Call it before the service starts and publishes.

        Args:
            meter_provider: None is the one that the application has set for the process.
            tracer_provider: likewise.

        Raises:
            MissingExtra: `tidings[opentelemetry]` is not installed.
        """
        if metrics:
            from tidings.observability.opentelemetry import record

            record(self.name, __version__, self.counters, self._sampling(), meter_provider)
        if traces:
            from tidings.observability.tracing import Tracing

            self.publisher.tracing = Tracing(__version__, tracer_provider)

    def _sampling(self) -> Sampler:
        if self._sampler is None:
            self._sampler = Sampler(self.name, self.store)
        return self._sampler

    @property
    def operations(self) -> Operations:
        """What operators do about this service's parked events: redrive, discard, pause."""
        return Operations(self.store, self.name)

    def dashboard(
        self,
        *,
        auth: Auth | None = None,
        read_only: bool = False,
        redact: Sequence[str | Redact] = (),
        secure_cookies: bool = False,
    ) -> Dashboard:
        """Return the dashboard and its JSON API as an ASGI application, to be mounted anywhere: `app.mount("/tidings", service.dashboard())`.

        Args:
            auth: called with each request (a Starlette `Request`; sync or async): returns a `User` with roles, or None. `TokenAuth` and
                `BasicAuth` are built in. Without it only this machine may look, and act.
            read_only: nobody may act.
            redact: fields of payloads and headers that are not shown: names, paths such as `card.number`, or `Redact(...)` for some roles.
            secure_cookies: browsers send the dashboard's cookies over TLS only. Where the request says that it came over TLS they do anyway;
                say it where a proxy does TLS and does not tell.

        Raises:
            MissingExtra: Starlette or Jinja is not installed.
        """
        from tidings.dashboard import Dashboard

        return Dashboard(self.store, self, auth=auth, read_only=read_only, redact=redact, secure_cookies=secure_cookies)

    def concurrency(self) -> dict[str, int]:
        """Return how many handlers run at once in each subscription, by `group/name`."""
        return {compiled.label: compiled.options.concurrency for compiled in self._compile()}

    async def read_log(
        self, after: str | None = None, *, events: Collection[type] | None = None, key: str | None = None
    ) -> AsyncIterator[LoggedEvent]:
        """Read the log by hand, to its end: what was published, handled or not, for clients that ask for what they have missed.

        Within a key the order is that of publishing. Whoever reads on with the cursor of the last event that it got misses nothing: an event of a
        transaction that was open for long comes later, not behind the cursor's back (PostgreSQL's snapshots see to that). What the retention has
        taken out of the log is no longer there. Events of everybody who shares the log are there; those that came through a broker are not.

            async for logged in service.read_log(after=cursor, events=[OrderPlaced]):
                cursor = logged.cursor

        Args:
            after: the `cursor` of the event to read on from; None is the beginning.
            events: only events of these classes, in whatever version; None for all.
            key: only events of this partition key.

        Raises:
            InvalidCursor: `after` is no cursor of this log.
            ContractError: one of `events` is in none of the service's contracts.
            StoreError: the store's tables cannot be used.
        """
        from tidings.log import read_log

        types = {(each.name, each.version): each for each in self._types.values()}
        wanted = None if events is None else frozenset(self._type_of(cls).name for cls in events)
        async for logged in read_log(self.store, types, after, wanted, key):
            yield logged

    async def replay(
        self,
        subscription: str,
        *,
        name: str,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Progress:
        """Handle part of the log again for one subscription, on purpose past the inbox; return how it ended.

        It reads up to where the log was when the replay began. An ordered subscription is paused meanwhile. What fails is parked.

        Args:
            subscription: `group/name`, or the name alone if one group has it.
            name: a replay that stopped goes on under its name.
            since: published at this time (aware) or later.
            until: published before this time.
            key: only events of this key.
            progress: called after each page.

        Raises:
            ConfigurationError: there is no such subscription, another worker runs this replay, the name is empty, or a time has no zone.
        """
        if not is_name(name):
            raise ConfigurationError(f"replay(name={name!r}): give {NAMES}")
        interval = Interval(since, until, key).checked()
        await self.store.open()
        compiled = await subscription_to_replay(self._compile(), subscription, self.name, self.store)
        compiled.count_in(self.counters)
        worker = str(uuid7())
        gates = Gatekeeper(self.name, self.limit, self.store, worker, self.tuning.lease)
        compiled.gate = gates.gate(compiled.label, compiled.limit)
        execution = Execution(compiled, self.store, self.publisher)
        async with gates.kept():
            return await Replay(name, execution, self.store, self.name, interval, worker, self.counters).run(progress)

    # Running

    async def start(self, roles: Collection[Role] | None = None) -> None:
        """Start: check the store, register the subscriptions, and read.

        Raises:
            StoreError: the store's tables cannot be used.
            ConfigurationError: a handler cannot be called, a subscription was renamed without saying so, or a role or start is not there.
        """
        if self._runtime is not None:
            raise ConfigurationError(f"service {self.name!r} is running already")
        check_roles(self.roles if roles is None else roles)
        compiled = self._compile()
        check_subscriptions(compiled, self.routing, environments=self._environments is not None)
        check_start(self._start, compiled, self.routing)
        start = self._start if isinstance(self._start, Mapping) else dict.fromkeys((c.group for c in compiled), self._start)
        if self.publisher.tracing is not None:
            self.publisher.tracing.look()
        runtime = Runtime(
            self.name, self.environment, __version__, self.store, self.publisher, compiled, start,  # type: ignore[arg-type]
            self._retention, on_dead=self._on_dead, counters=self.counters, tuning=self.tuning,
            roles=self.roles if roles is None else frozenset(roles), limit=self.limit,
            routing=self.routing, provision=self.provision, max_message_bytes=self._max_message_bytes, environments=self._environments,
            watch=Watch(self._on_backlog, self._on_breaker), sampler=self._sampler,
        )  # fmt: skip
        await runtime.start()
        self._runtime = runtime

    async def stop(self) -> None:
        """Stop: finish what is under way within the grace time, and hand the rest to other workers."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.stop(self.grace)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Run the service as long as an ASGI application runs: `FastAPI(lifespan=service.lifespan)`; Starlette and Litestar too."""
        async with self:
            yield

    def _compile(self) -> list[Compiled]:
        self.commands.compile()
        self.domain.compile()
        self.routing.learn(self._types.values())
        compiled = [
            compile_subscription(
                subscription, self._types, group_of(subscription.group or self.name, self.environment, self._environments), self.retry, self._providers, breaker=self.breaker,
                limit=self.subscription_limit, async_engine=self.store.connections.asynchronous, driver=self.store.connections.sync_engine.dialect.driver,
                replies=any(transport.wire == "cap" for transport in self.routing.brokers),
            )
            for declared in self._declared
            for subscription in declared.subscriptions
        ]  # fmt: skip
        for item in compiled:
            item.max_hops = self.max_hops
            item.filters = Filters(self._handler_filters, item.group, item.name) if self._handler_filters else None
        return compiled

    def _type_of(self, cls: type) -> EventType[Any]:
        try:
            return self._types[cls]
        except KeyError:
            if issubclass(cls, type):
                raise ContractError("publish was given a class: give an event, an instance of it, e.g. OrderPlaced(...)") from None
            raise ContractError(
                f"{cls.__qualname__} is in none of the contracts of service {self.name!r}: declare it with @contract.event(...), "
                "and give the contract to Service(contracts=[...])"
            ) from None

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()

    def _scheduled(self) -> None:
        if self._runtime is not None:
            self._runtime.scheduled()
