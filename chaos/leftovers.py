"""What is left at the broker when everything is handled: what was received and never acknowledged would come again, for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.settings import Settings
from chaos.worker import make_service
from tidings.consume.sources import Feed, sources_of

__all__ = ["leftovers"]

#: Seconds without a message after which there is none: more than the broker waits before it hands out again what a dead process held.
_QUIET = 6.0


async def leftovers(settings: Settings, directory: Path, places: Mapping[str, str | None]) -> list[str]:
    """Return what is left for each group, in sentences; nobody may be at work.

    Args:
        places: the checkpoints of those that read by position, by group.
    """
    service = make_service(settings, directory, 0, lambda: True)
    feeds = sources_of(service._compile(), service.routing).feeds
    found = await asyncio.gather(*(_left(feed, places.get(feed.group)) for feed in feeds))
    return [
        f"stuck: {len(left)} messages for the group {feed.group} are left at the broker, for example {left[0]}"
        for feed, left in zip(feeds, found, strict=True)
        if left
    ]


async def _left(feed: Feed, place: str | None) -> list[str]:
    transport: Any = feed.transport
    if feed.by_position:
        positions = json.loads(place) if place else {}
        receiver = await transport.reader({topic: positions.get(topic, "") for topic in feed.topics})
    else:
        receiver = await transport.receiver(feed.group, feed.topics)
    left: list[str] = []
    quiet_since = asyncio.get_running_loop().time()
    try:
        while asyncio.get_running_loop().time() - quiet_since < _QUIET:
            if incoming := await receiver.receive(500, 0.5):
                left += [one.coordinates for one in incoming]
                quiet_since = asyncio.get_running_loop().time()
                await receiver.acknowledge(incoming)
    finally:
        await receiver.close()
    return left
