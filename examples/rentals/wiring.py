"""The service: the only module that knows all the others. It connects to nothing and starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from rentals import accounts, cashiers, equipment, orders
from rentals.accounts import EventsService
from rentals.accounts.index import Emails
from rentals.contracts import CONTRACTS
from rentals.filters import USER, stamp, timed
from rentals.kernel import Clock, Sessions, SystemClock
from rentals.orders import Board
from rentals.settings import Settings
from tidings import EnvironmentRouting, Service, Subscriptions
from tidings.domain import Audit, Idempotency, Logging, Transactional, Validation
from tidings.stores import SQLStore
from tidings.transports import Local

__all__ = ["create_service"]

#: Every handler there is. A list that can be read says more than a scan of packages.
MODULES = [*accounts.subscriptions, *equipment.subscriptions, *cashiers.subscriptions, *orders.subscriptions]


def create_service(settings: Settings, engine: AsyncEngine, sessions: Sessions, more: Sequence[Subscriptions] = ()) -> Service:
    """Put the service together.

    Args:
        more: further handlers, for tests.
    """
    service = Service(
        "rentals",
        contracts=CONTRACTS,
        subscriptions=[*MODULES, *more],
        store=SQLStore(engine),
        # The modules read the log, which takes no broker; other services get the events from the broker, if there is one.
        transport=[settings.transport(), Local()] if settings.broker else Local(),
        environment=settings.environment,
        route_by_environment=EnvironmentRouting(default="dev"),
        # The log is the history: handled events stay in it for so long.
        outbox_retention=timedelta(days=30),
        inbox_retention=timedelta(days=60),
        context=[USER],
        publish_filters=[stamp],
        handler_filters=[timed],
        # From the outside inward. An audit outside the transaction can write down what failed.
        behaviours=[Logging(), Audit(actor=USER.get), Transactional(), Idempotency(), Validation()],
    )
    service.attach(sessions)
    service.provide(Clock, SystemClock())
    service.provide(Emails, Emails)
    service.provide(Board, Board())

    def events_service(session: AsyncSession) -> EventsService:
        return EventsService(lambda aggregate: service.track(session, aggregate))

    service.provide(EventsService, events_service)
    return service
