"""What has to be true at the end, whatever happened to the workers."""

from __future__ import annotations

from typing import Any

from tests.consume.shop import shop
from tests.consume.waiting import until_equal
from tests.consume.world import World
from tests.workers.processes import Worker
from tidings import Contract, Service

__all__ = ["each_once_and_in_order", "owner", "progress", "publisher", "reader_among"]

SECONDS = 120.0


def publisher(world: World, contract: Contract = shop, name: str = "shop") -> Service:
    """A service that runs nothing here: this process only publishes."""
    return Service(name, contracts=[contract], store=world.store)


async def each_once_and_in_order(world: World, expected: list[Any], subscription: str = "charge") -> None:
    """Wait until every event has left its effect; then none has left two, and each key's are in the order of publishing."""
    numbers = sorted(event.number for event in expected)
    await until_equal(lambda: sorted({value for _, value in world.effects(subscription)}), numbers, SECONDS)
    of_key: dict[str, list[int]] = {}
    for event in expected:
        of_key.setdefault(event.order_id, []).append(event.number)
    found: dict[str, list[int]] = {key: [] for key in of_key}
    for key, value in world.effects(subscription):
        found[key].append(value)
    assert found == of_key


def owner(world: World, reader: str = "shop/shop@log") -> str | None:
    """Which worker holds a lease now, by the database's clock; None if nobody does."""
    now = "clock_timestamp()" if world.kind == "postgresql" else "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
    rows = world.rows(f"select owner from tidings_checkpoints where reader = :reader and lease_until > {now}", reader=reader)
    return rows[0][0] if rows else None


def progress(world: World, reader: str = "shop/shop@log") -> tuple[int, int]:
    """How far a reader's checkpoint has come, as something that may only grow."""
    (row,) = world.rows("select previous::text, high from tidings_checkpoints where reader = :reader", reader=reader)
    return int(row[0].split(":")[1]), row[1]


async def reader_among(world: World, workers: list[Worker], reader: str = "shop/shop@log") -> tuple[Worker, list[Worker]]:
    """Wait until one of these workers holds the lease; return it and the others."""
    pid = 0

    def found() -> bool:
        nonlocal pid
        rows = world.rows(
            "select w.pid from tidings_checkpoints c join tidings_workers w on cast(w.id as text) = c.owner where c.reader = :reader",
            reader=reader,
        )
        pid = rows[0][0] if rows and owner(world, reader) is not None else 0
        return any(worker.pid == pid for worker in workers)

    await until_equal(found, True, SECONDS)
    return next(w for w in workers if w.pid == pid), [w for w in workers if w.pid != pid]
