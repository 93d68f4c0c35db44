"""What a service refuses before it does anything, with the value and the remedy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tidings.consume.breaker import Breaker
from tidings.consume.limits import Limit
from tidings.consume.retry import Retry
from tidings.consume.routing import Compiled
from tidings.consume.sources import sources_of
from tidings.consume.strangers import INBOUND
from tidings.consume.subscriptions import GROUPS, Subscriptions, is_group
from tidings.context.keys import ContextKey
from tidings.contracts import Contract
from tidings.errors import ConfigurationError
from tidings.relay.routing import PREFIX, Routing, is_relay, relay_name
from tidings.runtime import ROLES
from tidings.stores.base import Retention
from tidings.stores.sql.store import SQLStore

__all__ = [
    "check_callback",
    "check_collections",
    "check_context",
    "check_retention",
    "check_roles",
    "check_settings",
    "check_start",
    "check_subscriptions",
]


def check_settings(
    *, name: object, store: object, provision: object, retry: object, breaker: object, limit: object, subscription_limit: object, environment: object,
    max_hops: object, max_message_bytes: object, grace: object, start: object,
) -> None:  # fmt: skip
    """Refuse values that `Service` cannot use.

    Raises:
        ConfigurationError: one of them, named, with what to give instead.
    """
    if not is_group(name):
        raise ConfigurationError(f"Service name={name!r}: give {GROUPS}")
    if not isinstance(store, SQLStore):
        raise ConfigurationError(f"Service store={store!r}: give SQLStore(engine)")
    if provision not in ("create", "verify", "off"):
        raise ConfigurationError(f"Service provision={provision!r}: give 'create', 'verify' or 'off'")
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigurationError(f"Service retry={retry!r}: give a Retry(...), e.g. Retry(attempts=5), or nothing")
    if breaker is not None and not isinstance(breaker, Breaker):
        raise ConfigurationError(f"Service breaker={breaker!r}: give a Breaker(...), or nothing")
    for what, given in (("limit", limit), ("subscription_limit", subscription_limit)):
        if given is not None and not isinstance(given, Limit):
            raise ConfigurationError(f"Service {what}={given!r}: give a Limit(...), e.g. Limit(concurrency=20), or nothing")
    if environment is not None and (
        not isinstance(environment, str) or not environment or not environment.isprintable() or " " in environment
    ):
        raise ConfigurationError(f"Service environment={environment!r}: give printable characters without spaces, e.g. 'prod', or nothing")
    if not _is_whole(max_hops) or not 1 <= max_hops <= 1000:  # type: ignore[operator]
        raise ConfigurationError(f"Service max_hops={max_hops!r}: give a whole number from 1 to 1000")
    if not _is_whole(max_message_bytes) or max_message_bytes < 1024:  # type: ignore[operator]
        raise ConfigurationError(f"Service max_message_bytes={max_message_bytes!r}: give a whole number of at least 1024")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < math.inf:
        raise ConfigurationError(f"Service grace={grace!r}: give a number of seconds, 0 or more")
    for group, first in start.items() if isinstance(start, Mapping) else [(None, start)]:
        if first not in ("earliest", "now"):
            of_it = "" if group is None else f"[{group!r}]"
            raise ConfigurationError(
                f"Service start{of_it}={first!r}: give 'earliest' or 'now', or those by group, e.g. {{'billing': 'now'}}"
            )


def check_collections(
    *, contracts: object, subscriptions: object, context: object, roles: object, routes: object, same_database: object
) -> None:
    """Refuse what is no list, or has something else in it.

    Raises:
        ConfigurationError: one of them, named, with what to give instead.
    """
    _listed("contracts", contracts, Contract, "contracts, e.g. [orders]")
    _listed("subscriptions", subscriptions, Subscriptions, "Subscriptions, e.g. [handlers]")
    _listed("context", context, ContextKey, "keys, e.g. [REGION]")
    _listed("same_database", same_database, (Engine, AsyncEngine, Connection, AsyncConnection), "SQLAlchemy engines")
    check_roles(roles)
    if routes is not None and not isinstance(routes, Mapping):
        raise ConfigurationError(
            f"Service routes={routes!r}: give a dictionary from contracts and topics to transports, e.g. {{orders: Kafka(url)}}"
        )


def check_roles(roles: object) -> None:
    """Refuse roles that there are not.

    Raises:
        ConfigurationError: which, and those that there are.
    """
    given = _listed("roles", roles, str, "roles, e.g. ['consume']")
    if unknown := sorted({role for role in given if role not in ROLES}):
        raise ConfigurationError(f"Service roles={unknown!r}: there are {', '.join(sorted(ROLES))}")


def check_callback(what: str, callback: object) -> None:
    """Refuse what cannot be called when it is too late to say so.

    Raises:
        ConfigurationError: what was given.
    """
    if not callable(callback):
        raise ConfigurationError(f"{what}({callback!r}): give a function of one argument")


def _is_whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _listed(what: str, given: object, kind: Any, example: str) -> list[Any]:
    # One thing that is given without its brackets would be taken for its parts.
    if isinstance(given, (str, bytes, kind)) or not isinstance(given, Collection):
        raise ConfigurationError(f"Service {what}={given!r}: give a list of {example}")
    items = list(given)
    for item in items:
        if not isinstance(item, kind):
            raise ConfigurationError(f"Service {what} has {item!r}: give a list of {example}")
    return items


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


def check_context(keys: Sequence[ContextKey[Any]], routing: Routing) -> None:
    """Refuse keys of the context whose headers cannot travel."""
    for key in keys:
        if reason := routing.collision(key.header):
            raise ConfigurationError(f"Service context: header {key.header!r} {reason}")


def check_start(start: Mapping[str, str] | str, compiled: Sequence[Compiled], routing: Routing) -> None:
    """Refuse a start for a group or relay that there is not: the one that was meant would begin with all that the log has.

    Where there is no group at all, or no broker, their starts may be there: one setting for every process, and for development without a broker.

    Raises:
        ConfigurationError: the name, and those that there are.
    """
    # With routing by environment, the groups of this environment have its name behind them.
    groups = {item.group.partition("@")[0] for item in compiled}
    relays = {relay_name(transport) for transport in routing.brokers}
    for name in start if isinstance(start, Mapping) else ():
        known = relays if is_relay(name) else groups
        if known and name not in known:
            raise ConfigurationError(
                f"Service start has {name!r}, and there is no such {'relay' if is_relay(name) else 'group'}: {', '.join(sorted(known))}"
            )


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
