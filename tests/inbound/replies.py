"""A handler that answers, and where its answers go."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from tests.consume.world import effect
from tests.inbound.real import Ordered, paired, per_test
from tidings import Contract, Subscriptions

__all__ = ["Answered", "answering", "answers"]

answering_contract = Contract("answering", namer=per_test)
answers = [paired, answering_contract]


@answering_contract.event("item.answered")
@dataclass(frozen=True)
class Answered:
    order_id: str
    number: int = 0


def answering() -> Subscriptions:
    """Return a handler that leaves a trace and answers with the next number."""
    handlers = Subscriptions()

    @handlers.subscribe(Ordered)
    async def charge(event: Ordered, session: AsyncSession) -> Answered:
        await effect(session, "charge", event)
        return Answered(event.order_id, event.number + 1)

    return handlers
