"""Tidings: integration events for Python.

A fact that one module or service has committed becomes known to every other one that cares: atomically with the database transaction, at
least once, in order per key, versioned, its effects applied once. The names here are the public API; everything else is importable from
its package. Importing this package loads neither SQLAlchemy nor any driver, broker client or web framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidings.consume.breaker import Breaker
    from tidings.consume.dead import Dead
    from tidings.consume.environments import EnvironmentRouting
    from tidings.consume.execute import Execute, ExecuteSync
    from tidings.consume.limits import Limit, Rate
    from tidings.consume.retry import Discard, Reject, Retry, RetryLater
    from tidings.consume.subscriptions import Subscription, Subscriptions
    from tidings.contracts import Contract, PartitionKey
    from tidings.domain.aggregates import AggregateRoot, DomainEvents
    from tidings.envelope import Envelope
    from tidings.errors import TidingsError
    from tidings.ids import uuid7
    from tidings.publish.publish import Publish
    from tidings.service import Service

__version__ = "0.1.0"

__all__ = [
    "AggregateRoot",
    "Breaker",
    "Contract",
    "Dead",
    "Discard",
    "DomainEvents",
    "Envelope",
    "EnvironmentRouting",
    "Execute",
    "ExecuteSync",
    "Limit",
    "PartitionKey",
    "Publish",
    "Rate",
    "Reject",
    "Retry",
    "RetryLater",
    "Service",
    "Subscription",
    "Subscriptions",
    "TidingsError",
    "uuid7",
]

_HOMES = {
    "AggregateRoot": "tidings.domain.aggregates",
    "Breaker": "tidings.consume.breaker",
    "Contract": "tidings.contracts",
    "Dead": "tidings.consume.dead",
    "Discard": "tidings.consume.retry",
    "DomainEvents": "tidings.domain.aggregates",
    "Envelope": "tidings.envelope",
    "EnvironmentRouting": "tidings.consume.environments",
    "Execute": "tidings.consume.execute",
    "ExecuteSync": "tidings.consume.execute",
    "Limit": "tidings.consume.limits",
    "PartitionKey": "tidings.contracts",
    "Publish": "tidings.publish.publish",
    "Rate": "tidings.consume.limits",
    "Reject": "tidings.consume.retry",
    "Retry": "tidings.consume.retry",
    "RetryLater": "tidings.consume.retry",
    "Service": "tidings.service",
    "Subscription": "tidings.consume.subscriptions",
    "Subscriptions": "tidings.consume.subscriptions",
    "TidingsError": "tidings.errors",
    "uuid7": "tidings.ids",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'tidings' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("sqlalchemy", "greenlet"):
            raise
        from tidings.errors import MissingExtra

        raise MissingExtra(f"tidings.{name}", "sqlalchemy") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
