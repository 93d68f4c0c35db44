"""A user's application, as tests of it would find it: contracts, tables, handlers and a service whose database cannot be reached."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tidings import Contract, Envelope, Publish, Retry, Service, Subscriptions
from tidings.stores import SQLStore

__all__ = ["Base", "Bill", "Mailer", "OrderBilled", "OrderCancelled", "OrderPlaced", "Parcel", "ReminderDue", "Shop", "orders"]

orders = Contract("orders")


@orders.event("order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    total: int = 0


@orders.event("order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str
    total: int = 0


@orders.event("order.cancelled", key="order_id")
@dataclass(frozen=True)
class OrderCancelled:
    order_id: str


@orders.event("reminder.due", key="order_id")
@dataclass(frozen=True)
class ReminderDue:
    order_id: str


class Base(DeclarativeBase):
    pass


class Bill(Base):
    __tablename__ = "bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]
    total: Mapped[int]


class Parcel(Base):
    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[str]


class Mailer:
    """Sends mails; what a test replaces."""

    async def send(self, address: str, text: str) -> None:
        raise RuntimeError("there is no mail server")


@dataclass
class Shop:
    """One service with its handlers, and what is wrong with them.

    Attributes:
        failing: how often a handler fails for an order, by its name and the order.
        mails: what was sent, in order.
    """

    failing: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: dict[str, Exception] = field(default_factory=dict)
    calls: list[tuple[str, str, int]] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    dead: list[Any] = field(default_factory=list)

    def trouble(self, name: str, event: Any, envelope: Envelope) -> None:
        self.calls.append((name, event.order_id, envelope.attempt))
        if self.failing[name, event.order_id] > 0:
            self.failing[name, event.order_id] -= 1
            raise self.errors.get(name) or RuntimeError(f"no luck with {event.order_id}")

    def service(self, store: SQLStore | None = None, **options: Any) -> Service:
        store = store or SQLStore(create_async_engine("postgresql+asyncpg://nobody@nowhere.invalid/shop"))
        service = Service("shop", contracts=[orders], subscriptions=[self.handlers()], store=store, **options)
        service.provide(Mailer, Mailer())
        service.on_dead(self.dead.append)
        return service

    def handlers(self) -> Subscriptions:
        handlers = Subscriptions()

        @handlers.subscribe(OrderPlaced, retry=Retry(attempts=4, base=1, factor=2))
        async def bill(event: OrderPlaced, session: AsyncSession, publish: Publish, envelope: Envelope) -> None:
            self.trouble("bill", event, envelope)
            session.add(Bill(order_id=event.order_id, total=event.total))
            publish(OrderBilled(event.order_id, event.total))

        @handlers.subscribe(OrderPlaced)
        def pack(event: OrderPlaced, session: Session, envelope: Envelope) -> None:
            self.trouble("pack", event, envelope)
            session.add(Parcel(order_id=event.order_id))

        @handlers.subscribe(OrderBilled, retry=Retry(attempts=2, base=10))
        async def mail(event: OrderBilled, envelope: Envelope) -> None:
            self.trouble("mail", event, envelope)
            self.mails.append(event.order_id)

        @handlers.subscribe(OrderCancelled)
        async def remind(event: OrderCancelled, publish: Publish) -> None:
            publish(ReminderDue(event.order_id), delay=timedelta(hours=1))

        @handlers.subscribe(ReminderDue, group="reminders", on_dead="continue", retry=Retry(attempts=1))
        async def write(event: ReminderDue, mailer: Mailer) -> None:
            await mailer.send(f"{event.order_id}@example.com", "do you want it after all?")

        return handlers
