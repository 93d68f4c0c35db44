"""What differs from one deployment to the next, from environment variables. Without any of them: one SQLite file and no broker."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tidings.stores.sqlite import configure
from tidings.transports import NATS, Kafka, Local, RabbitMQ, Redis

__all__ = ["Settings", "create_engine"]

_BROKERS: dict[str, Any] = {"amqp": RabbitMQ, "amqps": RabbitMQ, "nats": NATS, "tls": NATS, "redis": Redis, "rediss": Redis, "kafka": Kafka}


@dataclass(frozen=True)
class Settings:
    """Where the data is, and how events travel.

    Attributes:
        database: of the application, for an asynchronous engine.
        notifications_database: of the other service. Without a broker the two have to share one; with one, each has its own.
        broker: `amqp://`, `nats://`, `redis://` or `kafka://host:port`; None is no broker.
        broker_options: further arguments of the transport.
        environment: part of some topics; an environment other than `dev` is a canary beside it, and handles its own events.
        mail_retry: seconds before a mail is tried again.
    """

    database: str = "sqlite+aiosqlite:///rentals.sqlite"
    notifications_database: str = ""
    broker: str | None = None
    broker_options: dict[str, Any] = field(default_factory=dict)
    environment: str = "dev"
    mail_retry: float = 1.0

    @classmethod
    def from_environment(cls) -> Settings:
        """Read RENTALS_DATABASE, NOTIFICATIONS_DATABASE, RENTALS_BROKER, RENTALS_ENVIRONMENT and NOTIFICATIONS_RETRY."""
        database = os.environ.get("RENTALS_DATABASE", cls.database)
        return cls(
            database,
            os.environ.get("NOTIFICATIONS_DATABASE", ""),
            os.environ.get("RENTALS_BROKER"),
            environment=os.environ.get("RENTALS_ENVIRONMENT", cls.environment),
            mail_retry=float(os.environ.get("NOTIFICATIONS_RETRY", cls.mail_retry)),
        )

    def transport(self) -> Any:
        """Return the one thing that a broker changes."""
        if self.broker is None:
            return Local()
        scheme, address = urlsplit(self.broker).scheme, self.broker
        return _BROKERS[scheme](address.removeprefix("kafka://"), **self.broker_options)


def create_engine(url: str) -> AsyncEngine:
    """Return an engine for either database. Nothing is connected yet."""
    engine = create_async_engine(url, pool_size=10, max_overflow=20)
    if engine.dialect.name == "sqlite":
        configure(engine)
    return engine
