"""`Service`: one application's contracts, store and subscriptions, put together. A composition root, not a place for logic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from uuid import UUID

from tidings import __version__
from tidings.consume.breaker import Breaker
from tidings.consume.counters import Counters
from tidings.consume.execution import Execution
from tidings.consume.gate import Gatekeeper
from tidings.consume.limits import Limit
from tidings.consume.providers import Providers
from tidings.consume.replay import Interval, Progress, Replay
from tidings.consume.retry import Retry
from tidings.consume.routing import Compiled, compile_subscription, event_types
from tidings.consume.strangers import INBOUND
from tidings.consume.subscriptions import Subscription, Subscriptions
from tidings.consume.tuning import Tuning
from tidings.contracts import Contract, EventType
from tidings.errors import ConfigurationError, ContractError
from tidings.ids import uuid7
from tidings.operations import Operations
from tidings.publish.buffer import Cancellation
from tidings.publish.publish import UNSET
from tidings.publish.publisher import Publisher
from tidings.publish.publishing import Publishing
from tidings.publish.session import AnySession, cancel, publish
from tidings.publish.session_buffer import listen_to_sessions
from tidings.relay.routing import PREFIX, Destination, Routes, Routing, is_relay
from tidings.runtime import ROLES, Dead, Role, Runtime
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Provision
from tidings.transports.local import Local

if TYPE_CHECKING:
    from types import TracebackType

    from tidings.dashboard import Auth, Dashboard, Redact

__all__ = ["Dead", "Service"]

T = TypeVar("T")
OnDead = TypeVar("OnDead", bound=Callable[[Dead], Awaitable[None] | None])


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
        environment: `dev`, `test`, `prod` … for topic namers that use it.
        start: where a group starts that the store does not know yet: `earliest` (everything the log still has) or `now`; or by group. A relay
            starts with the earliest, unless its group says otherwise: `{"relay:rabbitmq": "now"}`.
        outbox_retention: how long published events are kept.
        inbox_retention: how long handled events are remembered; longer than anything that can bring an event again.
        dead_retention: how long dead events are kept that nothing waits behind.
        max_message_bytes: the most bytes of one event, data and headers; also of one that a broker brings.
        grace: seconds that stopping waits for handlers under way.
        roles: what this process does when it runs: `relay`, `consume`, `schedule`; an empty collection publishes only.
        same_database: further engines that lead to the store's database under another address, e.g. past a proxy.

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
        start: Literal["earliest", "now"] | Mapping[str, Literal["earliest", "now"]] = "earliest",
        outbox_retention: timedelta = timedelta(days=7),
        inbox_retention: timedelta = timedelta(days=14),
        dead_retention: timedelta = timedelta(days=30),
        max_message_bytes: int = 1 << 20,
        grace: float = 30.0,
        roles: Collection[Role] = ROLES,
        same_database: Sequence[Any] = (),
    ) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable() or any(c in name for c in "/@ "):
            raise ConfigurationError(f"Service name={name!r}: give 1 to 100 printable characters without '/', '@' or spaces")
        if not isinstance(store, SQLStore):
            raise ConfigurationError(f"Service store={store!r}: give SQLStore(engine)")
        if provision not in ("create", "verify", "off"):
            raise ConfigurationError(f"Service provision={provision!r}: give 'create', 'verify' or 'off'")
        unknown = set(roles) - ROLES
        if unknown:
            raise ConfigurationError(f"Service roles={sorted(unknown)!r}: there are {', '.join(sorted(ROLES))}")
        if breaker is not None and not isinstance(breaker, Breaker):
            raise ConfigurationError(f"Service breaker={breaker!r}: give a Breaker(...), or nothing")
        for what, given in (("limit", limit), ("subscription_limit", subscription_limit)):
            if given is not None and not isinstance(given, Limit):
                raise ConfigurationError(f"Service {what}={given!r}: give a Limit(...), e.g. Limit(concurrency=20), or nothing")
        if max_message_bytes < 1024:
            raise ConfigurationError(f"Service max_message_bytes={max_message_bytes}: give at least 1024")
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
        self.grace = grace
        self._max_message_bytes = max_message_bytes
        self._types = event_types(self.contracts)
        self.routing = Routing(self.transport, routes or {}, self.contracts, list(self._types.values()), environment)
        self._own = Subscriptions()
        self._declared = (*subscriptions, self._own)
        self._start: Mapping[str, Literal["earliest", "now"]] | str = start
        self._retention = (outbox_retention.total_seconds(), inbox_retention.total_seconds(), dead_retention.total_seconds())
        self.roles: Collection[Role] = frozenset(roles)
        self._providers = Providers()
        self._on_dead: list[Callable[[Dead], Awaitable[None] | None]] = []
        self._runtime: Runtime | None = None
        listen_to_sessions()
        self.publisher = Publisher(
            name, self._type_of, store.publishing_statements, environment=environment, max_message_bytes=max_message_bytes,
            same_database=store.leads_here(same_database), same_identity=store.is_here, wake=self._wake,
            collision=self.routing.collision,
        )  # fmt: skip
        #: Adds a handler; see `Subscriptions.subscribe`. For small programs: in larger ones, give each module a `Subscriptions`.
        self.subscribe = self._own.subscribe

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
            delay, at: enter the log later: after this time on the database's clock, or at this time (aware). `cancel` can stop it.
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

    # Putting together

    def subscription(self, name: str, **options: Any) -> Subscription:
        """Return a new subscription that takes several handlers; see `Subscriptions.subscription`."""
        return self._own.subscription(name, **options)

    def provide(self, kind: type[T] | Any, provider: T | Callable[..., Any], /) -> None:
        """Let handlers ask for this type: an instance of it, or a function that makes one for each event.

        The function's own parameters are injected too. If it returns a context manager, that is left after the event.
        """
        self._providers.add(kind, provider)

    def on_dead(self, callback: OnDead, /) -> OnDead:
        """Call this function once for each event that is not tried again, after it has been stored as dead."""
        self._on_dead.append(callback)
        return callback

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
    ) -> Dashboard:
        """Return the dashboard and its JSON API as an ASGI application, to be mounted anywhere: `app.mount("/tidings", service.dashboard())`.

        Args:
            auth: called with each request (a Starlette `Request`; sync or async): returns a `User` with roles, or None. `TokenAuth` and
                `BasicAuth` are built in. Without it only this machine may look, and act.
            read_only: nobody may act.
            redact: fields of payloads and headers that are not shown: names, paths such as `card.number`, or `Redact(...)` for some roles.

        Raises:
            MissingExtra: Starlette or Jinja is not installed.
        """
        from tidings.dashboard import Dashboard

        return Dashboard(self.store, self, auth=auth, read_only=read_only, redact=redact)

    def concurrency(self) -> dict[str, int]:
        """Return how many handlers run at once in each subscription, by `group/name`."""
        return {compiled.label: compiled.options.concurrency for compiled in self._compile()}

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
            since, until: bounds of the time of publishing (aware).
            key: only events of this key.
            progress: called after each page.

        Raises:
            ConfigurationError: there is no such subscription, another worker runs this replay, or a time has no zone.
        """
        for label, bound in (("since", since), ("until", until)):
            if bound is not None and bound.tzinfo is None:
                raise ConfigurationError(f"{label}={bound} has no time zone: give an aware datetime")
        await self.store.open()
        registered = {(row.group, row.name): row.id for row in await self.store.call(self.store.registry.list, self.name)}
        found = [item for item in self._compile() if subscription in (item.name, item.label) and (item.group, item.name) in registered]
        if len(found) != 1:
            which = (
                f"several groups have a subscription {subscription!r}: say group/name"
                if found
                else f"there is no subscription {subscription!r}"
            )
            raise ConfigurationError(which)
        compiled = found[0]
        compiled.id = registered[compiled.group, compiled.name]
        execution = Execution(compiled, self.store, self.publisher)
        worker = str(uuid7())
        gates = Gatekeeper(self.name, self.limit, self.store, worker, self.tuning.lease)
        compiled.gate = gates.gate(compiled.label, compiled.limit)
        replay = Replay(name, execution, self.store, self.name, Interval(since, until, key), worker, self.counters)
        async with gates.kept():
            return await replay.run(progress)

    # Running

    async def start(self, roles: Collection[Role] | None = None) -> None:
        """Start: check the store, register the subscriptions, and read.

        Raises:
            StoreError: the store's tables cannot be used.
            ConfigurationError: a handler cannot be called, or a subscription was renamed without saying so.
        """
        if self._runtime is not None:
            raise ConfigurationError(f"service {self.name!r} is running already")
        compiled = self._compile()
        for item in compiled:
            if item.name.startswith(INBOUND):
                raise ConfigurationError(f"subscription {item.name!r}: names that begin with {INBOUND} are taken; give it another one")
            if is_relay(item.group):
                raise ConfigurationError(
                    f"subscription {item.name!r}: groups called {PREFIX}... are those of relays; give it another group"
                )
        seen: set[tuple[str, str]] = set()
        for item in compiled:
            if (item.group, item.name) in seen:
                raise ConfigurationError(f"two subscriptions of group {item.group!r} are named {item.name!r}: give one of them name='...'")
            seen.add((item.group, item.name))
        start = self._start if isinstance(self._start, Mapping) else dict.fromkeys((c.group for c in compiled), self._start)
        runtime = Runtime(
            self.name, self.environment, __version__, self.store, self.publisher, compiled, start,  # type: ignore[arg-type]
            *self._retention, on_dead=self._on_dead, counters=self.counters, tuning=self.tuning,
            roles=self.roles if roles is None else frozenset(roles), limit=self.limit,
            routing=self.routing, provision=self.provision, max_message_bytes=self._max_message_bytes,
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
        return [
            compile_subscription(
                subscription, self._types, subscription.group or self.name, self.retry, self._providers, breaker=self.breaker,
                limit=self.subscription_limit, async_engine=self.store.connections.asynchronous, driver=self.store.connections.sync_engine.dialect.driver,
                replies=any(transport.wire == "cap" for transport in self.routing.brokers),
            )
            for declared in self._declared
            for subscription in declared.subscriptions
        ]  # fmt: skip

    def _type_of(self, cls: type) -> EventType[Any]:
        try:
            return self._types[cls]
        except KeyError:
            raise ContractError(
                f"{cls.__qualname__} is in none of the contracts of service {self.name!r}: declare it with @contract.event(...), "
                "and give the contract to Service(contracts=[...])"
            ) from None

    def _wake(self) -> None:
        if self._runtime is not None:
            self._runtime.wake()
