"""The running part of a service: registration, receivers, retrier, mover, purger and heartbeat, as one group of tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection
from sqlalchemy.pool import NullPool, QueuePool

from tidings.clock import elapsed
from tidings.consume.company import Company
from tidings.consume.counters import Counters
from tidings.consume.crew import Means
from tidings.consume.dead import Dead
from tidings.consume.deliveries import Retrier
from tidings.consume.environments import Claims, EnvironmentRouting, Environments
from tidings.consume.execution import Execution, Failed
from tidings.consume.failures import this_process
from tidings.consume.gate import Gatekeeper
from tidings.consume.limits import Limit
from tidings.consume.opening import Opener
from tidings.consume.purging import PURGER, Purger
from tidings.consume.reach import Reach, reported
from tidings.consume.receiver import Receiver
from tidings.consume.routing import Compiled
from tidings.consume.sources import Feed, Sources, sources_of
from tidings.consume.strangers import Reopening, compiled_inbound
from tidings.consume.subscriber import Subscriber, unordered_warning
from tidings.consume.tenure import cause_of
from tidings.consume.tuning import Tuning
from tidings.consume.upkeep import Heart, LeasedTask, Mover
from tidings.ids import uuid7
from tidings.observability.alerts import Alerts, Watch, task_name
from tidings.observability.logs import about
from tidings.observability.measures import Sampler
from tidings.publish.publisher import Publisher
from tidings.relay.contact import Needs, first_contact
from tidings.relay.relay import Relay
from tidings.relay.routing import Routing, is_relay
from tidings.relay.sending import compiled_relay
from tidings.stores.base import Registered, Retention
from tidings.stores.sql.observed import Observer
from tidings.stores.sql.registry import Inbound, Wanted
from tidings.stores.sql.store import SQLStore
from tidings.transports.base import Provision, Transport

__all__ = ["ROLES", "Dead", "Role", "Runtime"]

logger = logging.getLogger("tidings.service")

Role = Literal["relay", "consume", "schedule"]
ROLES: frozenset[Role] = frozenset(("relay", "consume", "schedule"))


@dataclass(slots=True)
class Runtime:
    """Starts and stops the tasks of a service. Nothing exists before `start`."""

    service: str
    environment: str | None
    version: str
    store: SQLStore
    publisher: Publisher
    subscriptions: Sequence[Compiled]
    start_at: Mapping[str, Literal["earliest", "now"]]
    retention: Retention
    on_dead: Sequence[Callable[[Dead], Awaitable[None] | None]]
    counters: Counters
    tuning: Tuning
    roles: Collection[Role] = ROLES
    limit: Limit = field(default_factory=Limit)
    routing: Routing | None = None
    provision: Provision = "create"
    max_message_bytes: int = 1 << 20
    environments: EnvironmentRouting | None = None
    watch: Watch = field(default_factory=Watch)
    sampler: Sampler | None = None
    worker: str = field(default_factory=lambda: str(uuid7()))
    receivers: list[Receiver] = field(default_factory=list)
    subscribers: list[Subscriber] = field(default_factory=list)
    retrier: Retrier | None = None
    mover: LeasedTask | None = None
    relays: list[Relay] = field(default_factory=list)
    _parts: list[Any] = field(default_factory=list)
    _heart: Heart | None = None
    _gates: Gatekeeper | None = None
    _main: asyncio.Task[None] | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _calls: set[asyncio.Task[None]] = field(default_factory=set)
    _tasks: list[tuple[str, asyncio.Task[None]]] = field(default_factory=list)
    _stopping: bool = False
    began: float = 0.0
    observer: Observer = field(init=False)

    def __post_init__(self) -> None:
        self.observer = Observer(self.store.names, self.store.dialect)

    async def start(self) -> None:
        """Check the store, register, and start.

        Raises:
            StoreError: the tables cannot be used.
            ConfigurationError: a subscription cannot be registered.
        """
        store = self.store
        if self.retention.inbox < self.retention.outbox:
            logger.warning(
                "inbox_retention (%.1f days) is shorter than outbox_retention (%.1f days): an event that is read again after its inbox row was "
                "purged is handled again", self.retention.inbox / 86400, self.retention.outbox / 86400,
            )  # fmt: skip
        await store.open()
        # Which schema the tables are in may have been found only now.
        self.observer = Observer(store.names, store.dialect)
        wanted = [
            Wanted(compiled.group, compiled.name, compiled.names, compiled.options.ordered, compiled.options.renamed_from)
            for compiled in self.subscriptions
        ]
        sources = sources_of(self.subscriptions, self.routing)
        starts: dict[str, Literal["earliest", "now"]] = {group: self.start_at.get(group, "earliest") for group in sources.log}
        brokers = () if self.routing is None else self.routing.brokers
        relays = [(transport, compiled_relay(transport)) for transport in brokers]
        for _, compiled in relays:
            # In every role: what is published from now on is kept for whoever relays.
            wanted.append(Wanted(compiled.group, compiled.name, (), True))
            starts[compiled.group] = self.start_at.get(compiled.group, "earliest")
        fed = [(feed, compiled_inbound(feed.group, feed.transport)) for feed in sources.feeds]
        wanted += [Wanted(compiled.group, compiled.name, feed.names, False) for feed, compiled in fed]
        inbound = [Inbound(feed.group, feed.transport.name, feed.by_position) for feed in sources.feeds]
        shared = self._shared()
        wanted += [item for _, item in shared]
        if self._elsewhere_default():
            # What it finds in the log was left to it, or has been handled: beginning later could miss what the default environment left to it.
            starts = {group: first if is_relay(group) else "earliest" for group, first in starts.items()}
        heart = Heart(
            store, self.worker, self.service, self.environment, ",".join(sorted(self.roles)), self.version, self.counters, self._report_brokers
        )  # fmt: skip

        def enter(connection: Connection) -> list[Registered]:
            registered = store.registry.register(connection, self.service, starts, wanted, inbound) if wanted else []
            # In one transaction: whoever forgets services that nobody runs sees this worker, or is over.
            heart.first(connection)
            return registered

        registered = await store.transact(enter)
        if wanted:
            ids = {(row.group, row.name): row.id for row in registered}
            for compiled in (*self.subscriptions, *(compiled for _, compiled in (*relays, *fed))):
                compiled.id = ids[compiled.group, compiled.name]
            for compiled, item in shared:
                assert self.environments is not None
                compiled.claims = Claims(ids[item.group, item.name], self.environments.default, store)
        for compiled in (*self.subscriptions, *(compiled for _, compiled in (*relays, *fed))):
            compiled.count_in(self.counters)
        await store.transact(store.registry.add_task, "task:mover")
        await store.transact(store.registry.add_task, PURGER)
        if self.roles:
            await store.transact(store.upkeep.retain, PURGER, self.service, self.retention)
        self._loop = asyncio.get_running_loop()
        await self._sign([*self.subscriptions, *(compiled for _, compiled in (*relays, *fed))])
        self._heart = heart
        self._parts = [heart]
        slots = asyncio.Semaphore(self._slots(len(starts) + len(fed)))
        ready: set[str] = set()
        if self.routing is not None and brokers and ("relay" in self.roles or ("consume" in self.roles and fed)):
            ready = await first_contact(self._needs(brokers, sources), self.provision, self.tuning.first_contact)
        if "consume" in self.roles and self.subscriptions:
            self._consume(sources, fed, slots, ready)
        if "relay" in self.roles and self.routing is not None:
            for transport, compiled in relays:
                self.relays.append(
                    Relay(
                        self.service, transport, compiled, self.routing, store, self.publisher, self.worker, self.counters, self._died,
                        self.tuning, self.provision, provisioned=transport.name in ready, groups=sources.groups(transport),
                    )
                )  # fmt: skip
            self._parts += self.relays
        for _, reach in self._reaches():
            reach.changed = heart.soon
        if "schedule" in self.roles:
            self.mover = LeasedTask("task:mover", store, self.worker, Mover(store, self._wake_readers, self.counters).step)
            purger = LeasedTask(PURGER, store, self.worker, Purger(store, self.service, self.retention).step)
            self._parts += [self.mover, purger]
        if self.watch and self.roles:
            await store.transact(store.registry.add_task, task_name(self.service))
            self._parts.append(
                LeasedTask(task_name(self.service), store, self.worker, Alerts(self.service, store, self.watch, self._call).step)
            )
        if self.sampler is not None:
            self._parts.append(self.sampler)
        self.began = elapsed()
        self._main = asyncio.create_task(self._run(), name=f"tidings:{self.service}")
        count = len(self.subscriptions)
        logger.info(
            "service %s started: %d %s, roles %s", self.service, count, "subscription" if count == 1 else "subscriptions",
            ",".join(sorted(self.roles)),
            extra={"service": self.service},
        )  # fmt: skip

    async def _sign(self, all_: Sequence[Compiled]) -> None:
        """Draw the number by which the inbox names this worker."""
        store = self.store
        number = await store.transact(store.numbers.draw, self.worker, self.service, *this_process())
        if number is not None:
            mine = [compiled.id for compiled in all_] + [compiled.claims.id for compiled in all_ if compiled.claims is not None]
            store.inbox.workers.update(dict.fromkeys(mine, number))

    def _reaches(self) -> list[tuple[Transport, Reach]]:
        reaches = [(relay.transport, relay.reach) for relay in self.relays]
        return reaches + [(subscriber.feed.transport, subscriber.reach) for subscriber in self.subscribers]

    def _report_brokers(self) -> str:
        return reported(() if self.routing is None else self.routing.brokers, self._reaches())

    def _needs(self, brokers: Sequence[Transport], sources: Sources) -> list[Needs]:
        """Return what has to be there at the brokers that this process uses."""
        assert self.routing is not None
        relaying, consuming = "relay" in self.roles, "consume" in self.roles
        return [
            Needs(
                transport, sorted({*(self.routing.topics(transport) if relaying else ()), *sources.topics(transport)}),
                sources.groups(transport), "relay:" + transport.name if relaying else "inbound:" + transport.name,
            )
            for transport in brokers
            if relaying or (consuming and sources.topics(transport))
        ]  # fmt: skip

    def _consume(
        self, sources: Sources, fed: Sequence[tuple[Feed, Compiled]], slots: asyncio.Semaphore, ready: Collection[str]
    ) -> None:  # fmt: skip
        """Make what reads the log and the brokers, and what tries parked events again."""
        store = self.store
        company = Company()
        self._gates = Gatekeeper(self.service, self.limit, store, self.worker, self.tuning.lease)
        for compiled in self.subscriptions:
            compiled.gate = self._gates.gate(compiled.label, compiled.limit)
        for group, mine in sources.log.items():
            self.receivers.append(
                Receiver(
                    self.service, group, mine, store, self.publisher, self.worker, slots, self.counters, self._died, self.tuning,
                    company=company, elsewhere=self._elsewhere if fed else None, environments=self._environments(),
                )
            )  # fmt: skip
        openers = {feed.transport.name: self._opener(feed.transport) for feed, _ in fed}
        reopened = {compiled.id: (compiled, openers[feed.transport.name]) for feed, compiled in fed}

        def execution(compiled: Compiled, store: SQLStore, publisher: Publisher) -> Execution:
            if compiled.id not in reopened:
                return Execution(compiled, store, publisher)
            group = [item for item in self.subscriptions if item.group == compiled.group]
            return Reopening(compiled, store, publisher, reopened[compiled.id][1], self.service, group)

        self.retrier = Retrier(
            [*self.subscriptions, *(compiled for _, compiled in fed)], store, self.publisher, self.worker, slots, self.counters, self._died,
            execution, company,
        )  # fmt: skip
        means = Means(
            self.service, store, self.publisher, self.worker, slots, self.counters, self._died, self.tuning, company=company
        )  # fmt: skip
        for feed, compiled in fed:
            self.subscribers.append(
                Subscriber(
                    feed, compiled, openers[feed.transport.name], means, self.max_message_bytes, self.start_at.get(feed.group, "earliest"),
                    self.provision, provisioned=feed.transport.name in ready,
                )
            )  # fmt: skip
        unordered_warning(sources.feeds)
        self._parts += [*self.receivers, *self.subscribers, self.retrier]

    def _opener(self, transport: Transport) -> Opener:
        assert self.routing is not None
        return Opener(transport, self.service, self.routing.types, self.routing.environment, self.max_message_bytes)

    def _elsewhere_default(self) -> bool:
        """Whether this is an environment, and not the default one."""
        return self.environments is not None and self.environment != self.environments.default

    def _shared(self) -> list[tuple[Compiled, Wanted]]:
        """Return what all environments register, so that one of them handles an event."""
        if self.environments is None:
            return []
        suffix = f"@{self.environment}" if self._elsewhere_default() else ""
        return [(compiled, Claims.wanted(compiled, compiled.group.removesuffix(suffix))) for compiled in self.subscriptions]

    def _environments(self) -> Environments | None:
        if self.environments is None or self.environment is None:
            return None
        return Environments(self.service, self.environment, self.environments, self.store)

    def _elsewhere(self, name: str, version: int | None, topic: str) -> bool:
        return self.routing is not None and self.routing.comes_by(name, version, topic) is not None

    async def _run(self) -> None:
        # Permits are renewed until the last handler has ended.
        async with self._gates.kept() if self._gates is not None else nullcontext(), asyncio.TaskGroup() as tasks:
            self._tasks = [(_name_of(part), tasks.create_task(part.run())) for part in self._parts]

    async def stop(self, grace: float) -> None:
        """Take nothing new, wait up to `grace` seconds for what is under way, then roll that back and hand everything over.

        Cancelled while it waits, it rolls back at once, hands everything over, and is cancelled then.
        """
        self._stopping = True
        for part in self._parts:
            part.stop()
        cancelled: asyncio.CancelledError | None = None
        if self._main is not None:
            try:
                done, _ = await asyncio.wait([self._main], timeout=grace)
            except asyncio.CancelledError as asked:
                # Nobody wants to wait for handlers any more; what is left is handed over all the same.
                cancelled, done = asked, set()
                logger.warning("service %s: handlers are not waited for any more, and are rolled back", self.service)
            else:
                if not done:
                    logger.warning("service %s: handlers were still running after %.0f s and are rolled back", self.service, grace)
            if not done:
                self._main.cancel()
                await asyncio.wait([self._main], timeout=10.0)
            if self._main.done() and not self._main.cancelled() and (error := self._main.exception()) is not None:
                logger.error("service %s ended with an error", self.service, exc_info=error)
            self._main = None
        if self._calls:
            await asyncio.wait(self._calls, timeout=5.0)
        if self._heart is not None:
            await self._heart.last()
        self.receivers.clear()
        self.subscribers.clear()
        self.relays.clear()
        self.retrier = self.mover = self._gates = None
        self._parts.clear()
        self._tasks.clear()
        self.store.close()
        logger.info("service %s stopped", self.service, extra={"service": self.service})
        if cancelled is not None:
            raise cancelled

    def wake(self) -> None:
        """Look for news at once; callable from any thread."""
        self._at_once(self._wake_readers)

    def scheduled(self) -> None:
        """Look at once when the next scheduled event is due; callable from any thread."""
        self._at_once(self._wake_mover)

    def _at_once(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None or self._main is None or loop.is_closed():
            return
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is loop:
            function()
        else:
            loop.call_soon_threadsafe(function)

    def _wake_mover(self) -> None:
        if self.mover is not None:
            self.mover.wake()

    def _wake_readers(self) -> None:
        for receiver in self.receivers:
            receiver.wake()
        for relay in self.relays:
            relay.wake()

    def _died(self, compiled: Compiled, failed: Failed) -> None:
        received = failed.received
        dead = Dead(received.id, received.name, received.key, compiled.label, failed.number, failed.error)
        logger.error(
            "Event %s failed after %d %s: %s", dead.message_type, failed.number, "attempt" if failed.number == 1 else "attempts",
            failed.failure.error_message.partition("\n")[0][:300],
            extra=about(received, subscription=compiled.label, error_type=failed.failure.error_type), exc_info=failed.error,
        )  # fmt: skip
        for callback in self.on_dead:
            self._call(callback, dead)

    def _call(self, callback: Callable[..., Awaitable[None] | None], told: object) -> None:
        task = asyncio.ensure_future(_tell(callback, told))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    @property
    def failed(self) -> bool:
        """Whether its tasks have ended although nobody has stopped it."""
        return not self._stopping and self._main is not None and self._main.done()

    def ended(self) -> list[tuple[str, str]]:
        """Return which of its tasks have ended although nobody has stopped it, and why."""
        if self._stopping:
            return []
        ended = [(name, task) for name, task in self._tasks if task.done()]
        # Those that were cancelled because another one failed are not to blame.
        to_blame = [(name, task) for name, task in ended if not task.cancelled()]
        return [(name, _why(task)) for name, task in to_blame or ended]

    def readers(self) -> list[str]:
        """Return the readers that this process takes the lease of whenever it can be had."""
        parts: list[Receiver | Subscriber | Relay] = [*self.receivers, *self.subscribers, *self.relays]
        return [part.reader for part in parts]

    def _slots(self, groups: int) -> int:
        """Return how many handler transactions may run at once, so that leases, polls and the user's own work still get connections."""
        transactional = [compiled for compiled in self.subscriptions if compiled.transactional]
        wanted = sum(compiled.options.concurrency for compiled in transactional) or 1
        pool = self.store.connections.sync_engine.pool
        if isinstance(pool, NullPool) or not isinstance(pool, QueuePool) or pool._max_overflow < 0:
            return wanted
        capacity = pool.size() + pool._max_overflow
        # Plain handlers use no transaction: two connections of their group read and write the inbox for all of them.
        ours = 2 * groups + 2 * len({compiled.group for compiled in self.subscriptions if not compiled.transactional}) + 2
        free = max(1, capacity - ours - 1)
        if free < wanted:
            # Several subscriptions share what there is; one that alone wants more than that is a mistake in the settings.
            alone = max((compiled.options.concurrency for compiled in transactional), default=1)
            logger.log(
                logging.WARNING if free < alone else logging.INFO,
                "the engine's pool has %d connections; %d handler transactions run at once instead of %d (concurrency of all subscriptions). "
                "Raise pool_size to %d, or lower concurrency", capacity, free, wanted, wanted + ours + 1,
            )  # fmt: skip
        return min(free, wanted)


def _name_of(part: object) -> str:
    return str(getattr(part, "reader", None) or getattr(part, "name", None) or f"the {type(part).__name__.lower()}")


def _why(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "it was cancelled"
    error = task.exception()
    if isinstance(error, BaseExceptionGroup):
        error = cause_of(error)
    return "it has ended" if error is None else f"{type(error).__name__}: {error}"


async def _tell(callback: Callable[..., Awaitable[None] | None], told: object) -> None:
    try:
        result = callback(told)
        if result is not None:
            await result
    except Exception:
        logger.exception("a callback for %s failed", type(told).__name__)
