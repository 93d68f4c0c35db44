"""Real brokers: how a test gets a transport to one, and what has arrived there, read by somebody who is no relay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from tests.consume.shop import OrderPlaced
from tidings import transports
from tidings.codecs.message import Message
from tidings.errors import TransportDown
from tidings.transports.base import Transport

__all__ = ["BROKERS", "arrivals", "group_of", "messages", "transport_to", "without_streams"]

#: The class of each transport, by the name of its service.
BROKERS = {"rabbitmq": "RabbitMQ", "nats": "NATS", "redis": "Redis", "kafka": "Kafka"}

TOPIC = "order.placed"


def transport_to(broker: str, url: str, **options: Any) -> Transport:
    """Return a transport that gives up soon."""
    more: dict[str, Any] = {"timeout": 5.0, **options}
    if broker == "kafka":
        more = {"partitions": 3, "session": 6.0, **more}
    made: Transport = getattr(transports, BROKERS[broker])(url, **more)
    return made


async def group_of(transport: Transport) -> str:
    """Make a group of the test's own, so that RabbitMQ has a queue for what comes."""
    group = f"test-{uuid4().hex[:12]}"
    await transport.provision([TOPIC], {group: [TOPIC]})
    return group


async def without_streams(broker: str, url: str) -> None:
    """Remove every stream of NATS: a subject is in one, and CAP calls that one otherwise."""
    if broker != "nats":
        return
    import nats

    client = await nats.connect(url)
    for stream in await client.jetstream().streams_info():
        if any(not subject.startswith("$") for subject in stream.config.subjects or ()):
            await client.jetstream().delete_stream(str(stream.config.name))
    await client.close()


@asynccontextmanager
async def _receiving(transport: Transport, group: str) -> Any:
    receiver = await transport.receiver(group, [TOPIC])
    try:
        yield receiver
    finally:
        await receiver.close()


async def arrivals(transport: Transport, group: str, wanted: Sequence[OrderPlaced], *, mine: str) -> list[tuple[str | None, int]]:
    """Read until all of these have arrived at least once; return what arrived of keys that begin with `mine`, each time that it did."""
    found: list[tuple[str | None, int]] = []
    missing = {(event.order_id, event.number) for event in wanted}
    seen: set[str] = set()
    quiet = 0
    while quiet < (12 if missing else 1):
        # Whoever reads may lose its connection, too; what it had not acknowledged comes again.
        with suppress(TransportDown):
            async with _receiving(transport, group) as receiver:
                while quiet < (12 if missing else 1):
                    incoming = await receiver.receive(500, 1.0)
                    quiet = 0 if incoming else quiet + 1
                    for one in incoming:
                        data = json.loads(one.message.body or b"")
                        if data.get("order_id", "").startswith(mine) and not (one.redelivered and one.coordinates in seen):
                            found.append((data["order_id"], data["number"]))
                        seen.add(one.coordinates)
                    missing.difference_update(found)
                    await receiver.acknowledge(incoming)
    assert not missing, f"{len(missing)} events have not arrived, for example {sorted(missing)[:3]}"
    return found


async def messages(transport: Transport, group: str, mine: str) -> list[Message]:
    """Read until a message has arrived whose body has this word; return those of that read that have."""
    async with _receiving(transport, group) as receiver, asyncio.timeout(40):
        while True:
            incoming = await receiver.receive(500, 1.0)
            await receiver.acknowledge(incoming)
            if found := [one.message for one in incoming if mine.encode() in (one.message.body or b"")]:
                return found
