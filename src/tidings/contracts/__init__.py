"""Contracts: the events that a module promises to others, by name and version, with their keys, topics and upcasters.

A contract is a value. It needs neither database nor broker, so every service can import every other one's.
"""

from __future__ import annotations

from tidings.contracts.contract import Contract
from tidings.contracts.event_type import EventType
from tidings.contracts.keys import PartitionKey, key_text, normalize_key
from tidings.contracts.naming import TopicNamer, by_aggregate, by_class_name, by_event_name, by_module, by_segments

__all__ = [
    "Contract",
    "EventType",
    "PartitionKey",
    "TopicNamer",
    "by_aggregate",
    "by_class_name",
    "by_event_name",
    "by_module",
    "by_segments",
    "key_text",
    "normalize_key",
]
