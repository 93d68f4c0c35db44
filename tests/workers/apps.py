"""Services that workers run. Each function is an application as one deploy has it; the words of `config` say what it does this time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.shop import MailWanted, OrderCancelled, OrderPlaced, shop
from tests.consume.world import effect
from tests.inbound.real import Ordered, paired
from tests.workers import newer as newer_events
from tests.workers.journal import Journal
from tests.workers.moments import once
from tidings import Breaker, Envelope, Limit, Rate, Retry, Service, Subscriptions, transports
from tidings.consume.retry import Reject
from tidings.service import Dead
from tidings.stores import SQLStore

__all__ = ["deadly", "inbound", "ledger", "limited", "newer", "orders", "relay"]


def orders(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """Charge orders, and send mails without a transaction.

    `pause_in` is the number of the order in whose handler the worker pauses, if `pause` says `in the handler`; `fail` are the numbers whose
    first attempt fails, `reject` those that are dead at once; `wait` is a number whose handler waits until the file `gate` exists.
    """
    handlers = Subscriptions()
    pause = once(journal, "in the handler", Path(config["when"]) if "when" in config else None)

    def is_open() -> bool:
        return os.path.exists(config["gate"])

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.05, jitter=0), timeout=None)
    async def charge(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
        journal.say("charging", number=event.number, attempt=envelope.attempt)
        await effect(session, "charge", event)
        if config.get("pause") == "in the handler" and event.number == config["pause_in"] and envelope.attempt == config.get("attempt", 1):
            pause()
        if event.number == config.get("wait"):
            while not is_open():
                await asyncio.sleep(0.01)
        if event.number in config.get("reject", ()):
            raise Reject("not this one")
        if event.number in config.get("fail", ()) and envelope.attempt == 1:
            raise ValueError("not at the first attempt")

    @handlers.subscribe(OrderCancelled)
    async def cancel(event: OrderCancelled, session: AsyncSession) -> None:
        await effect(session, "cancel", event)

    @handlers.subscribe(MailWanted)
    async def send(event: MailWanted) -> None:
        journal.say("sending", number=event.number)
        if config.get("pause") == "in a plain handler" and event.number == config["pause_in"]:
            pause()

    return Service(config.get("service", "shop"), contracts=[shop], subscriptions=[handlers], store=store)


def deadly(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """A shop one of whose events ends the process that handles it.

    `kind` of handler: `transaction`, `plain` or `batch`; `kill` are the numbers that do, by `signal` or, without, by `os._exit`; from attempt
    `since` on (in batches always). `fail` are numbers whose first attempt fails. `takes` is how many seconds each event takes.
    """
    handlers = Subscriptions()
    options: dict[str, Any] = {"retry": Retry(attempts=config.get("attempts", 4), base=0.05, jitter=0), "name": "charge"}

    async def charge(number: int, attempt: int) -> None:
        await asyncio.sleep(config.get("takes", 0.01))
        if number in config.get("kill", ()) and attempt >= config.get("since", 1):
            journal.say("dying", number=number, attempt=attempt)
            if "signal" in config:
                os.kill(os.getpid(), config["signal"])
            os._exit(1)
        if number in config.get("fail", ()) and attempt == 1:
            raise ValueError("not at the first attempt")

    if config["kind"] == "transaction":

        @handlers.subscribe(OrderPlaced, **options)
        async def one(event: OrderPlaced, session: AsyncSession, envelope: Envelope) -> None:
            await effect(session, "charge", event)
            await charge(event.number, envelope.attempt)

    elif config["kind"] == "batch":

        @handlers.subscribe(OrderPlaced, batch=10, **options)
        async def many(events: list[OrderPlaced], session: AsyncSession) -> None:
            for event in events:
                await effect(session, "charge", event)
                await charge(event.number, 1)

    else:

        @handlers.subscribe(OrderPlaced, **options)
        async def plain(event: OrderPlaced, envelope: Envelope) -> None:
            await charge(event.number, envelope.attempt)
            journal.say("called", number=event.number, key=event.order_id)

    service = Service("shop", contracts=[shop], subscriptions=[handlers], store=store)

    @service.on_dead
    def died(dead: Dead) -> None:
        journal.say("dead", key=dead.key, attempts=dead.retry_count, error=type(dead.exception).__name__)

    return service


def limited(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """Calls that say when they begin and end. Each event fails at its first attempt, so that any worker may try it again.

    `concurrency` of the subscription, `rate` as events a second, `burst` of it, and `total` concurrency of the service.
    """
    handlers = Subscriptions()
    options: dict[str, Any] = {"concurrency": config["concurrency"]} if "concurrency" in config else {}
    if "rate" in config:
        options["rate"] = Rate(config["rate"], burst=config["burst"])

    @handlers.subscribe(OrderPlaced, retry=Retry(base=0.02, max=0.1, attempts=50), breaker=Breaker.off(), **options)
    async def call(event: OrderPlaced, envelope: Envelope) -> None:
        journal.say("begin", number=event.number, attempt=envelope.attempt)
        await asyncio.sleep(config.get("takes", 0.03))
        journal.say("end", number=event.number)
        if envelope.attempt == 1:
            raise ValueError("not at the first attempt")

    @handlers.subscribe(OrderPlaced, group="elsewhere")
    async def other(event: OrderPlaced) -> None:
        if "total" in config:
            journal.say("begin", number=event.number, attempt=2)
            await asyncio.sleep(config.get("takes", 0.03))
            journal.say("end", number=event.number)

    limit = Limit(concurrency=config["total"]) if "total" in config else None
    return Service("shop", contracts=[shop], subscriptions=[handlers], store=store, limit=limit)


def ledger(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """Another service on the same tables, with a subscription of the same name."""
    handlers = Subscriptions()

    @handlers.subscribe(OrderPlaced, name="charge")
    async def book(event: OrderPlaced, session: AsyncSession) -> None:
        await effect(session, "book", event)

    return Service("ledger", contracts=[shop], subscriptions=[handlers], store=store)


def newer(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """The shop one deploy after `orders`: it knows version 2 of an order, and ships.

    `without` are the names of subscriptions that this deploy has dropped; `renamed` is a new name for `charge`.
    """
    handlers = Subscriptions()
    options: dict[str, Any] = {"name": config["renamed"], "renamed_from": "charge"} if "renamed" in config else {}

    @handlers.subscribe(newer_events.OrderPlaced, **options)
    async def charge(event: newer_events.OrderPlaced, session: AsyncSession) -> None:
        journal.say("charging", number=event.number, currency=event.currency)
        await effect(session, "charge", event)

    if "cancel" not in config.get("without", ()):

        @handlers.subscribe(newer_events.OrderCancelled)
        async def cancel(event: newer_events.OrderCancelled, session: AsyncSession) -> None:
            await effect(session, "cancel", event)

    @handlers.subscribe(newer_events.OrderShipped)
    async def ship(event: newer_events.OrderShipped, session: AsyncSession) -> None:
        journal.say("shipping", number=event.number)
        await effect(session, "ship", event)

    @handlers.subscribe(newer_events.MailWanted)
    async def send(event: newer_events.MailWanted) -> None:
        journal.say("sending", number=event.number)

    return Service("shop", contracts=[newer_events.shop], subscriptions=[handlers], store=store)


def inbound(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """Billing, which charges what comes from the broker at `broker`; `mine` is what the test's topics and services end with.

    `pause_in` is the number of the item in whose handler the worker pauses, and `kill` those that end the process.
    """
    handlers = Subscriptions()
    pause = once(journal, "in the handler", None)

    @handlers.subscribe(Ordered, retry=Retry(attempts=4, base=0.05, jitter=0), timeout=None)
    async def charge(event: Ordered, session: AsyncSession) -> None:
        journal.say("charging", number=event.number)
        await effect(session, "charge", event)
        if event.number == config.get("pause_in"):
            pause()
        if event.number in config.get("kill", ()):
            os._exit(1)

    made = getattr(transports, config["transport"])(config["broker"], **config.get("options", {}))
    mine = config["mine"]
    return Service(
        f"billing-{mine}", contracts=[paired], subscriptions=[handlers], store=store, transport=made, environment=mine
    )  # fmt: skip


def relay(store: SQLStore, journal: Journal, config: dict[str, Any]) -> Service:
    """A shop without handlers that relays to the broker at `broker`: `transport` is the name of its class, `options` are more of it."""
    made = getattr(transports, config["transport"])(config["broker"], **config.get("options", {}))
    return Service("shop", contracts=[shop], store=store, transport=made)
