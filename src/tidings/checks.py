"""What a service refuses before it does anything, with the value and the remedy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from tidings.consume.breaker import Breaker
from tidings.consume.limits import Limit
from tidings.consume.routing import Compiled
from tidings.consume.sources import sources_of
from tidings.consume.strangers import INBOUND
from tidings.context.keys import ContextKey
from tidings.errors import ConfigurationError
from tidings.relay.routing import PREFIX, Routing, is_relay
from tidings.runtime import ROLES
from tidings.stores.base import Retention
from tidings.stores.sql.store import SQLStore

__all__ = ["check_context", "check_retention", "check_settings", "check_subscriptions"]


def check_settings(
    *, name: object, store: object, provision: object, roles: Collection[Any], breaker: object, limit: object, subscription_limit: object,
    max_hops: object, max_message_bytes: int,
) -> None:  # fmt: skip
    """Refuse values that `Service` cannot use.

    Raises:
        ConfigurationError: one of them, named, with what to give instead.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable() or any(c in name for c in "/@ "):
        raise ConfigurationError(f"Service name={name!r}: give 1 to 100 printable characters without '/', '@' or spaces")
    if not isinstance(store, SQLStore):
        raise ConfigurationError(f"Service store={store!r}: give SQLStore(engine)")
    if provision not in ("create", "verify", "off"):
        raise ConfigurationError(f"Service provision={provision!r}: give 'create', 'verify' or 'off'")
    if unknown := set(roles) - ROLES:
        raise ConfigurationError(f"Service roles={sorted(unknown)!r}: there are {', '.join(sorted(ROLES))}")
    if breaker is not None and not isinstance(breaker, Breaker):
        raise ConfigurationError(f"Service breaker={breaker!r}: give a Breaker(...), or nothing")
    for what, given in (("limit", limit), ("subscription_limit", subscription_limit)):
        if given is not None and not isinstance(given, Limit):
            raise ConfigurationError(f"Service {what}={given!r}: give a Limit(...), e.g. Limit(concurrency=20), or nothing")
    if not isinstance(max_hops, int) or not 1 <= max_hops <= 1000:
        raise ConfigurationError(f"Service max_hops={max_hops!r}: give a whole number from 1 to 1000")
    if max_message_bytes < 1024:
        raise ConfigurationError(f"Service max_message_bytes={max_message_bytes}: give at least 1024")


def check_retention(
    *, outbox_retention: object, inbox_retention: object, dead_retention: object, audit_retention: object, operations_retention: object
) -> Retention:
    """Return them in seconds.

    Raises:
        ConfigurationError: one of them is no time, or not more than none.
    """
    seconds: list[float | None] = []
    for what, given, optional in (
        ("outbox_retention", outbox_retention, False), ("inbox_retention", inbox_retention, False),
        ("dead_retention", dead_retention, True), ("audit_retention", audit_retention, True), ("operations_retention", operations_retention, True),
    ):  # fmt: skip
        if (given is None and not optional) or (given is not None and (not isinstance(given, timedelta) or given <= timedelta(0))):
            raise ConfigurationError(f"Service {what}={given!r}: give a timedelta above 0{', or None for ever' if optional else ''}")
        seconds.append(given.total_seconds() if isinstance(given, timedelta) else None)
    return Retention(*seconds)  # type: ignore[arg-type]


def check_context(keys: Sequence[object], routing: Routing) -> None:
    """Refuse keys of the context whose headers cannot travel."""
    for key in keys:
        if not isinstance(key, ContextKey):
            raise ConfigurationError(f"Service context: {key!r} is no ContextKey(...)")
        if reason := routing.collision(key.header):
            raise ConfigurationError(f"Service context: header {key.header!r} {reason}")


def check_subscriptions(compiled: Sequence[Compiled], routing: Routing, *, environments: bool) -> None:
    """Refuse subscriptions whose names are taken, or that cannot be kept apart by environment."""
    seen: set[tuple[str, str]] = set()
    for item in compiled:
        if item.name.startswith(INBOUND):
            raise ConfigurationError(f"subscription {item.name!r}: names that begin with {INBOUND} are taken; give it another one")
        if is_relay(item.group):
            raise ConfigurationError(f"subscription {item.name!r}: groups called {PREFIX}... are those of relays; give it another group")
        if (item.group, item.name) in seen:
            raise ConfigurationError(f"two subscriptions of group {item.group!r} are named {item.name!r}: give one of them name='...'")
        seen.add((item.group, item.name))
    if environments and any(sources_of(compiled, routing).feeds):
        raise ConfigurationError(
            "route_by_environment is for subscriptions that read the log of the store, and some of these are fed by a broker: let them read the "
            "log, transport=[broker, Local()], or keep environments apart at the broker by topics, Service(environment=...) alone"
        )
