"""Alerts, health and metrics: callbacks take what they are told, decorators leave them as they are."""

from __future__ import annotations

from datetime import timedelta

from tidings import Service
from tidings.observability import BacklogAlert, BreakerAlert, Health


def listen(service: Service) -> None:
    @service.on_backlog(age=timedelta(minutes=5))
    async def waiting(alert: BacklogAlert) -> None:
        print(alert.reader, alert.age.total_seconds(), alert.over)

    @service.on_breaker
    def breaker(alert: BreakerAlert) -> None:
        print(alert.subscription.upper(), alert.reason)

    @service.on_breaker  # E: it is told of a breaker, not of a backlog
    def mistaken(alert: BacklogAlert) -> None: ...

    breaker("text")  # E: it is still the function that it was
    service.on_backlog(age=300)  # E: an age is a timedelta


async def ask(service: Service) -> tuple[str, ...]:
    health: Health = await service.health(stalled=timedelta(seconds=30))
    health.ready = True  # E: a value does not change
    return health.reasons
