"""NATS JetStream: what streams and consumers are called."""

from __future__ import annotations

import re

__all__ = ["consumer_of", "stream_of"]

# What a stream may not be called, besides white space, which a topic has not.
_SEPARATORS = re.compile(r"[.*>/\\]")


def stream_of(topic: str) -> str:
    """Return the name of a topic's stream: the same with `_` for what has a meaning there."""
    return _SEPARATORS.sub("_", topic)


def consumer_of(group: str, topic: str) -> str:
    """Return the name of a group's consumer of a topic; a stream may have several topics."""
    return _SEPARATORS.sub("_", f"{group}-{topic}")
