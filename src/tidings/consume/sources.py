"""Which group reads what from where: the log, or a broker. Pure, worked out once at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidings.consume.routing import Compiled
from tidings.contracts import EventType
from tidings.errors import ConfigurationError
from tidings.relay.routing import Routing
from tidings.transports.base import Log, Transport

__all__ = ["Feed", "Sources", "sources_of"]


@dataclass(frozen=True, slots=True)
class Feed:
    """What one group reads from one broker.

    Attributes:
        group: its name in the store, and at the broker.
        topics, names: what it reads, and which events that are; sorted.
        subscriptions: those that have something there.
        by_position: one reader at a time reads the topics as logs, from our own checkpoint, because that is what keeps them in order. Else the
            broker divides the messages among all receivers of the group.
        unordered: the subscriptions that want order and do not get it from this broker.
    """

    group: str
    transport: Transport
    topics: tuple[str, ...]
    names: tuple[str, ...]
    subscriptions: tuple[Compiled, ...]
    by_position: bool
    unordered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What all groups of a service read.

    Attributes:
        log: groups with the subscriptions that read the log.
        feeds: what comes from brokers.
    """

    log: Mapping[str, Sequence[Compiled]]
    feeds: Sequence[Feed]

    def groups(self, transport: Transport) -> dict[str, list[str]]:
        """Return the groups that a broker needs, with their topics; those who read by position need none."""
        return {feed.group: list(feed.topics) for feed in self.feeds if feed.transport == transport and not feed.by_position}

    def topics(self, transport: Transport) -> set[str]:
        """Return the topics that are read from a broker."""
        return {topic for feed in self.feeds if feed.transport == transport for topic in feed.topics}


def sources_of(subscriptions: Sequence[Compiled], routing: Routing | None) -> Sources:
    """Return where the subscriptions read.

    Raises:
        ConfigurationError: a subscription wants several event types in order which are on different topics of a broker that keeps none between
            topics.
    """
    log: dict[str, list[Compiled]] = {}
    found: dict[tuple[str, str], dict[int, tuple[Compiled, set[str]]]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    transports: dict[str, Transport] = {}
    for number, compiled in enumerate(subscriptions):
        local = routing is None
        for kind in _kinds(compiled, routing):
            assert routing is not None
            topic = kind.topic(routing.environment)
            transport = routing.source(kind, topic)
            if transport is None:
                local = True
                continue
            transports[transport.name] = transport
            fed = found.setdefault((compiled.group, transport.name), {})
            fed.setdefault(number, (compiled, set()))[1].add(topic)
            names.setdefault((compiled.group, transport.name), set()).add(kind.name)
        if local:
            log.setdefault(compiled.group, []).append(compiled)
    feeds = [_feed(group, transports[name], sorted(names[group, name]), list(fed.values())) for (group, name), fed in found.items()]
    return Sources(log, feeds)


def _kinds(compiled: Compiled, routing: Routing | None) -> list[EventType[Any]]:
    """Return the versions that a subscription can handle."""
    if routing is None:
        return []
    kinds = [routing.type_of(*known) for known, route in compiled.routes.items() if route is not None]
    return [kind for kind in kinds if kind is not None]


def _feed(group: str, transport: Transport, names: Sequence[str], fed: Sequence[tuple[Compiled, set[str]]]) -> Feed:
    ordered = [(compiled, topics) for compiled, topics in fed if compiled.options.ordered]
    for compiled, topics in ordered:
        if len(topics) > 1 and not _keeps_order_across_topics(transport):
            raise ConfigurationError(
                f"subscription {compiled.label!r} handles events of the topics {', '.join(sorted(topics))} in order, and {transport.name!r} "
                "keeps no order between topics: give these events one topic, @contract.event(..., entity='order'), or say ordered=False, or "
                "make several subscriptions of it"
            )
    by_position = bool(ordered) and not transport.ordered and isinstance(transport, Log)
    unordered = () if by_position or transport.ordered else tuple(compiled.label for compiled, _ in ordered)
    every = tuple(sorted({topic for _, topics in fed for topic in topics}))
    return Feed(group, transport, every, tuple(names), tuple(compiled for compiled, _ in fed), by_position, unordered)


def _keeps_order_across_topics(transport: Transport) -> bool:
    """Whether a group has one queue for all of its topics, and not one for each."""
    return bool(getattr(transport, "across_topics", False)) or not (transport.ordered or isinstance(transport, Log))
