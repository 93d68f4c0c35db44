"""Which handler gets an event, in which version. Worked out once at start."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tidings.consume.breaker import Breaker, Circuit
from tidings.consume.counters import Counters, Histogram
from tidings.consume.filters import Filters
from tidings.consume.injection import Plan, plan
from tidings.consume.limits import Limit
from tidings.consume.providers import Providers
from tidings.consume.retry import Retry
from tidings.consume.subscriptions import Subscription, SubscriptionOptions
from tidings.contracts import Contract, EventType
from tidings.errors import ConfigurationError

if TYPE_CHECKING:
    # It needs what needs this.
    from tidings.consume.environments import Claims
    from tidings.consume.gate import Gate

__all__ = ["MAX_HOPS", "Compiled", "Route", "compile_subscription", "event_types"]


#: How many handlers may have led to an event, where nobody says otherwise.
MAX_HOPS = 10


@dataclass(frozen=True, slots=True)
class Route:
    """One handler, and how the data of one version becomes the event that it takes."""

    plan: Plan
    decode: Callable[[Any], Any]


@dataclass(slots=True)
class Compiled:
    """A subscription that is ready to run.

    Attributes:
        routes: by (name, version); None where this subscription has nothing to do with that version.
        names: the event names that it handles.
        newest: the newest version of each name that this process knows; a newer one waits for newer code.
        max_hops: how many handlers may have led to an event that is still handled.
        filters: what is around every call; None for nothing.
        claims: what keeps other environments from handling what this one does; None where there are none.
        limit: what holds over all processes; `gate` is what keeps it in this one.
        took, lag: how long its handlers take, a call at a time, and how long ago events were published when they were handled.
    """

    name: str
    group: str
    options: SubscriptionOptions
    retry: Retry
    routes: dict[tuple[str, int | None], Route | None]
    names: tuple[str, ...]
    newest: dict[str, int]
    transactional: bool
    batch: int | None
    circuit: Circuit
    limit: Limit = field(default_factory=Limit)
    gate: Gate | None = None
    took: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)
    id: int = 0
    label: str = field(default="")
    max_hops: int = MAX_HOPS
    filters: Filters | None = None
    claims: Claims | None = None

    def count_in(self, counters: Counters) -> None:
        """Let these counters have what is measured of it."""
        self.took = counters.histogram(self.label, "took")
        self.lag = counters.histogram(self.label, "lag")


def event_types(contracts: Sequence[Contract]) -> dict[type[Any], EventType[Any]]:
    """Return every event class of the contracts.

    Raises:
        ConfigurationError: two contracts have an event of the same name, or the same class.
    """
    types: dict[type[Any], EventType[Any]] = {}
    owners: dict[str, Contract] = {}
    for contract in dict.fromkeys(contracts):
        contract.check()
        for event_type in contract:
            owner = owners.setdefault(event_type.name, contract)
            if owner is not contract:
                raise ConfigurationError(
                    f"the event {event_type.name!r} is in two contracts, {owner.name!r} and {contract.name!r}: names are global"
                )
            if event_type.cls in types:
                raise ConfigurationError(f"the class {event_type.cls.__qualname__} is in two contracts: an event belongs to one")
            types[event_type.cls] = event_type
    return types


def compile_subscription(
    subscription: Subscription,
    types: dict[type[Any], EventType[Any]],
    group: str,
    retry: Retry,
    providers: Providers,
    *,
    breaker: Breaker | None = None,
    limit: Limit | None = None,
    async_engine: bool,
    driver: str | None = None,
    replies: bool = False,
) -> Compiled:
    """Resolve the handlers of a subscription.

    A version that has a handler of its own goes there; another one goes to the handler of the nearest newer version that upcasters reach.

    Args:
        replies: whether events may ask for a reply: what a handler that is annotated to return an event returns, published in its transaction.

    Raises:
        ConfigurationError: no handlers, an event class of no contract, or a handler that cannot be called.
    """
    if not subscription.handlers:
        raise ConfigurationError(
            f"subscription {subscription.name!r} has no handlers: add one with @{subscription.name.replace('-', '_')}.on(Event)"
        )
    plans: dict[type[Any], Plan] = {}
    for declared in subscription.handlers:
        for cls in declared.events:
            if cls not in types:
                raise ConfigurationError(
                    f"subscription {subscription.name!r} handles {cls.__qualname__}, which is in none of the service's contracts: "
                    "declare it with @contract.event(...) and give that contract to Service(contracts=[...])"
                )
        resolved = plan(declared.function, declared.events, declared.batch, providers, async_engine=async_engine, driver=driver)
        if replies and declared.batch is None and _returns_events(resolved.returns, types):
            resolved = replace(resolved, replies=True, transactional=True)
        plans.update(dict.fromkeys(declared.events, resolved))
    names = tuple(dict.fromkeys(types[cls].name for cls in plans))
    by_name: dict[str, list[EventType[Any]]] = {name: [] for name in names}
    for event_type in types.values():
        if event_type.name in by_name:
            by_name[event_type.name].append(event_type)
    routes: dict[tuple[str, int | None], Route | None] = {}
    for name, versions in by_name.items():
        handled = sorted((t for t in versions if t.cls in plans), key=lambda t: t.version or 0)
        for event_type in versions:
            routes[name, event_type.version] = _route(event_type, handled, plans)
    every = list(plans.values())
    own, usual = subscription.options.limit, limit or Limit()
    limit = Limit(own.concurrency or usual.concurrency, own.rate or usual.rate)
    options = replace(subscription.options, concurrency=limit.concurrency or subscription.options.concurrency)
    if any(p.alone for p in every):
        options = replace(options, shared=False)
    return Compiled(
        subscription.name, group, options, subscription.options.retry or retry, routes, names,
        newest={name: max((t.version or 0) for t in versions) for name, versions in by_name.items()},
        transactional=any(p.transactional for p in every),
        batch=every[0].batch,
        limit=limit,
        circuit=Circuit(subscription.options.breaker or breaker, label=f"{group}/{subscription.name}"),
        label=f"{group}/{subscription.name}",
    )  # fmt: skip


def _returns_events(hint: Any, types: dict[type[Any], EventType[Any]]) -> bool:
    return hint in types or any(_returns_events(part, types) for part in typing.get_args(hint))


def _route(event_type: EventType[Any], handled: Iterable[EventType[Any]], plans: dict[type[Any], Plan]) -> Route | None:
    if event_type.cls in plans:
        return Route(plans[event_type.cls], event_type.decode)
    contract = event_type.contract
    for target in handled:
        if (target.version or 0) > (event_type.version or 0) and contract.path(
            event_type.name, event_type.version, target.version
        ) is not None:
            return Route(plans[target.cls], _upcast(contract, event_type, target))
    return None


def _upcast(contract: Contract, old: EventType[Any], new: EventType[Any]) -> Callable[[Any], Any]:
    return lambda data: contract.upcast_to(old, data, new)
