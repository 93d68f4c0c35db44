"""The types of events, from three sources: what was published lately, what is subscribed to, and the service's own contracts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidings.dashboard.desk import Topic
from tidings.stores.sql.queries import Subscription

if TYPE_CHECKING:
    from tidings.service import Service

__all__ = ["topics_of"]


class _Found:
    def __init__(self) -> None:
        self.versions: set[int | None] = set()
        self.topics: set[str] = set()
        self.publishers: set[str] = set()
        self.subscribers: list[str] = []
        self.contract: str | None = None
        self.about = ""
        self.lately = 0
        self.last: datetime | None = None


def topics_of(kinds: Iterable[Sequence[Any]], subscriptions: Iterable[Subscription], service: Service | None) -> list[Topic]:
    """Return every type that is known, by name."""
    found: dict[str, _Found] = {}
    for contract in () if service is None else service.contracts:
        for event_type in contract:
            item = found.setdefault(event_type.name, _Found())
            item.versions.add(event_type.version)
            item.contract = contract.name
            item.about = item.about or (event_type.cls.__doc__ or "").strip().partition("\n")[0]
    for source, name, version, topic, count, last in kinds:
        item = found.setdefault(name, _Found())
        item.versions.add(version)
        item.topics.add(topic)
        item.publishers.add(source)
        item.lately += count
        item.last = max(filter(None, (item.last, last)), default=None)
    for subscription in subscriptions:
        if subscription.state != "retired":
            for name in subscription.events:
                found.setdefault(name, _Found()).subscribers.append(subscription.title)
    return [
        Topic(
            name, tuple(sorted(item.versions, key=lambda version: version or 0)), tuple(sorted(item.topics)), tuple(sorted(item.publishers)),
            tuple(sorted(item.subscribers)), item.contract, item.about, item.lately, item.last,
        )
        for name, item in sorted(found.items())
    ]  # fmt: skip
