"""How the service of a run gets to its broker: impatient, so that a run of seconds sees many losses."""

from __future__ import annotations

from chaos.settings import Settings
from tidings.transports import NATS, Kafka, RabbitMQ, Redis
from tidings.transports.base import Transport

__all__ = ["BROKERS", "transport_of"]

BROKERS = ("rabbitmq", "kafka", "nats", "redis")

#: Seconds without an answer after which a connection is over; less than the longest silence.
_TIMEOUT = 3.0
#: Seconds after which somebody else gets what a process held that is gone, or was stopped for so long.
_IDLE = 4.0


def transport_of(settings: Settings) -> Transport | None:
    """Return the transport; None without a broker. Every other seed spreads a group of RabbitMQ over several queues."""
    url = settings.broker
    if settings.transport == "rabbitmq":
        return RabbitMQ(f"{url}?heartbeat=2", timeout=_TIMEOUT, partitions=3 if settings.seed % 2 else None)
    if settings.transport == "kafka":
        return Kafka(url, timeout=_TIMEOUT, partitions=5, session=_IDLE, drain=1.0)
    if settings.transport == "nats":
        return NATS(url, timeout=_TIMEOUT, idle=_IDLE)
    if settings.transport == "redis":
        return Redis(url, timeout=_TIMEOUT, idle=_IDLE)
    return None
