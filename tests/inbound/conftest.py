"""Worlds for groups that read from brokers, on SQLite and PostgreSQL; brokers when a test asks for one."""

from __future__ import annotations

from tests.cli.conftest import cli
from tests.consume.conftest import pg_world, world
from tests.transports.conftest import kafka_url, nats_url, rabbitmq_url, redis_url

__all__ = ["cli", "kafka_url", "nats_url", "pg_world", "rabbitmq_url", "redis_url", "world"]
