from __future__ import annotations

import pytest

from tidings.transports.urls import described


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:secret@host:5672/vhost?cert=secret", "amqp://host:5672"),
        ("nats://secret@one:4222, tls://:secret@two", "nats://one:4222,tls://two"),
        ("redis://:secret@[::1]:6379/0", "redis://[::1]:6379"),
        ("host:9092", "host:9092"),
        ("amqp://user:secret@host:port/", "(an unreadable address)"),
        ("kafka://user:12,34@host:9092", "kafka://host:9092"),
        ("user:12,34@host:9092", "host:9092"),
        ("amqp://user:12/34@host:5672/", "(an unreadable address)"),
    ],
)
def test_an_address_is_shown_without_who_connects(url: str, shown: str) -> None:
    assert described(url) == shown
