"""How long brokers keep what subscriptions read from them, beside how long the inbox remembers and how long handlers may be away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tidings.cli.finding import Finding
from tidings.cli.text import duration

if TYPE_CHECKING:
    from tidings.service import Service
    from tidings.transports.base import Kept

__all__ = ["Retained", "ask", "judge"]

#: Most topics that a sentence names.
_NAMED = 3


class Retained(NamedTuple):
    """What a group reads from a broker, and how long it is kept there.

    Attributes:
        by_position: whether its place is in the store, beside the inbox, or at the broker.
        kept: None when the broker did not say.
    """

    broker: str
    group: str
    topics: tuple[str, ...]
    by_position: bool
    kept: Kept | None


async def ask(service: Service, seconds: float) -> list[Retained]:
    """Ask the brokers that the service's subscriptions read from, each for so many seconds; those that keep nothing are left out."""
    from tidings.consume.sources import sources_of
    from tidings.transports.base import Keeps

    found: list[Retained] = []
    for feed in sources_of(service._compile(), service.routing).feeds:
        if not isinstance(feed.transport, Keeps):
            continue
        try:
            async with asyncio.timeout(seconds):
                answers = await feed.transport.kept(feed.topics)
        except Exception:  # noqa: BLE001 - that it cannot be reached, and why, is a finding of its own
            found.append(Retained(feed.transport.name, feed.group, feed.topics, feed.by_position, None))
            continue
        alike: dict[Kept, list[str]] = {}
        for topic, kept in sorted(answers.items()):
            alike.setdefault(kept, []).append(topic)
        found += [Retained(feed.transport.name, feed.group, tuple(topics), feed.by_position, kept) for kept, topics in alike.items()]
    return found


def judge(found: Iterable[Retained], inbox: float, outage: float) -> Iterator[Finding]:
    """Compare with how long the inbox remembers, and with how long handlers may be away, in seconds. Pure."""
    for item in found:
        if item.kept is None:
            yield Finding("note", "retention", f"{item.broker} did not say how long it keeps {_named(item.topics)}")
            continue
        seconds, setting, sooner = item.kept
        long = "for ever" if seconds is None else f"for {duration(seconds)}"
        keeps = f"{item.broker} keeps {_named(item.topics)} {long} ({setting})"
        if seconds is None or seconds > inbox:
            remedy = f"let the broker keep them for less than inbox_retention ({duration(inbox)}), or raise that"
            if item.by_position:
                yield Finding(
                    "note", "retention", f"{keeps}, longer than the inbox remembers what group {item.group!r} has handled: whoever sets its "
                    f"position in the store back, or brings a stream back from a backup, has older events handled again; {remedy}",
                )  # fmt: skip
            else:
                yield Finding(
                    "problem", "retention", f"{keeps}, longer than the inbox remembers what group {item.group!r} has handled: when its place at "
                    f"the broker expires or is reset, older events come again and are handled again; {remedy}",
                )  # fmt: skip
        if seconds is not None and seconds < outage:
            yield Finding(
                "problem", "retention", f"{keeps}: what group {item.group!r} has not received by then is lost, and handlers may be away for "
                f"{duration(outage)}; let the broker keep them longer, or say with --outage how long that may be",
            )  # fmt: skip
        elif seconds is not None and seconds <= inbox:
            yield Finding("ok", "retention", f"{keeps}, longer than handlers may be away, and the inbox remembers longer")
        if sooner:
            yield Finding(
                "note", "retention", f"{item.broker} takes messages of {_named(item.topics)} away earlier when there are many ({sooner}), whether "
                f"group {item.group!r} has received them or not",
            )  # fmt: skip


def _named(topics: Sequence[str]) -> str:
    more = len(topics) - _NAMED
    return ", ".join(topics[:_NAMED]) + (f" and {more} more" if more > 0 else "")
