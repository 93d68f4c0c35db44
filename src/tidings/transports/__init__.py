"""Transports: how events leave a service and reach another. `Local` is none: the log goes straight to this service's own subscribers.

The brokers' adapters are loaded when they are asked for, and the client of a broker when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tidings.transports.local import Local

if TYPE_CHECKING:
    from tidings.transports.kafka import Kafka
    from tidings.transports.nats import NATS
    from tidings.transports.rabbitmq import RabbitMQ
    from tidings.transports.redis import Redis

__all__ = ["NATS", "Kafka", "Local", "RabbitMQ", "Redis"]

_MODULES = {"Kafka": "kafka", "NATS": "nats", "RabbitMQ": "rabbitmq", "Redis": "redis"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
