"""The handlers that are measured: one for each kind of thing that a handler may ask for."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from benchmarks.raw_loop import INSERT_EFFECTS
from benchmarks.workload import INSERT_EFFECT, Effect, OrderCreated, OrderPlaced, effects
from tidings import Subscriptions

__all__ = ["Calls", "Declare", "batch", "connection", "driver", "one_session", "orm", "plain", "plain_unkeyed", "session"]


class Calls:
    """Events that a handler was called with, where it counts them: plain ones leave nothing in the database."""

    def __init__(self) -> None:
        self.count = 0


#: Declares the handler of one variant.
Declare = Callable[[Subscriptions, Calls], None]


def driver(handlers: Subscriptions, calls: Calls) -> None:
    """asyncpg: one INSERT an event."""

    @handlers.subscribe(OrderPlaced, name="effect")
    async def effect(event: OrderPlaced, connection: asyncpg.Connection) -> None:
        await connection.execute(INSERT_EFFECT, event.order_id)
        calls.count += 1


def connection(handlers: Subscriptions, calls: Calls) -> None:
    """AsyncConnection: one INSERT an event."""

    @handlers.subscribe(OrderPlaced, name="effect")
    async def effect(event: OrderPlaced, connection: AsyncConnection) -> None:
        await connection.execute(effects.insert(), {"event_id": event.order_id})


def session(handlers: Subscriptions, calls: Calls) -> None:
    """AsyncSession for each event: one INSERT an event."""

    @handlers.subscribe(OrderPlaced, name="effect")
    async def effect(event: OrderPlaced, session: AsyncSession) -> None:
        await session.execute(effects.insert(), {"event_id": event.order_id})
        calls.count += 1


def orm(handlers: Subscriptions, calls: Calls) -> None:
    """AsyncSession for each event with an object that is flushed."""

    @handlers.subscribe(OrderPlaced, name="effect")
    async def effect(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(event_id=event.order_id))


def one_session(handlers: Subscriptions, calls: Calls) -> None:
    """AsyncSession for each transaction with an object an event; one flush."""

    @handlers.subscribe(OrderPlaced, name="effect", session_per="transaction")
    async def effect(event: OrderPlaced, session: AsyncSession) -> None:
        session.add(Effect(event_id=event.order_id))


def batch(size: int) -> Declare:
    """asyncpg: one INSERT for all events of a call."""

    def declare(handlers: Subscriptions, calls: Calls) -> None:
        @handlers.subscribe(OrderPlaced, name="effect", batch=size)
        async def effect(events: list[OrderPlaced], connection: asyncpg.Connection) -> None:
            await connection.execute(INSERT_EFFECTS, [event.order_id for event in events])
            calls.count += len(events)

    return declare


def plain(handlers: Subscriptions, calls: Calls) -> None:
    """Nothing of the database; events with a key."""

    @handlers.subscribe(OrderPlaced, name="effect")
    async def effect(event: OrderPlaced) -> None:
        calls.count += 1


def plain_unkeyed(handlers: Subscriptions, calls: Calls) -> None:
    """Nothing of the database; events without a key."""

    @handlers.subscribe(OrderCreated, name="effect")
    async def effect(event: OrderCreated) -> None:
        calls.count += 1
