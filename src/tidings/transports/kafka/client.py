"""Kafka's client, loaded when it is used, and what its sending and receiving sides share."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tidings.errors import MissingExtra

__all__ = ["CONTENT_TYPE", "load_kafka"]

#: The header that says what the body is.
CONTENT_TYPE = "content-type"


def load_kafka() -> Any:
    """Return the client library; MissingExtra without it."""
    try:
        import_module("confluent_kafka.admin")
        return import_module("confluent_kafka")
    except ModuleNotFoundError as error:
        raise MissingExtra("tidings.transports.kafka", "kafka") from error
